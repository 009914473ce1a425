"""What a job wrote, read back as the entries that ``results.json`` would hold.

Part by part, so memory does not grow with a job. A job that is under way can be read too: the parts
that are there are whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from comics.scale.job import count_files
from comics.scale.plan import FACES, FILES, JobFolder
from comics.scale.requirements import require
from comics.scale.storage import LOCAL, kind_of, locate, read_file
from comics.scale.tables import (
    SchemaError,
    decode,
    face_entry,
    faces_schema,
    files_schema,
    image_entry,
)

# The entry of a picture or frame, with those of its faces
Image = tuple[dict[str, Any], list[dict[str, Any]]]


class ScaleOutput:
    """The outputs of a job.

    Args:
        address: of their folder.

    Raises:
        MissingPackage: if pyarrow is not installed.
        StorageError: if the folder cannot be read.
        SchemaError: if it holds no part.
    """

    def __init__(self, address: str) -> None:
        require("pyarrow", f"{address}, of comics scale,")
        self.folder = JobFolder(address)
        self.parts = sorted(self.folder.done())
        if not self.parts:
            raise SchemaError(f"{address}: no files/part-*.parquet of comics scale")

    def files(self) -> Iterator[tuple[dict[str, Any], list[Image]]]:
        """Each file's entry, with its pictures or frames and their faces, in order.

        Raises:
            SchemaError: naming the part that is not of this schema, or whose rows do not fit.
            StorageError: if one cannot be read.
        """
        for number in self.parts:
            place = self.folder.part(FILES, number)
            files = decode(read_file(place), files_schema(), place.name)
            place = self.folder.part(FACES, number)
            faces = decode(read_file(place), faces_schema(), place.name).to_pylist()
            start = 0
            for batch in files.to_batches():
                for row in batch.to_pylist():
                    end = start
                    while end < len(faces) and faces[end]["file_name"] == row["file_name"]:
                        end += 1
                    yield _file(row, faces[start:end], place.name)
                    start = end
            if start < len(faces):
                name = faces[start]["file_name"]
                raise SchemaError(f"{place.name}: faces of {name}, which is not in this part")

    def summary(self) -> dict[str, Any]:
        """ "provenance", "summary" and "run", as in results.json; of a job that is under way as far
        as it is.
        """
        told = self.folder.summary()
        if told is not None:
            return told
        job = self.folder.job() or {}
        counts: dict[str, Any] = dict(count_files(self.folder))
        left = max(0, job.get("files", counts["files"]) - counts["files"])
        counts |= {"complete": False, "pending": left, "passed_over": job.get("passed_over", 0)}
        return {
            "provenance": job.get("provenance", {}),
            "run": job.get("run", {}),
            "summary": counts,
        }


def is_scale_output(address: str) -> bool:
    """Whether there are outputs of a job; of a folder without them, or none, it is not asked."""
    location = locate(address)
    if location.place == LOCAL:
        return os.path.isdir(os.path.join(location.path, FILES)) and not os.path.exists(
            os.path.join(location.path, "results.json")
        )
    require("pyarrow", address)
    return kind_of(location / FILES) == "folder"


def _file(
    row: Mapping[str, Any], faces: list[dict[str, Any]], name: str
) -> tuple[dict[str, Any], list[Image]]:
    try:
        entry = json.loads(row["entry"])
        images: list[Image] = [
            (image_entry(entry["file_name"], shape), []) for shape in row["images"] or ()
        ]
        for face in faces:
            images[face["image"]][1].append(face_entry(face))
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise SchemaError(f"{name}: rows of {row['file_name']} are unusable: {error!r}") from error
    return entry, images
