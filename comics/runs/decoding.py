"""Pictures decoded ahead in a few threads, so that the model does not wait for the disk.

Decoders (libjpeg, zlib, ...) release Python's global lock while they work, so threads are enough.

Shape letters: H, W height and width of a picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from comics.data.images import ImageError, read_image, read_image_size
from comics.runs.inputs import InputFile, file_fault

AHEAD_PER_WORKER = 2  # pictures: one at work, one that waits to be taken
BYTES_AHEAD = 2**28  # of decoded pictures that wait; one picture may always be decoded
CHANNELS = 3

Decoded = tuple[InputFile, np.ndarray | ImageError]


def decode_ahead(
    files: Iterable[InputFile],
    max_pixels: int,
    workers: int,
    bytes_ahead: int = BYTES_AHEAD,
) -> Generator[Decoded, None, None]:
    """Each file with its picture, [H, W, 3] uint8 RGB, or with why there is none; in order.

    Memory is bounded: no further picture is begun while ``bytes_ahead`` of them, judged by their
    headers, or ``AHEAD_PER_WORKER`` per thread, wait.

    Args:
        files: pictures.
        max_pixels: larger ones are refused.
        workers: threads, 1 or more.
        bytes_ahead: see above.
    """
    waiting: deque[tuple[InputFile, int, Future]] = deque()
    held = 0
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode-picture")
    try:
        for file in files:
            size = decoded_bytes(file, max_pixels)
            while waiting and (
                len(waiting) >= AHEAD_PER_WORKER * workers or held + size > bytes_ahead
            ):
                first, first_size, future = waiting.popleft()
                held -= first_size
                yield first, future.result()
            waiting.append((file, size, pool.submit(decode, file, max_pixels)))
            held += size
        while waiting:
            file, _, future = waiting.popleft()
            yield file, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def decode(file: InputFile, max_pixels: int) -> np.ndarray | ImageError:
    """A file's picture, or why there is none.

    The file is looked at once more: since it was found it may have become a pipe, which would be
    waited for without end.
    """
    fault = file_fault(file.path)
    if fault is not None:
        return ImageError(file.path, fault)
    try:
        return read_image(file.path, max_pixels)
    except ImageError as error:
        return error
    except MemoryError:
        return ImageError(file.path, "too little memory to decode it")


def decoded_bytes(file: InputFile, max_pixels: int) -> int:
    """What a picture takes in memory, from its header; 0 where that cannot be read."""
    if file_fault(file.path) is not None:
        return 0
    try:
        height, width = read_image_size(file.path, max_pixels)
    except ImageError:
        return 0
    return height * width * CHANNELS
