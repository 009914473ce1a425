"""Image networks as forgers: any ONNX network from image to image, or an encoder and a decoder.

What a network leaves in a face when it redraws it is the trace of today's generators: the decoder
of a latent diffusion model leaves the same one in a round trip as in a picture that it invents.

Networks come from strangers: they are opened by ONNX Runtime (data, no code of the file's maker),
tried once on a small picture, and refused by name if shape, type or values are not an image's.

Shape letters: n images; h, w their height and width, multiples of ``MULTIPLE``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from comics.files import file_sha256, write_bytes

MULTIPLE = 8  # of the sides that networks are given; the usual ones halve the picture three times
TRIAL_SIDE = 64  # pixels of the picture that a network is tried on
# Values of an image may overshoot its range by this share of it before they are clipped; beyond it
# the range is another one than was stated
OVERSHOOT = 0.5
INSTALL = "pip install 'comics-forensics[onnx]'"


class NetworkError(ValueError):
    """A network that cannot be used: ``path`` and ``reason``."""

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        super().__init__(os.fspath(path), reason)
        self.path, self.reason = os.fspath(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class FaceNetwork:
    """An image -> image network, or an encoder and a decoder; results may be kept on disk.

    Results are 8-bit pictures, so a result from the cache equals a computed one bit by bit.

    Args:
        files: one ONNX file (image to image), or two (encoder, decoder).
        value_range: what the network calls black and white, (0, 1) or (-1, 1) usually.
        cache: folder for results; None keeps none. May be shared by processes and networks.
        threads: of ONNX Runtime for one operation.

    Raises:
        NetworkError: for a file that is absent, no ONNX network, or not from image to image.
        ImportError: naming what to install, without ONNX Runtime.
        ValueError: for another number of files, or an empty range.
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike],
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
        cache: str | os.PathLike | None = None,
        threads: int = 1,
    ) -> None:
        if len(files) not in (1, 2):
            raise ValueError(f"one network, or encoder and decoder; got {len(files)} files")
        low, high = (float(value) for value in value_range)
        if not (np.isfinite((low, high)).all() and low < high):
            raise ValueError(f"value_range must be (black, white), got {value_range}")
        self.files = tuple(Path(file) for file in files)
        self.value_range, self.threads = (low, high), threads
        self.cache = None if cache is None else Path(cache)
        self.digests = tuple(_digest(file) for file in self.files)
        self._sessions: list | None = None
        self.fixed_size, self._batched = _image_input(self.files[0], self._opened()[0])
        self._try()

    @property
    def has_latent(self) -> bool:
        """Whether there are an encoder and a decoder, with a latent between them."""
        return len(self.files) == 2

    @property
    def arguments(self) -> dict:
        """What decides results, ready for JSON: names, SHA-256 and range."""
        return {
            "files": [file.name for file in self.files],
            "sha256": list(self.digests),
            "value_range": list(self.value_range),
        }

    def round_trip(self, images: np.ndarray) -> np.ndarray:
        """The images as the network draws them.

        Args:
            images: [n, h, w, 3] uint8 RGB; h and w multiples of ``MULTIPLE``, or ``fixed_size``.

        Returns:
            [n, h, w, 3] uint8 RGB.

        Raises:
            ValueError: for images of another kind.
            NetworkError: if the network fails on them, or returns NaN or another shape.
        """
        self._check(images)
        keys = [self._key("round_trip", image) for image in images]

        def compute(missing: list[int]) -> np.ndarray:
            return self._pixels(self._decode(self._encode(images[missing])), images.shape[1:3])

        return self._cached(keys, images.shape, compute)

    def mix(self, first: np.ndarray, second: np.ndarray, weights: Sequence[float]) -> np.ndarray:
        """Pictures of mixed latents: ``(1 - weight) * first + weight * second``.

        Args:
            first, second: [n, h, w, 3] uint8 RGB, aligned faces.
            weights: n numbers in [0, 1].

        Returns:
            [n, h, w, 3] uint8 RGB.

        Raises:
            ValueError: for images of another kind, or a network without a latent.
            NetworkError: as ``round_trip``.
        """
        if not self.has_latent:
            raise ValueError(
                f"{self.files[0]}: mixing needs an encoder and a decoder, this is one network"
            )
        self._check(first)
        if first.shape != second.shape or second.dtype != np.uint8 or len(weights) != len(first):
            raise ValueError(
                f"mix needs as many images and weights of one shape, got {first.shape}, "
                f"{second.shape} and {len(weights)}"
            )
        triples = zip(first, second, weights, strict=True)
        keys = [self._key(f"mix {float(w)!r}", a, b) for a, b, w in triples]

        def compute(missing: list[int]) -> np.ndarray:
            latents = self._encode(np.concatenate([first[missing], second[missing]]))
            one, two = latents[: len(missing)], latents[len(missing) :]
            share = np.array([weights[i] for i in missing], np.float32)
            share = share.reshape(-1, *[1] * (one.ndim - 1))
            return self._pixels(self._decode((1 - share) * one + share * two), first.shape[1:3])

        return self._cached(keys, first.shape, compute)

    def __getstate__(self) -> dict:
        """Sessions stay where they are; another process opens its own."""
        return self.__dict__ | {"_sessions": None}

    # -- running --------------------------------------------------------------------------------

    def _opened(self) -> list:
        if self._sessions is None:
            self._sessions = [open_network(file, self.threads) for file in self.files]
        return self._sessions

    def _encode(self, images: np.ndarray) -> np.ndarray:
        low, high = self.value_range
        values = images.transpose(0, 3, 1, 2).astype(np.float32) * ((high - low) / 255) + low
        return self._run(0, values.astype(np.float32))

    def _decode(self, values: np.ndarray) -> np.ndarray:
        return self._run(1, values.astype(np.float32)) if self.has_latent else values

    def _run(self, number: int, values: np.ndarray) -> np.ndarray:
        """One network on [n, ...] float32; one by one where it takes no batches."""
        file, session = self.files[number], self._opened()[number]
        name = session.get_inputs()[0].name
        parts = [values] if self._batched else [values[i : i + 1] for i in range(len(values))]
        try:
            result = np.concatenate([session.run(None, {name: part})[0] for part in parts])
        except Exception as error:  # ONNX Runtime's own exceptions share no base but this
            reason = f"fails on {list(values.shape)}: {_first_line(error)}"
            raise NetworkError(file, reason) from error
        if len(result) != len(values):
            reason = f"{list(values.shape)} became {list(result.shape)}, not one result each"
            raise NetworkError(file, reason)
        if not np.isfinite(result).all():
            raise NetworkError(file, f"returns NaN or infinity for {list(values.shape)}")
        return result

    def _pixels(self, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """[n, h, w, 3] uint8 of what the last network returned."""
        low, high = self.value_range
        if values.shape[1:] != (3, *size):
            reason = f"an image [3, {size[0]}, {size[1]}] became {list(values.shape[1:])}"
            raise NetworkError(self.files[-1], reason)
        grey = (values - low) * (255 / (high - low))
        return np.clip(np.rint(grey), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)

    def _try(self) -> None:
        """Draw a small picture of smooth colours: shape, finiteness and range.

        Raises:
            NetworkError: naming the file and what it returned.
        """
        height, width = self.fixed_size or (TRIAL_SIDE, TRIAL_SIDE)
        y, x = np.mgrid[:height, :width] / max(height, width)
        picture = np.rint(np.stack([40 + 170 * x, 40 + 170 * y, 210 - 170 * x], -1))
        values = self._decode(self._encode(picture.astype(np.uint8)[None]))
        self._pixels(values, (height, width))
        low, high = self.value_range
        slack = OVERSHOOT * (high - low)
        if values.min() < low - slack or values.max() > high + slack:
            found = f"values from {values.min():.3g} to {values.max():.3g}"
            raise NetworkError(self.files[-1], f"returns {found}, not {low:g} to {high:g}")

    def _check(self, images: np.ndarray) -> None:
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not images.size:
            raise ValueError(
                f"images must be uint8 [n, h, w, 3], got {images.dtype} {images.shape}"
            )
        size = images.shape[1:3]
        if self.fixed_size is not None and size != self.fixed_size:
            raise ValueError(f"{self.files[0]}: takes {self.fixed_size} pixels, got {size}")
        if self.fixed_size is None and (size[0] % MULTIPLE or size[1] % MULTIPLE):
            raise ValueError(f"sides must be multiples of {MULTIPLE}, got {size}")

    # -- the cache ------------------------------------------------------------------------------

    def _key(self, operation: str, *images: np.ndarray) -> str:
        hashed = hashlib.sha256(repr((self.arguments["sha256"], self.value_range)).encode())
        hashed.update(repr((operation, [image.shape for image in images])).encode())
        for image in images:
            hashed.update(np.ascontiguousarray(image).data)
        return hashed.hexdigest()

    def _cached(
        self, keys: list[str], shape: tuple[int, ...], compute: Callable[[list[int]], np.ndarray]
    ) -> np.ndarray:
        kept = [self._load(key, shape[1:]) for key in keys]
        found = {number: image for number, image in enumerate(kept) if image is not None}
        missing = [number for number in range(len(keys)) if number not in found]
        if missing:
            for number, image in zip(missing, compute(missing), strict=True):
                found[number] = image
                self._store(keys[number], image)
        return np.stack([found[number] for number in range(len(keys))])

    def _path(self, key: str) -> Path:
        assert self.cache is not None  # keys are made where there is a cache
        return self.cache / key[:2] / f"{key[2:]}.png"

    def _load(self, key: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """A result kept earlier; None if there is none, or its file is broken."""
        if self.cache is None:
            return None
        try:
            data = np.frombuffer(self._path(key).read_bytes(), np.uint8)
        except OSError:
            return None
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        if image is None or image.shape != shape:
            return None
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _store(self, key: str, image: np.ndarray) -> None:
        if self.cache is None:
            return
        path = self._path(key)
        done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if not done:
            raise ValueError(f"{path}: a result of shape {image.shape} could not be written")
        write_bytes(path, data.tobytes(), durable=False)


def open_network(path: Path, threads: int = 1) -> object:
    """An ONNX Runtime session on the CPU, with one input and at least one output.

    Raises:
        ImportError: naming what to install, without ONNX Runtime.
        NetworkError: for a file that is absent or no ONNX network.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"networks are run by ONNX Runtime, not installed here: {INSTALL}") from (
            error
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 4  # faults arrive as exceptions
    try:
        session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own exceptions share no base but this
        reason = f"not a usable ONNX network: {_first_line(error)}"
        raise NetworkError(path, reason) from error
    if len(session.get_inputs()) != 1:
        names = ", ".join(entry.name for entry in session.get_inputs())
        raise NetworkError(path, f"needs one input, has {names or 'none'}")
    return session


def _image_input(path: Path, session: Any) -> tuple[tuple[int, int] | None, bool]:
    """(h, w) that a network insists on, or None; and whether it takes batches.

    Raises:
        NetworkError: if its input is no RGB image [n, 3, h, w] of float32.
    """
    entry = session.get_inputs()[0]
    shape = list(entry.shape or [])
    if entry.type != "tensor(float)" or len(shape) != 4:
        raise NetworkError(path, f"input {entry.name} is {entry.type} {shape}, not float [n,3,h,w]")
    count, channels, height, width = shape
    if isinstance(channels, int) and channels != 3:
        raise NetworkError(path, f"input {entry.name} has {channels} channels, an image has 3")
    fixed = [side for side in (height, width) if isinstance(side, int)]
    if len(fixed) == 1:
        raise NetworkError(path, f"input {entry.name} {shape} fixes one side of the image alone")
    return (height, width) if fixed else None, not isinstance(count, int)


def _digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise NetworkError(path, error.strerror or str(error)) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
