"""Pictures decoded ahead in a few threads, so that the model does not wait for the disk.

Decoders (libjpeg, zlib, ...) release Python's global lock while they work, so threads are enough.

Shape letters: H, W height and width of a picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from comics.data.custody.facts import FileFacts
from comics.data.images import ImageError, read_image, read_image_size
from comics.runs.inputs import InputFile, file_fault
from comics.runs.outputs import TOO_LITTLE_MEMORY

AHEAD_PER_WORKER = 2  # pictures: one at work, one that waits to be taken
BYTES_AHEAD = 2**28  # of decoded pictures that wait; one picture may always be decoded
CHANNELS = 3

# What is to be found out of a file, from itself and from its picture, where it has one
Examine = Callable[[InputFile, np.ndarray | None], FileFacts | None]


class Decoded(NamedTuple):
    """A file, with its picture, [H, W, 3] uint8 RGB, or why there is none, and its facts."""

    file: InputFile
    image: np.ndarray | ImageError
    facts: FileFacts | None


def decode_ahead(
    files: Iterable[InputFile],
    max_pixels: int,
    workers: int,
    bytes_ahead: int = BYTES_AHEAD,
    examine: Examine = lambda file, image: None,
) -> Generator[Decoded, None, None]:
    """Each file with its picture, or with why there is none; in order.

    Memory is bounded: no further picture is begun while ``bytes_ahead`` of them, judged by their
    headers, or ``AHEAD_PER_WORKER`` per thread, wait.

    Args:
        files: pictures.
        max_pixels: larger ones are refused.
        workers: threads, 1 or more.
        bytes_ahead: see above.
        examine: called in the threads, so that what else is to be read of a file is read beside
            the model's work too.
    """

    def work(file: InputFile) -> Decoded:
        image = decode(file, max_pixels)
        return Decoded(file, image, examine(file, None if isinstance(image, ImageError) else image))

    waiting: deque[tuple[int, Future[Decoded]]] = deque()
    held = 0
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode-picture")
    try:
        for file in files:
            size = decoded_bytes(file, max_pixels)
            while waiting and (
                len(waiting) >= AHEAD_PER_WORKER * workers or held + size > bytes_ahead
            ):
                first_size, future = waiting.popleft()
                held -= first_size
                yield future.result()
            waiting.append((size, pool.submit(work, file)))
            held += size
        while waiting:
            _, future = waiting.popleft()
            yield future.result()
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
        return ImageError(file.path, f"{TOO_LITTLE_MEMORY} to decode it")


def decoded_bytes(file: InputFile, max_pixels: int) -> int:
    """What a picture takes in memory, from its header; 0 where that cannot be read."""
    if file_fault(file.path) is not None:
        return 0
    try:
        height, width = read_image_size(file.path, max_pixels)
    except ImageError:
        return 0
    return height * width * CHANNELS
