"""From the clips of a data set to face crops and their manifest; what the preparers share.

A preparer (``datasets/prepare_*.py``) knows a layout: it finds clips and puts those that are
aligned frame by frame into one group: a real clip, the forgeries made from it, all compressions.
A group is worked on as one: the same frames of every clip, faces found in its first clip alone,
the same boxes cut out of all of them.

Shape letters: H, W frame; S side of a crop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from comics.data.face_tracks import Box, FaceTrack, track_faces
from comics.data.faces.crops import clip_box, crop_mask, crop_with_margin
from comics.data.faces.manifest_files import write_manifest
from comics.data.faces.samples import MASK_LEVEL
from comics.data.jobs import claim_folder, run_jobs
from comics.data.records import DatasetError
from comics.data.video_frames import (
    ClipError,
    count_frames,
    even_positions,
    random_positions,
    read_clip,
)
from comics.structures import CLASS_NAMES, FAKE, REAL

MANIFEST = "manifest.csv"
JPEG_QUALITY = 95
SAMPLINGS, BOX_KINDS, FORMATS = ("even", "random"), ("clip", "frame"), ("png", "jpg")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")

# Called with a clip's path below the root and its frames by position; None: the whole frames
BoxSource = Callable[[str, Mapping[int, np.ndarray]], Mapping[int, Sequence[Box]] | None]


@dataclass(frozen=True)
class Clip:
    """One clip of a data set; ``path`` is relative to the set's root, as ``read_clip`` takes it.

    ``video`` is the id that all compressions of it share; ``mask`` is a clip of forged regions.
    The other fields are columns of the manifest.
    """

    path: str
    video: str
    label: int
    method: str = ""
    source: str = ""
    target: str = ""
    compression: str = ""
    split: str = ""
    mask: str = ""


@dataclass(frozen=True)
class ClipGroup:
    """Clips that are aligned frame by frame; faces are looked for in the first readable one."""

    name: str
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class CropSettings:
    """What crops are made.

    Attributes:
        frames: per clip; sampled, never the first ones.
        sampling: "even", or "random" by ``seed`` and the group's name.
        seed: of random sampling.
        margin: on each side, as a share of the box's longer side.
        size: S of the pictures; 0 keeps the resolution of the video.
        box: "clip": one box per face and clip, the bounds of its boxes in the sampled frames;
            "frame": each frame's own box. Either is shared by all clips of a group.
        picture: "png" (lossless) or "jpg".

    Raises:
        ValueError: for a value out of range.
    """

    frames: int = 32
    sampling: str = "even"
    seed: int = 0
    margin: float = 0.15
    size: int = 0
    box: str = "clip"
    picture: str = "png"

    def __post_init__(self) -> None:
        for name, choices in (("sampling", SAMPLINGS), ("box", BOX_KINDS), ("picture", FORMATS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is one of {choices}, not {getattr(self, name)!r}")
        if self.frames < 1 or self.margin < 0 or self.size < 0:
            raise ValueError(f"frames >= 1, margin >= 0 and size >= 0 are needed: {self}")

    def positions(self, count: int, group: str) -> list[int]:
        """Which of ``count`` frames are taken."""
        if self.sampling == "even":
            return even_positions(count, self.frames)
        stream = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big")
        return random_positions(count, self.frames, np.random.default_rng((self.seed, stream)))


@dataclass
class PreparationReport:
    """What a run did: rows in the manifest, groups found finished, faults by group."""

    rows: int = 0
    reused: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)


def prepare(
    root: Path,
    output: Path,
    groups: Sequence[ClipGroup],
    settings: CropSettings,
    boxes: BoxSource | None = None,
    *,
    workers: int = 0,
    progress: str = "",
) -> PreparationReport:
    """Cut the faces of all groups and write ``output``/manifest.csv.

    Args:
        root: what clips' paths start from.
        output: folder for crops, masks, manifest; a run that was interrupted goes on there.
        boxes: finds faces; None: the whole frames are the crops. Sent to worker processes.
        workers: processes; 0 = this one.
        progress: label of a progress bar; "" for none.

    Raises:
        ValueError: if ``output`` was begun with other settings.
        DatasetError: if there is no clip, or no face in any.
    """
    if not groups:
        raise DatasetError(f"{root}: no clips found in the layout that is expected there")
    claim_folder(output, asdict(settings) | {"boxes": repr(boxes)})
    report = PreparationReport()
    rows: list[dict] = []
    work = FaceCutter(root, output, settings, boxes)
    jobs = [(f"{group.name} {_digest(group)}", group) for group in groups]
    for group, result in zip(
        groups, run_jobs(output, work, jobs, workers=workers, progress=progress), strict=True
    ):
        rows += result.value or []
        report.reused += result.reused
        report.faults += [(group.name, fault) for fault in result.faults]
    if not rows:
        shown = "; ".join(fault for _, fault in report.faults[:5])
        raise DatasetError(f"{root}: no face could be cut out of {len(groups)} groups: {shown}")
    report.rows = write_manifest(output / MANIFEST, rows)
    return report


@dataclass(frozen=True)
class FaceCutter:
    """The work on one group; see ``prepare``."""

    root: Path
    output: Path
    settings: CropSettings
    boxes: BoxSource | None

    def __call__(self, group: ClipGroup) -> tuple[list[dict], list[str]]:
        """Rows of the manifest, and the faults of clips that were skipped.

        Raises:
            ValueError: if no clip of the group can be used, or no face is found.
        """
        faults: list[str] = []
        counts = self._counts(group, faults)
        usable = [clip for clip in group.clips if clip in counts]
        if not usable:
            raise ValueError("; ".join(faults))
        reference = usable[0]
        positions = self.settings.positions(counts[reference], group.name)
        frames = self._frames(reference, positions)
        tracks = self._tracks(reference, frames)
        rows: list[dict] = []
        reals: dict[tuple, str] = {}
        for clip in sorted(
            usable, key=lambda clip: clip.label
        ):  # reals first: they are referred to
            try:
                fitting = [position for position in positions if position < counts[clip]]
                own = frames if clip is reference else self._frames(clip, fitting)
                self._check_size(clip, own, frames)
                rows += self._cut(clip, own, tracks, reals)
            except (ClipError, ValueError) as error:
                faults.append(str(error))
        if not rows:
            raise ValueError("; ".join(faults))
        return rows, faults

    def _counts(self, group: ClipGroup, faults: list[str]) -> dict[Clip, int]:
        counts = {}
        for clip in group.clips:
            try:
                counts[clip] = count_frames(self._located(clip.path))
            except ClipError as error:
                faults.append(str(error))
        return counts

    def _frames(self, clip: Clip, positions: Sequence[int]) -> dict[int, np.ndarray]:
        if not positions:
            raise ClipError(clip.path, "shorter than the first frame that is sampled")
        return read_clip(self._located(clip.path), lambda count: positions)

    def _tracks(self, clip: Clip, frames: Mapping[int, np.ndarray]) -> Sequence[FaceTrack | None]:
        found = None if self.boxes is None else self.boxes(clip.path, frames)
        if found is None:
            return [None]
        tracks = track_faces({position: found.get(position, ()) for position in frames})
        if not tracks:
            raise ValueError(f"{clip.path}: no face found")
        return tracks

    @staticmethod
    def _check_size(clip: Clip, own: Mapping, frames: Mapping) -> None:
        first, other = next(iter(frames.values())), next(iter(own.values()))
        if first.shape != other.shape:
            raise ClipError(
                clip.path,
                f"frames of {other.shape[1]}x{other.shape[0]}, its original has "
                f"{first.shape[1]}x{first.shape[0]}: not aligned",
            )

    def _cut(
        self, clip: Clip, frames: Mapping, tracks: Sequence[FaceTrack | None], reals: dict
    ) -> list[dict]:
        """Write the crops of a clip; ``reals`` maps (compression, track, position) to paths.

        A face of a forged clip in which no mask has a pixel is left out: it was not forged.
        """
        rows = []
        masks = self._masks(clip, list(frames))
        for number, track in enumerate(tracks):
            if masks and not self._is_forged(track, masks):
                continue
            video = clip.video if number == 0 else f"{clip.video}#{number}"
            for position, frame in frames.items():
                box = self._box(track, position)
                if track is not None and box is None:
                    continue
                stem = f"{clip.compression or 'video'}/{video}/{position:06d}"
                path = f"crops/{stem}.{self.settings.picture}"
                self._write(path, self._crop(frame, box))
                key = (clip.compression, number, position)
                if clip.label == REAL:
                    reals[key] = path
                row = self._row(clip, video, position, path)
                row["paired_real"] = reals.get(key, "") if clip.label == FAKE else ""
                if position in masks:
                    row["mask"] = f"masks/{stem}.png"
                    self._write(row["mask"], self._crop_mask(masks[position], box))
                rows.append(row)
        return rows

    def _masks(self, clip: Clip, positions: list[int]) -> dict[int, np.ndarray]:
        """Forged regions [H, W] bool; a clip of masks that cannot be used counts as none."""
        if not clip.mask:
            return {}
        try:
            frames = read_clip(self._located(clip.mask), lambda n: [p for p in positions if p < n])
        except ClipError:
            return {}
        return {position: frame.mean(axis=2) > MASK_LEVEL for position, frame in frames.items()}

    def _is_forged(self, track: FaceTrack | None, masks: Mapping[int, np.ndarray]) -> bool:
        boxes = {position: self._box(track, position) for position in masks}
        shown = [p for p, box in boxes.items() if track is None or box is not None]
        return any(self._crop_mask(masks[p], boxes[p]).any() for p in shown)

    def _box(self, track: FaceTrack | None, position: int) -> Box | None:
        if track is None:
            return None
        if self.settings.box == "clip":
            return clip_box(list(track.boxes.values()))
        return track.boxes.get(position)

    def _crop(self, frame: np.ndarray, box: Box | None) -> np.ndarray:
        if box is None and not self.settings.size:
            return frame
        return crop_with_margin(frame, box, self.settings.margin, self.settings.size)

    def _crop_mask(self, mask: np.ndarray, box: Box | None) -> np.ndarray:
        if box is not None or self.settings.size:
            mask = crop_mask(mask, box, self.settings.margin, self.settings.size)
        return np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255

    def _row(self, clip: Clip, video: str, position: int, path: str) -> dict:
        return {
            "path": path,
            "video": video,
            "frame": position,
            "label": CLASS_NAMES[clip.label].lower(),
            "method": clip.method,
            "source": clip.source,
            "target": clip.target,
            "compression": clip.compression,
            "split": clip.split,
        }

    def _located(self, path: str) -> str:
        return str(self.root / path)

    def _write(self, path: str, image: np.ndarray) -> None:
        target = self.output / path
        target.parent.mkdir(parents=True, exist_ok=True)
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if target.suffix == ".jpg" else []
        done, data = cv2.imencode(target.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        if not done:
            raise ValueError(f"{path}: could not be encoded")
        target.write_bytes(data.tobytes())


def hold_out(groups: Iterable[ClipGroup], share: float) -> list[ClipGroup]:
    """Move this share of the training groups to the split "val", by a hash of who is in them.

    Groups of one target identity (or, where it is unknown, of one name) stay together.
    """

    def held_out(clip: Clip, group: ClipGroup) -> bool:
        person = clip.target or group.name
        number = int.from_bytes(hashlib.sha256(person.encode()).digest()[:8], "big")
        return clip.split == "train" and number / 2**64 < share

    return [
        replace(
            group,
            clips=tuple(
                replace(clip, split="val") if held_out(clip, group) else clip
                for clip in group.clips
            ),
        )
        for group in groups
    ]


def videos_in(folder: Path) -> list[Path]:
    """Video files directly in a folder, sorted; none if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)


def _digest(group: ClipGroup) -> str:
    return hashlib.sha256(repr(group).encode("utf-8", "surrogateescape")).hexdigest()[:12]
