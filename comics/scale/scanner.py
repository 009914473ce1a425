"""Pictures and short videos to rows, by a class that any engine can call.

``FaceScanner`` loads the model once and then takes batch after batch::

    scanner = FaceScanner("model.safetensors")
    rows = scanner({"path": ["a.jpg", "s3://bucket/b.jpg"]})
    rows["verdict"], rows["face_rows"]

That is what Ray Data's ``map_batches`` and Spark's ``predict_batch_udf`` call (docs/scaling.md).
What it says of a file is what ``comics detect`` says: both go through ``comics.runs``.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from comics.inference.contract import FacePredictor
from comics.inference.default_weights import default_weights
from comics.inference.load import load_predictor
from comics.inference.verdict import VideoRule
from comics.runs.inputs import ExpandedInputs, InputFile, is_video
from comics.runs.options import RunOptions
from comics.runs.outputs import file_entry
from comics.runs.records import FileRecord
from comics.runs.run import run_inference
from comics.runs.video import VideoOptions
from comics.scale.storage import StorageError, fetch, locate
from comics.scale.tables import FILE_FIELDS, face_row, failed_row, file_row
from comics.scale.video_length import length_s

SUFFIX_CHARACTERS = 16  # of a fetched file's extension; longer ones are none
FACE_ROWS = "face_rows"


class Scanned(NamedTuple):
    """What was found in a file: its row and those of its faces.

    ``row`` is None of a video that is longer than it may be here; ``length_s`` is then how long.
    """

    row: dict[str, Any] | None
    faces: list[dict[str, Any]]
    length_s: float = 0.0


class FaceScanner:
    """Finds the faces of files and says which are forged.

    Args:
        weights: a model file, as ``comics detect --weights`` takes it; None: the default one.
        device: "auto", "cpu", "cuda", ...
        batch_size: pictures or frames that go through the model together.
        decoding_threads: pictures decoded at once.
        max_fps: analyse at most so many frames a second of a video.
        predictor: instead of ``weights``: forms the verdicts.
        options: further ones of ``comics.inference.load.load_predictor``.

    Raises:
        FileNotFoundError, ValueError: as ``load_predictor``.
    """

    def __init__(
        self,
        weights: str | None = None,
        device: str = "auto",
        *,
        batch_size: int = 4,
        decoding_threads: int = 2,
        max_fps: float | None = None,
        predictor: FacePredictor | None = None,
        **options: Any,
    ) -> None:
        loaded = predictor or load_predictor(default_weights(weights), device, **options)
        self.predictor = _Timed(loaded)
        self.batch_size, self.max_fps = batch_size, max_fps
        self._threads = decoding_threads

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """A row for each file of a batch, in its order.

        Args:
            batch: column "path": paths and addresses of files; or "bytes": their contents, with
                their names in "name".

        Returns:
            The columns of ``comics.scale.tables.FILE_FIELDS``, and ``face_rows``: of each file a
            list of rows, with the columns of ``FACE_FIELDS``.

        Raises:
            ValueError: for a batch without these columns.
        """
        with tempfile.TemporaryDirectory(prefix="comics-scan-") as folder:
            files, faults = _files_of(batch, Path(folder))
            scanned = dict(zip(files, self.scan(list(files.values())), strict=True))
        columns: dict[str, list[Any]] = {name: [] for name, _, _ in FILE_FIELDS}
        columns[FACE_ROWS] = []
        for position in range(len(files) + len(faults)):
            row = faults.get(position)
            faces: list[dict[str, Any]] = []
            if row is None:
                row, faces, _ = scanned[position]
                assert row is not None  # no length is too long here
            for name, value in row.items():
                columns[name].append(value)
            columns[FACE_ROWS].append(faces)
        return columns

    @property
    def provenance(self) -> dict[str, object]:
        """What says so: see ``Predictor.provenance``."""
        return self.predictor.provenance

    @property
    def video_options(self) -> VideoOptions:
        """How videos are gone through."""
        rule = getattr(self.predictor, "video_rule", None) or VideoRule()
        return VideoOptions(batch_size=self.batch_size, max_fps=self.max_fps, rule=rule)

    @property
    def model_seconds(self) -> float:
        """How long the model was at work so far."""
        return self.predictor.seconds

    def scan(
        self,
        files: Sequence[InputFile],
        max_length_s: float | None = None,
        alive: Callable[[], object] = lambda: None,
    ) -> list[Scanned]:
        """What is in each file of this machine; one that cannot be used has a row that says so.

        Args:
            files: pictures and videos.
            max_length_s: longer videos are not looked at, only measured; None: any are.
            alive: called now and then.

        Raises:
            OSError: if the disk for temporary files is full.
        """
        lengths = {file: _too_long(file, max_length_s) for file in files}
        short = [file for file in files if not lengths[file]]
        found: list[Scanned] = []
        if short:
            self._run(short, found, alive)
        rows = iter(found)
        return [
            Scanned(None, [], seconds) if seconds else next(rows) for seconds in lengths.values()
        ]

    def scan_items(
        self,
        items: Sequence[Mapping[str, str]],
        max_length_s: float | None,
        alive: Callable[[], object],
    ) -> list[dict[str, Any]]:
        """The same as JSON: of "path" and "name" to "row", "faces", "length_s"."""
        files = [input_file(item["path"], item["name"], n) for n, item in enumerate(items)]
        return [each._asdict() for each in self.scan(files, max_length_s, alive)]

    def _run(
        self, files: Sequence[InputFile], found: list[Scanned], alive: Callable[[], object]
    ) -> None:
        """Go through the files, as ``comics detect`` does; their rows are added to ``found``."""
        with tempfile.TemporaryDirectory(prefix="comics-rows-") as folder:
            run_inference(
                self.predictor,
                ExpandedInputs(files=list(files)),
                RunOptions(
                    output=Path(folder),
                    batch_size=self.batch_size,
                    write_media=False,
                    tracks=False,
                    decoding_threads=self._threads,
                    video=self.video_options,
                ),
                report=lambda line: None,
                stop=lambda: bool(alive() and False),
                write=lambda record: found.extend(rows_of(file) for file in record.files),
            )


class _Timed:
    """A predictor whose working time is measured."""

    def __init__(self, predictor: FacePredictor) -> None:
        self._predictor = predictor
        self.max_pixels = predictor.max_pixels
        self.seconds = 0.0

    def predict(self, images: Sequence[Any]) -> list[Any]:
        """See ``FacePredictor``."""
        start = time.perf_counter()
        try:
            return self._predictor.predict(images)
        finally:
            self.seconds += time.perf_counter() - start

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)


def input_file(path: str, name: str, number: int) -> InputFile:
    """A file of this machine, as runs take it.

    Args:
        path: where it lies.
        name: what results call it.
        number: that no other file beside it has.
    """
    relative = PurePath(f"{number}{_suffix(path)}")
    return InputFile(Path(path), relative, shard_name=str(number), shown=name)


def _suffix(name: str) -> str:
    """A file's extension, where it has one worth keeping."""
    suffix = PurePath(name).suffix
    return suffix if suffix.isascii() and len(suffix) <= SUFFIX_CHARACTERS else ""


def _files_of(
    batch: Mapping[str, Sequence[Any]], folder: Path
) -> tuple[dict[int, InputFile], dict[int, dict[str, Any]]]:
    """Files of this machine by position in the batch, and rows of what there is none of."""
    if "bytes" in batch and "name" in batch:
        files = {}
        for position, (content, name) in enumerate(zip(batch["bytes"], batch["name"], strict=True)):
            copy = folder / f"{position}{_suffix(str(name))}"
            copy.write_bytes(bytes(content))
            files[position] = input_file(str(copy), str(name), position)
        return files, {}
    if "path" not in batch:
        have = ", ".join(batch) or "none"
        raise ValueError(f"a batch has a column path, or bytes and name; this one has {have}")
    files, faults = {}, {}
    for position, text in enumerate(batch["path"]):
        try:
            location = locate(str(text))
            path = location.path
            if not location.is_local:
                path = os.fspath(folder / f"{position}{_suffix(location.path)}")
                fetch(location, path)
            files[position] = input_file(path, location.name, position)
        except (StorageError, ValueError) as error:
            faults[position] = failed_row(str(text), str(error))
    return files, faults


def _too_long(file: InputFile, max_length_s: float | None) -> float:
    """Seconds of a video that is longer than allowed; 0 of all else."""
    if max_length_s is None or not is_video(file.path):
        return 0.0
    seconds = length_s(file.path)
    return seconds if seconds > max_length_s else 0.0


def rows_of(file: FileRecord) -> Scanned:
    """The rows of a file, from the record that ``results.json`` is made from."""
    images, faces = [], []
    for number, one in enumerate(file.images()):
        image = one.image
        images.append(image)
        faces += [face_row(image, number, face) for face in one.faces]
    return Scanned(file_row(file_entry(file.status), images), faces)
