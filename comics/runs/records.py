"""The record of a run: what it knows of its inputs, from which every output is made.

Each picture or analysed frame is turned into JSON once, as an ``ImageRecord``; results.json takes
those texts as they are, and the tables, the report and the server read them once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from comics.inference.heat_grids import HeatGrid
from comics.runs.outputs import (
    SCHEMA_VERSION,
    FileStatus,
    categories,
    faces_to_entries,
    file_entry,
    image_entry,
    summarise,
)
from comics.structures import Faces

SEPARATOR = "\t"  # of the texts of a line: JSON of ASCII holds none


@dataclass(frozen=True)
class ImageRecord:
    """A picture or analysed frame, with its faces, as JSON texts.

    Attributes:
        image_text: the entry of ``images``, without its id.
        face_texts: the entries of ``results``, without their image_id, in the order of the faces.
        thumbnails_text: null, or [data URI of the whole picture, [data URI of each face]].
    """

    image_text: str
    face_texts: tuple[str, ...]
    thumbnails_text: str = "null"

    @classmethod
    def of(
        cls,
        file_name: str,
        faces: Faces,
        frame: int | None = None,
        time_s: float | None = None,
        track_ids: Sequence[int] | None = None,
        crops: Sequence[str] | None = None,
        thumbnails: tuple[str, Sequence[str]] | None = None,
        stability: Sequence[Mapping[str, float | None]] | None = None,
        heat_maps: Sequence[HeatGrid] | None = None,
    ) -> ImageRecord:
        """Of verdicts.

        Args:
            file_name: of the input file.
            faces: verdicts on the picture or frame.
            frame, time_s: of a video, the frame's index and its time in seconds.
            track_ids, crops, stability, heat_maps: of each face, see ``faces_to_entries``.
            thumbnails: data URIs of the picture and of each face, nothing drawn on them.

        Raises:
            ValueError: for numbers that are not finite.
        """
        found = faces_to_entries(faces, file_name, track_ids, crops, stability, heat_maps)
        return cls(
            json.dumps(image_entry(file_name, faces, frame, time_s), allow_nan=False),
            tuple(json.dumps(entry, allow_nan=False) for entry in found),
            json.dumps(thumbnails),
        )

    @classmethod
    def from_line(cls, line: str) -> ImageRecord:
        """The reverse of ``to_line``."""
        thumbnails, image, *faces = line.rstrip("\n").split(SEPARATOR)
        return cls(image, tuple(faces), thumbnails)

    def to_line(self) -> str:
        """One line of text, with its end."""
        return SEPARATOR.join((self.thumbnails_text, self.image_text, *self.face_texts)) + "\n"

    @cached_property
    def image(self) -> dict[str, Any]:
        """The entry of the picture or frame."""
        return json.loads(self.image_text)

    @cached_property
    def faces(self) -> list[dict[str, Any]]:
        """The entries of its faces."""
        return [json.loads(text) for text in self.face_texts]

    @property
    def thumbnails(self) -> tuple[str, list[str]] | None:
        """Data URIs of the picture and of each face; None where none were made."""
        return json.loads(self.thumbnails_text)


@dataclass(frozen=True)
class FileRecord:
    """One input file: what became of it, and where its lines are.

    Attributes:
        status: see ``FileStatus``.
        path: of the file of lines; None of an input without any.
        start, end: the bytes of it that belong to this input.
    """

    status: FileStatus
    path: Path | None = None
    start: int = 0
    end: int = 0

    def images(self) -> Iterator[ImageRecord]:
        """Its pictures or frames, in order; one in memory at a time."""
        if self.path is None or self.start == self.end:
            return
        with open(self.path, "rb") as file:
            file.seek(self.start)
            while file.tell() < self.end:
                yield ImageRecord.from_line(file.readline().decode("ascii"))


@dataclass(frozen=True)
class RunRecord:
    """All that the outputs of a run are made from.

    Attributes:
        provenance: of the predictor.
        files: of each input, faults first, then in the order of the inputs.
        pending: inputs that are left for another time.
        passed_over: files that were no inputs.
        run: when it ran, and how: see ``comics.runs.history.RunHistory.told``.
    """

    provenance: Mapping[str, object]
    files: Sequence[FileRecord]
    pending: int = 0
    passed_over: int = 0
    run: Mapping[str, object] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, int | bool]:
        """The member of that name in results.json."""
        counts = summarise([file.status for file in self.files])
        return counts | {
            "complete": not self.pending,
            "pending": self.pending,
            "passed_over": self.passed_over,
        }


def results_document(record: RunRecord) -> dict[str, Any]:
    """What ``results.json`` holds, in memory: for runs over few inputs, such as a server's."""
    results: list[dict] = []
    images: list[dict] = []
    for file in record.files:
        for one in file.images():
            images.append({"id": len(images) + 1, **one.image})
            results += [{"image_id": len(images), **face} for face in one.faces]
    return {
        "schema_version": SCHEMA_VERSION,
        "provenance": dict(record.provenance),
        "run": dict(record.run),
        "categories": categories(),
        "results": results,
        "images": images,
        "files": [file_entry(file.status) for file in record.files],
        "summary": record.summary,
    }
