"""Where the photos of a generated set come from: drawn scenes, or annotated real photos.

A source plans jobs, one per image, and opens a job's photo: an image with real faces, ignore
regions, and a way to find donors. Jobs know nothing of forgery.

Shape letters: H, W image. Boxes in files are COCO's (x, y, width, height).
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from comics.data.coco_parser import is_safe_path
from comics.data.forgery import SourceFace, describe_face
from comics.data.forgery.warps import similarity_transform
from comics.data.images import read_image
from comics.data.json_files import read_json
from comics.data.synthetic import Scene, draw_portrait, draw_scene
from comics.files import file_sha256

SPLITS = ("train", "val", "test_dev", "test_challenge")
DEFAULT_RATIO = (0.7, 0.1, 0.1, 0.1)
SYNTHETIC_COUNTS = dict(zip(SPLITS, (600, 80, 80, 80), strict=True))
ASPECT = 0.75  # short over long side of a drawn scene
PORTRAIT_SHARE = 0.2  # of drawn scenes that stand upright
# A donor face is the fittest among so many drawn ones, from other photos
DONOR_CANDIDATES = 40
DONORS_OPENED = 3  # of the fittest in pose and size; the nearest in colour is taken
# Misfit of a face whose pose is unknown: a keypoint is off by this share of the face's side
UNKNOWN_POSE_MISFIT = 0.1
MIN_POSE_SIDE = 48  # pixels; smaller faces say little about how pose looks
SIZE_WEIGHT = 0.04  # misfit of a donor half or twice as large is about a third of that


@dataclass(frozen=True)
class Job:
    """One image to make: its split, its number in the split (from 1), its photo's key."""

    split: str
    number: int
    photo: str

    @property
    def file_name(self) -> str:
        """Path of the image relative to the output folder."""
        return f"images/{self.split}/{self.number:06d}.jpg"


@dataclass(frozen=True)
class Photo:
    """A photo before forging.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        faces: real faces in it.
        ignored: [K, 4] float64 (x0, y0, x1, y1) of regions that are neither face nor background.
        scene: what was drawn; None for a real photo.
    """

    image: np.ndarray
    faces: list[SourceFace]
    ignored: np.ndarray
    scene: Scene | None = None


class SyntheticSource:
    """Scenes drawn by ``comics.data.synthetic``; the long side is ``size`` pixels."""

    name = "synthetic"

    def __init__(self, size: int = 320) -> None:
        self.size = size
        self.arguments = {"size": size}

    def plan(self, counts: Mapping[str, int | None]) -> list[Job]:
        """Jobs for the wanted ``counts`` per split; None means the usual number."""
        return [
            Job(split, number, "synthetic")
            for split in SPLITS
            for number in range(1, _count(counts, split, SYNTHETIC_COUNTS[split]) + 1)
        ]

    def open(self, job: Job, rng: np.random.Generator) -> Photo:
        """Draw the scene of a job."""
        size = (round(self.size * ASPECT), self.size)
        scene = draw_scene(rng, size[::-1] if rng.random() < PORTRAIT_SHARE else size)
        faces = [
            describe_face(scene.image, face.box, keypoints=face.keypoints, mask=face.mask)
            for face in scene.faces
        ]
        return Photo(scene.image, faces, np.zeros((0, 4)), scene)

    def donor(
        self, job: Job, photo: Photo, index: int, rng: np.random.Generator
    ) -> SourceFace | None:
        """Draw a face that could replace face ``index`` of a scene."""
        assert photo.scene is not None  # as ``open`` draws it
        target = photo.scene.faces[index].person
        height = target.height * rng.uniform(0.7, 1.5)
        portrait = draw_portrait(rng, target, photo.scene.light, height)
        face = portrait.faces[0]
        return describe_face(portrait.image, face.box, keypoints=face.keypoints, mask=face.mask)


class PhotoSource:
    """Real photos of a COCO file; the framing ``bbox_uniform`` is used where given.

    ``size`` bounds the long side in pixels, 0 keeps photos as they are. A photo's split is fixed
    by a hash of its ``identity``, or of its file name where it has none: no identity and no photo
    is in two splits, whatever else the set holds.

    Raises:
        ValueError: if the file is not such a COCO file, a face in it is labelled forged, or none of
            its photos is beside it.
        FileNotFoundError: if it does not exist.
    """

    def __init__(
        self,
        path: Path,
        size: int = 0,
        ratio: Sequence[float] = DEFAULT_RATIO,
        keep: Callable[[Mapping[str, Sequence[dict]]], Collection[str]] | None = None,
    ) -> None:
        path = path / "annotations.json" if path.is_dir() else path
        if len(ratio) != len(SPLITS) or min(ratio) < 0 or sum(ratio) <= 0:
            raise ValueError(f"ratio must be {len(SPLITS)} shares of 0 or more, got {ratio}")
        self.name, self.folder, self.size = path.name, path.parent, size
        records, annotations = _read_coco(path)
        digest = file_sha256(path)
        self.arguments = {"size": size, "ratio": list(ratio), "annotations_sha256": digest}
        self.photos = {str(record["file_name"]): record for record in records}
        if len(self.photos) != len(records):
            raise ValueError(f"{path}: a file_name is listed twice")
        outside = next((name for name in self.photos if not is_safe_path(name)), None)
        if outside is not None:
            raise ValueError(f"{path}: file_name {outside!r} leaves the folder of the photos")
        if self.photos and not any((self.folder / name).is_file() for name in self.photos):
            raise ValueError(
                f"{path}: none of its {len(self.photos)} photos is below {self.folder}, where a "
                "file_name begins: the annotation file belongs beside them"
            )
        self.faces: dict[str, list[dict]] = defaultdict(list)
        names = {record["id"]: str(record["file_name"]) for record in records}
        for annotation in annotations:
            if annotation["image_id"] not in names:
                raise ValueError(
                    f"{path}: annotation {annotation.get('id')}: no image {annotation['image_id']}"
                )
            self.faces[names[annotation["image_id"]]].append(annotation)
        if keep is not None:
            kept = keep(self.faces)
            self.photos = {name: self.photos[name] for name in self.photos if name in kept}
            self.arguments["photos"] = len(self.photos)
        self.splits = {name: _split_of(record, ratio) for name, record in self.photos.items()}
        self.donors = self._donor_table()

    def plan(self, counts: Mapping[str, int | None]) -> list[Job]:
        """Jobs for the wanted ``counts`` per split; None takes every photo of the split.

        Raises:
            ValueError: if a split has fewer photos than wanted.
        """
        jobs = []
        for split in SPLITS:
            names = sorted((n for n, s in self.splits.items() if s == split), key=_hash)
            count = _count(counts, split, len(names))
            if count > len(names):
                raise ValueError(
                    f"{split}: {count} photos wanted, {len(names)} of {len(self.photos)} fall into "
                    f"it: lower --{split.replace('_', '-')}, or raise its share in --ratio"
                )
            # By another hash than that of the split and the order: theirs says what has an identity
            kept = set(sorted(names, key=lambda name: _hash(f"kept {name}"))[:count])
            names = [name for name in names if name in kept]
            jobs += [Job(split, number, name) for number, name in enumerate(names, 1)]
        return jobs

    def open(self, job: Job, rng: np.random.Generator) -> Photo:
        """Read a job's photo and describe its faces.

        Raises:
            ValueError: naming the file (and annotation) that cannot be used.
        """
        image, scale = self._read(job.photo)
        faces, ignored = [], []
        for annotation in self.faces[job.photo]:
            box = _box(annotation, job.photo) * scale
            if annotation.get("iscrowd", 0):
                ignored.append(box)
            else:
                faces.append(self._describe(image, annotation, box, scale, job.photo))
        return Photo(image, faces, np.array(ignored, np.float64).reshape(-1, 4))

    def donor(
        self, job: Job, photo: Photo, index: int, rng: np.random.Generator
    ) -> SourceFace | None:
        """A face for face ``index`` of the job's photo: near in pose, size and colour.

        From other photos of the same split, so that no identity reaches another split; None
        where the split has no other photo with a face.
        """
        candidates = [face for face in self.donors[job.split] if face[0] != job.photo]
        if not candidates:
            return None
        faces = [a for a in self.faces[job.photo] if not a.get("iscrowd", 0)]
        drawn = rng.integers(0, len(candidates), DONOR_CANDIDATES)
        misfits = [_misfit(candidates[i][1], faces[index]) for i in drawn]
        fitting = []
        for position in np.argsort(misfits, kind="stable"):
            name, annotation = candidates[drawn[position]]
            try:
                image, scale = self._read(name)
                box = _box(annotation, name) * scale
                fitting.append(self._describe(image, annotation, box, scale, name))
            except ValueError:
                continue  # a bad photo is reported when its own turn comes
            if len(fitting) == DONORS_OPENED:
                break
        tone = _mean_colour(photo.faces[index])
        return min(fitting, key=lambda face: np.abs(_mean_colour(face) - tone).sum(), default=None)

    def known_poses(self, count: int) -> list[tuple[Callable[[], np.ndarray], np.ndarray]]:
        """(read image, keypoints [5, 2]) of up to ``count`` bare faces, for ``fit_pose``."""
        found: list[tuple[Callable[[], np.ndarray], np.ndarray]] = []
        for name in sorted(self.photos, key=_hash):
            for annotation in self.faces[name]:
                if not _shows_pose(annotation, name):
                    continue
                keypoints = np.asarray(annotation["keypoints5"], np.float64)
                found.append((functools.partial(read_image, self.folder / name), keypoints))
                break  # one of a photo: more photos, more kinds of light
            if len(found) == count:
                break
        return found

    def _donor_table(self) -> dict[str, list[tuple[str, dict]]]:
        """Per split: (photo, annotation) of every usable face, in a fixed order."""
        table: dict[str, list] = {split: [] for split in SPLITS}
        for name in sorted(self.photos):
            for annotation in self.faces[name]:
                if annotation.get("iscrowd", 0):
                    continue
                try:
                    _box(annotation, name)
                except ValueError:
                    continue  # reported when the photo's own turn comes
                table[self.splits[name]].append((name, annotation))
        return table

    def _read(self, name: str) -> tuple[np.ndarray, float]:
        """The photo, shrunk so that its long side is at most ``size``, and the factor."""
        image = read_image(self.folder / name)
        record = self.photos[name]
        wanted = (record.get("height"), record.get("width"))
        if None not in wanted and image.shape[:2] != wanted:
            raise ValueError(f"{name}: is {image.shape[:2]}, annotated {wanted} (height, width)")
        factor = self.size / max(image.shape[:2]) if self.size else 1.0
        if factor >= 1:
            return image, 1.0
        size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA), factor

    def _describe(
        self, image: np.ndarray, annotation: dict, box: np.ndarray, scale: float, name: str
    ) -> SourceFace:
        keypoints = annotation.get("keypoints5")
        try:
            points = None if keypoints is None else np.asarray(keypoints, np.float64) * scale
            covered = annotation.get("mask") == "worn"
            return describe_face(image, box, keypoints=points, covered=covered)
        except ValueError as error:
            raise ValueError(f"{name}: annotation {annotation.get('id')}: {error}") from error


def _read_coco(path: Path) -> tuple[list[dict], list[dict]]:
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    missing = {"images", "annotations"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise ValueError(f"{path}: not a COCO file, has no {', '.join(sorted(missing))}")
    forged = {
        category["id"]
        for category in content.get("categories", [])
        if "fake" in str(category.get("name", "")).lower()
    }
    for annotation in content["annotations"]:
        if annotation.get("category_id") in forged:
            raise ValueError(
                f"{path}: annotation {annotation.get('id')} is forged; only real faces can be used"
            )
    return content["images"], content["annotations"]


def _box(annotation: dict, name: str) -> np.ndarray:
    """[4] (x0, y0, x1, y1) of an annotation; a ValueError names it where it is no box."""
    values: Any = annotation.get("bbox_uniform", annotation.get("bbox"))
    try:
        x, y, width, height = (float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: annotation {annotation.get('id')}: box {values!r}") from None
    box = np.array([x, y, x + width, y + height])
    if not np.isfinite(box).all() or width <= 0 or height <= 0:
        raise ValueError(f"{name}: annotation {annotation.get('id')}: box {values!r} is empty")
    return box


def _shows_pose(annotation: dict, name: str) -> bool:
    """Whether a face is bare, large enough, and has keypoints."""
    if annotation.get("iscrowd", 0) or annotation.get("mask") == "worn":
        return False
    try:
        large = _side(_box(annotation, name)) >= MIN_POSE_SIDE
    except ValueError:
        return False
    keypoints: Any = annotation.get("keypoints5")
    return large and np.shape(keypoints) == (5, 2)


def _side(box: np.ndarray) -> float:
    return float(np.sqrt(np.prod(box[2:] - box[:2])))


def _misfit(donor: dict, target: dict) -> float:
    """How badly one annotated face replaces another: pose, size, and a mask worn by one only.

    Pose: root mean square distance of the aligned keypoints over the target's side.
    """
    side = _side(_box(target, ""))
    misfit = SIZE_WEIGHT * abs(np.log(_side(_box(donor, "")) / side))
    misfit += float((donor.get("mask") == "worn") != (target.get("mask") == "worn"))
    if "keypoints5" not in donor or "keypoints5" not in target:
        return misfit + UNKNOWN_POSE_MISFIT
    source, wanted = (np.asarray(face["keypoints5"], np.float64) for face in (donor, target))
    try:
        matrix = similarity_transform(source, wanted)
    except ValueError:
        return np.inf
    moved = source @ matrix[:, :2].T + matrix[:, 2]
    return misfit + float(np.sqrt(((moved - wanted) ** 2).sum(1).mean()) / side)


def _mean_colour(face: SourceFace) -> np.ndarray:
    return face.image[face.mask].mean(0)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


def _split_of(record: dict, ratio: Sequence[float]) -> str:
    """Split by the hash of the identity (or file), as a number in [0, 1) against ``ratio``."""
    key = str(record.get("identity") or record["file_name"])
    position = _hash(key) / 2**64 * sum(ratio)
    bounds = np.cumsum(ratio)
    return SPLITS[min(int(np.searchsorted(bounds, position, side="right")), len(SPLITS) - 1)]


def _count(counts: Mapping[str, int | None], split: str, default: int) -> int:
    count = counts.get(split)
    if count is not None and count < 0:
        raise ValueError(f"{split}: the number of images is {count}, must be 0 or more")
    return default if count is None else count
