"""A job on disk: what there is to do, in numbered shards, and which of them are done.

``OUTPUT/`` holds::

    files/part-000000.parquet   a row for each file of shard 0     (comics.scale.tables)
    faces/part-000000.parquet   a row for each of their faces
    summary.json                once everything is done: counts, the model, when
    _comics/job.json            what the job is; written when the plan is whole
    _comics/plan/000000.parquet the files: a row group for each shard
    _comics/tries/000000.json   while a shard is worked on: which file ended how many processes
    _comics/long/000000.json    videos of a shard that are to be cut into clips
    _comics/clips.parquet       the clips, in shards; written when all long videos are known
    _comics/clips/000000.parquet what was found in a shard's clips

A shard is done when its ``files`` part is there: it is written last, and each part under its final
name at once. So whoever is killed when, a shard is either done or done again from its beginning,
under the same names: no row comes twice, none is lost. Shards are of the plan, not of the workers,
so parts do not depend on who did what.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comics.scale.listing import Item
from comics.scale.storage import (
    Location,
    StorageAbsent,
    delete,
    delete_folder,
    delete_leftovers,
    file_system,
    kind_of,
    locate,
    names_in,
    read_file,
    tried,
    write_file,
)
from comics.scale.tables import COMPRESSION, encode

FILES, FACES, SUMMARY = "files", "faces", "summary.json"
OWN = "_comics"  # what begins so is no data to Spark, Hive and the like
JOB_SCHEMA = "1"
SHARDS_PER_PLAN = 256  # row groups of a file of the plan
CLIPS_PER_SHARD = 4  # of one video; each shard fetches the video once
PARTS = (FILES, FACES, f"{OWN}/plan", f"{OWN}/tries", f"{OWN}/long", f"{OWN}/clips", OWN)
ITEM_TYPES = {"place": "string", "path": "binary", "name": "string", "size": "int64",
              "modified": "double"}  # fmt: skip
CLIP_TYPES = {**ITEM_TYPES, "video": "int64", "clip": "int64", "start_s": "double",
              "end_s": "double"}  # fmt: skip
PAYLOAD_TYPES = {"video": "int64", "clip": "int64", "payload": "string"}


class JobError(ValueError):
    """A folder that holds another job, or none that this version can read."""


@dataclass(frozen=True)
class Clip:
    """A part of a long video.

    Attributes:
        item: the video.
        video: its number among the long ones.
        clip: its number in the video.
        start_s, end_s: seconds; None: to the end.
    """

    item: Item
    video: int
    clip: int
    start_s: float
    end_s: float | None


class JobFolder:
    """The files of a job.

    Args:
        output: address of its folder.
    """

    def __init__(self, output: str) -> None:
        self.address = output
        self.root = locate(output)
        self._own = self.root / OWN

    # What the job is

    def check_writable(self) -> None:
        """Write and delete a file.

        Raises:
            StorageError: saying why that cannot be done.
        """
        probe = self._own / "probe"
        write_file(probe, b"may this be written?\n")
        delete(probe)

    def job(self) -> dict[str, Any] | None:
        """What ``job.json`` says; None where there is none.

        Raises:
            JobError: if it is not one of this version.
        """
        try:
            job = json.loads(read_file(self._own / "job.json"))
        except StorageAbsent:
            return None
        except ValueError as error:
            raise JobError(f"{self.root.name}: its job.json cannot be read: {error}") from error
        if not isinstance(job, dict) or job.get("schema") != JOB_SCHEMA:
            raise JobError(f"{self.root.name} holds a job of another version of this program")
        return job

    def write_job(self, job: Mapping[str, Any]) -> None:
        """Write ``job.json``: from here on the plan counts."""
        text = json.dumps({"schema": JOB_SCHEMA, **job}, indent=1)
        write_file(self._own / "job.json", text.encode("ascii"))

    def clear(self) -> None:
        """Delete the job with its outputs; job.json goes first."""
        for name in (f"{OWN}/job.json", SUMMARY):
            delete(self.root / name)
        for name in (FILES, FACES, OWN):
            delete_folder(self.root / name)

    # The plan

    def write_plan(self, items: Iterable[Item], shard_files: int) -> tuple[int, int]:
        """Write the plan as its items come; the numbers of files and of shards.

        Args:
            items: what is to be looked at.
            shard_files: of one shard.
        """
        count, shards = 0, 0
        file = _RowGroups(ITEM_TYPES)
        for chunk in _chunks(items, shard_files):
            file.add([item._asdict() for item in chunk])
            count += len(chunk)
            shards += 1
            if shards % SHARDS_PER_PLAN == 0:
                self._write_plan_file(shards, file)
                file = _RowGroups(ITEM_TYPES)
        if shards % SHARDS_PER_PLAN:
            self._write_plan_file(shards, file)
        return count, shards

    def items(self, shard: int) -> list[Item]:
        """The files of a shard."""
        number, group = divmod(shard, SHARDS_PER_PLAN)
        return [
            Item(**row) for row in _read_group(self._own / "plan" / f"{number:06}.parquet", group)
        ]

    def _write_plan_file(self, shards: int, file: _RowGroups) -> None:
        number = (shards - 1) // SHARDS_PER_PLAN
        write_file(self._own / "plan" / f"{number:06}.parquet", file.content())

    # Parts

    def done(self) -> set[int]:
        """Numbers of the shards that are done."""
        return _numbers(names_in(self.root / FILES))

    def is_done(self, shard: int) -> bool:
        """Whether one is."""
        return kind_of(self.part(FILES, shard)) == "file"

    def part(self, table: str, shard: int) -> Location:
        """A shard's file of a table."""
        return self.root / table / f"part-{shard:06}.parquet"

    def finish_shard(self, shard: int, files: bytes, faces: bytes) -> None:
        """Write a shard's rows; it is done then."""
        write_file(self.part(FACES, shard), faces)
        write_file(self.part(FILES, shard), files)

    # Tries

    def tries(self, stage: str, shard: int) -> dict[str, Any]:
        """What is known of earlier attempts at a shard of a stage; empty: nothing."""
        try:
            return json.loads(read_file(self._tries(stage, shard)))
        except (StorageAbsent, ValueError):
            return {}

    def write_tries(self, stage: str, shard: int, tries: Mapping[str, Any]) -> None:
        """Note how often which file ended a process."""
        write_file(self._tries(stage, shard), json.dumps(tries).encode("ascii"))

    def forget_tries(self, stage: str, shard: int) -> None:
        """Of a shard that is done."""
        delete(self._tries(stage, shard))

    def _tries(self, stage: str, shard: int) -> Location:
        return self._own / "tries" / f"{stage}-{shard:06}.json"

    # Long videos

    def write_long(self, shard: int, videos: Sequence[tuple[Item, float]]) -> None:
        """Note the videos of a shard that are to be cut, with their seconds."""
        told = [item._asdict() | {"path": os.fsdecode(item.path), "length_s": seconds}
                for item, seconds in videos]  # fmt: skip
        write_file(self._own / "long" / f"{shard:06}.json", json.dumps(told).encode("ascii"))

    def plan_clips(self, clip_s: float) -> int:
        """Cut the long videos of all shards; how many shards of clips there are.

        The first call writes the plan, later ones find it.
        """
        place = self._own / "clips.parquet"
        try:
            return _group_count(place)
        except StorageAbsent:
            pass
        videos = []
        for name in names_in(self._own / "long"):
            for told in json.loads(read_file(self._own / "long" / name)):
                seconds = told.pop("length_s")
                videos.append((Item(**told | {"path": os.fsencode(told["path"])}), seconds))
        file, count = _RowGroups(CLIP_TYPES), 0
        for number, (item, seconds) in enumerate(videos):
            for rows in _chunks(_clips_of(item, number, seconds, clip_s), CLIPS_PER_SHARD):
                file.add(rows)
                count += 1
        if count:
            write_file(place, file.content())
        return count

    def clips(self, shard: int) -> list[Clip]:
        """The clips of a shard of clips."""
        return [_clip(row) for row in _read_group(self._own / "clips.parquet", shard)]

    def clip_shards(self) -> list[tuple[Item, list[int]]]:
        """Of each long video, in order, its item and the shards that hold its clips."""
        videos: list[tuple[Item, list[int]]] = []
        for shard, rows in enumerate(_read_groups(self._own / "clips.parquet")):
            first = _clip(rows[0])
            if first.video == len(videos):
                videos.append((first.item, []))
            videos[-1][1].append(shard)
        return videos

    def done_clips(self) -> set[int]:
        """Numbers of the shards of clips that are done."""
        return _numbers(names_in(self._own / "clips"))

    def finish_clips(self, shard: int, payloads: Sequence[tuple[Clip, dict[str, Any]]]) -> None:
        """Write what was found in a shard's clips."""
        rows = [
            {"video": clip.video, "clip": clip.clip, "payload": json.dumps(payload)}
            for clip, payload in payloads
        ]
        content = encode(rows, _schema(PAYLOAD_TYPES))
        write_file(self._own / "clips" / f"part-{shard:06}.parquet", content)

    def clip_payloads(self, shards: Sequence[int]) -> Iterator[str]:
        """The payloads of a video, as JSON texts, in their order."""
        from pyarrow import BufferReader, parquet

        for shard in shards:
            content = read_file(self._own / "clips" / f"part-{shard:06}.parquet")
            for batch in parquet.ParquetFile(BufferReader(content)).iter_batches():
                yield from batch.column("payload").to_pylist()

    # The end

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        write_file(self.root / SUMMARY, (json.dumps(summary, indent=1) + "\n").encode("ascii"))

    def summary(self) -> dict[str, Any] | None:
        """What it says; None where there is none."""
        try:
            return json.loads(read_file(self.root / SUMMARY))
        except (StorageAbsent, ValueError):
            return None

    def delete_leftovers(self) -> None:
        """Delete what killed writers left half written."""
        for name in PARTS:
            delete_leftovers(self.root / name)


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _numbers(names: Iterable[str]) -> set[int]:
    return {
        int(name[5:-8])
        for name in names
        if name.startswith("part-") and name.endswith(".parquet") and name[5:-8].isdigit()
    }


def _schema(types: Mapping[str, str]) -> Any:
    import pyarrow

    makers = {"string": pyarrow.string, "binary": pyarrow.binary, "int64": pyarrow.int64,
              "double": pyarrow.float64}  # fmt: skip
    return pyarrow.schema([(name, makers[kind]()) for name, kind in types.items()])


class _RowGroups:
    """A Parquet file with a row group for each group of rows; what is added is held compressed."""

    def __init__(self, types: Mapping[str, str]) -> None:
        from pyarrow import parquet

        self._schema, self._sink = _schema(types), io.BytesIO()
        self._writer = parquet.ParquetWriter(self._sink, self._schema, compression=COMPRESSION)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a group."""
        import pyarrow

        self._writer.write_table(pyarrow.Table.from_pylist(list(rows), schema=self._schema))

    def content(self) -> bytes:
        """The file; nothing can be added then."""
        self._writer.close()
        return self._sink.getvalue()


def _clips_of(item: Item, video: int, seconds: float, clip_s: float) -> Iterator[dict[str, Any]]:
    """Rows of a video's clips; the last goes on to its end, whatever its header says."""
    count = max(1, math.ceil(seconds / clip_s))
    for clip in range(count):
        end_s = (clip + 1) * clip_s if clip + 1 < count else None
        place = {"video": video, "clip": clip, "start_s": clip * clip_s, "end_s": end_s}
        yield item._asdict() | place


def _clip(row: Mapping[str, Any]) -> Clip:
    members = ("video", "clip", "start_s", "end_s")
    item = Item(**{name: value for name, value in row.items() if name not in members})
    return Clip(item, **{name: row[name] for name in members})


def _read_group(place: Location, group: int) -> list[dict[str, Any]]:
    from pyarrow import parquet

    def read() -> list[dict[str, Any]]:
        with file_system(place.place).open_input_file(place.path) as stream:
            return parquet.ParquetFile(stream).read_row_group(group).to_pylist()

    return tried(place.name, "read", read)


def _read_groups(place: Location) -> list[list[dict[str, Any]]]:
    from pyarrow import parquet

    def read() -> list[list[dict[str, Any]]]:
        with file_system(place.place).open_input_file(place.path) as stream:
            file = parquet.ParquetFile(stream)
            groups = range(file.num_row_groups)
            return [file.read_row_group(group).to_pylist() for group in groups]

    return tried(place.name, "read", read)


def _group_count(place: Location) -> int:
    from pyarrow import parquet

    def read() -> int:
        with file_system(place.place).open_input_file(place.path) as stream:
            return parquet.ParquetFile(stream).num_row_groups

    return tried(place.name, "read", read)
