"""Generated faces as donors: which one fits a face in light, colour and pose.

Donors are aligned as FFHQ is (Karras et al. 2019, from which StyleGAN's pictures have it): eyes and
mouth stand at nearly fixed places, so a template takes the place of landmarks. Pose shows in where
the nose is between them; it is read from the aligned grey picture by a linear regression, fitted to
faces whose keypoints are known.

Shape letters: N faces; T side of a thumbnail.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from comics.data.faces.manifest import Manifest
from comics.data.forgery.masks import SourceFace, describe_face
from comics.data.forgery.warps import similarity_transform, warp
from comics.data.images import ImageError, read_image

# Left eye, right eye, nose, mouth corners in shares of an aligned picture's side: those of the mean
# of 1,100 StyleGAN faces, made symmetric
FFHQ_TEMPLATE = np.array(
    [[0.3745, 0.469], [0.6255, 0.469], [0.5, 0.613], [0.3925, 0.725], [0.6075, 0.725]]
)
FFHQ_BOX = np.array([0.2325, 0.21, 0.7675, 0.882])  # of the face, in the framing of photos' boxes
FIXED = [0, 1, 3, 4]  # points that pictures are aligned by; the nose tells the pose
FRAME = 48  # pixels: side of the aligned picture that faces are compared in
FACE_ROWS, FACE_COLUMNS = slice(14, 42), slice(12, 36)  # of the frame: the face without hair
THUMB = 8  # T: cells per side of the thumbnail, so light from the left differs from the right
POSE_CELLS = 15  # per side of the picture that pose is read from
RIDGE = 100.0  # weight of the regression's penalty; 0.79 correlation on 400 held-out faces
MIN_POSE_FACES = 100  # fewer known faces fix no regression
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# What differs by this much counts 1: CIE LAB units, and shares of an aligned side
LIGHT_UNIT, NOSE_UNIT = 12.0, 0.025


@dataclass(frozen=True)
class Fit:
    """How well a donor must fit.

    Attributes:
        candidates: donors drawn, of which the fittest is taken.
        misfit: worse donors would be seen at a glance (``Look.misfit``).
        nose: share of an aligned side; a nose so far aside is a profile, which no face of the
            template replaces.
        shape: root mean square distance of eyes and mouth corners from the template's once they
            are aligned, share of an aligned side: a head that is turned brings the eyes together.
        side: of the face, pixels; a smaller one shows too little of a donor.
        landmarks: whether the face's keypoints must be known, not guessed from its box.
        patch: difference in lightness (CIE L) that a tenth of the thumbnail may exceed: sunglasses
            and hands over a face are blended into smears.
    """

    candidates: int = 80
    misfit: float = 2.0
    nose: float = 0.1
    shape: float = float("inf")
    side: float = 0.0
    landmarks: bool = False
    patch: float = float("inf")

    def faces_camera(self, keypoints: np.ndarray) -> bool:
        """Whether keypoints [5, 2] are those of a face that is turned to the camera."""
        try:
            matrix = similarity_transform(keypoints[FIXED], FFHQ_TEMPLATE[FIXED])
        except ValueError:
            return False  # keypoints that all coincide
        moved = keypoints @ matrix[:, :2].T + matrix[:, 2] - FFHQ_TEMPLATE
        shape = float(np.sqrt((moved[FIXED] ** 2).sum(1).mean()))
        return abs(float(moved[2, 0])) <= self.nose and shape <= self.shape


DEFAULT_FIT = Fit()


@dataclass(frozen=True)
class DonorFile:
    """A donor: its file, the splits it may be used in (none: by its name), what made it."""

    path: Path
    splits: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True)
class ChosenDonor:
    """The donor of a face: ``file``, its picture as a ``face``, how badly it fits (0 best)."""

    file: DonorFile
    face: SourceFace
    misfit: float

    @property
    def record(self) -> dict:
        """What a set says of it, ready for JSON."""
        kind = {"donor_kind": self.file.kind} if self.file.kind else {}
        return {"donor": self.file.path.name, **kind, "misfit": round(self.misfit, 3)}


@dataclass(frozen=True)
class PoseRegression:
    """From an aligned grey face to (x, y) of its nose against the template's.

    Attributes:
        centre: [F] mean of the features.
        weights: [F, 2].
        mean: [2] offset of the mean face, in shares of an aligned side.
    """

    centre: np.ndarray
    weights: np.ndarray
    mean: np.ndarray

    @classmethod
    def fit(cls, frames: Sequence[np.ndarray], noses: np.ndarray) -> PoseRegression:
        """Ridge regression over N aligned frames and their noses' offsets [N, 2]."""
        features = np.stack([_pose_features(frame) for frame in frames])
        centre, mean = features.mean(0), noses.mean(0)
        spread = features - centre
        system = spread.T @ spread + RIDGE * np.eye(spread.shape[1])
        return cls(centre, np.linalg.solve(system, spread.T @ (noses - mean)), mean)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """[2] offset of the nose in an aligned frame."""
        return (_pose_features(frame) - self.centre) @ self.weights + self.mean


@dataclass(frozen=True)
class Look:
    """What donor and face are compared by: thumbnail [T, T, 3] in CIE LAB, nose [2]."""

    thumb: np.ndarray
    nose: np.ndarray

    def misfit(self, other: Look) -> float:
        """0 for the same look; 1 for a difference that is just seen."""
        light = np.sqrt(((self.thumb - other.thumb) ** 2).mean()) / LIGHT_UNIT
        return float(light + np.abs(self.nose - other.nose).max() / NOSE_UNIT)

    def patch(self, other: Look) -> float:
        """Difference in lightness that a tenth of the thumbnail exceeds."""
        return float(np.quantile(np.abs(self.thumb[..., 0] - other.thumb[..., 0]), 0.9))


class GeneratedDonors:
    """Aligned generated faces, by split.

    Args:
        files: of the donors; where one names no splits, a hash of its name gives one.
        splits: names of the splits, and what fraction of files without a split falls into each.
        pose: regression, or None to leave pose out.
        fit: how well a donor must fit.

    Attributes:
        skipped: (path, reason) of files that could not be read.

    Raises:
        ValueError: if none of the files can be read; the message names the first fault.
    """

    def __init__(
        self,
        files: Sequence[DonorFile],
        splits: dict[str, float],
        pose: PoseRegression | None = None,
        fit: Fit = DEFAULT_FIT,
    ) -> None:
        self.pose, self.fit = pose, fit
        self.skipped: list[tuple[str, str]] = []
        self._donors: dict[str, list[tuple[DonorFile, Look]]] = {split: [] for split in splits}
        digest = hashlib.sha256()
        for file in sorted(files, key=lambda file: (file.path, file.splits)):
            try:
                look = self._look(read_donor(file.path))
            except ImageError as error:
                self.skipped.append((error.path, error.reason))
                continue
            name = f"{file.path.name} {file.splits}\n"
            digest.update(name.encode("utf-8", "surrogateescape"))
            digest.update(file.path.read_bytes())
            for split in file.splits or (_split_by_hash(file.path.name, splits),):
                self._donors[split].append((file, look))
        if not any(self._donors.values()):
            first = f"; the first: {': '.join(self.skipped[0])}" if self.skipped else ""
            raise ValueError(f"none of {len(files)} donors can be read{first}")
        counts = {name: len(donors) for name, donors in self._donors.items()}
        self.arguments = {"sha256": digest.hexdigest(), "counts": counts, "pose": pose is not None}
        if fit != DEFAULT_FIT:
            self.arguments["fit"] = asdict(fit)

    def partners(self, split: str) -> list[tuple[DonorFile, DonorFile]]:
        """Each donor of a split, with the other one of the split that looks most like it."""
        donors = self._donors.get(split, [])
        pairs = []
        for file, look in donors:
            others = [other for other in donors if other[0] is not file]
            if others:
                pairs.append((file, min(others, key=lambda other: look.misfit(other[1]))[0]))
        return pairs

    def kinds(self, split: str) -> dict[str, int]:
        """Number of a split's donors of each kind."""
        return dict(Counter(file.kind for file, _ in self._donors.get(split, [])))

    def choose(self, face: SourceFace, split: str, rng: np.random.Generator) -> ChosenDonor | None:
        """The fittest of some drawn donors of a split; None where none of them fits.

        Args:
            face: that will be replaced; a covered one has no fitting donor.
            split: donors of another are never taken.
            rng: draws the candidates.
        """
        donors = self._donors.get(split, [])
        if not donors or face.covered:
            return None
        drawn = rng.integers(0, len(donors), self.fit.candidates)
        wanted = self._wanted(face)
        if wanted is None:
            return None
        misfits = [wanted.misfit(donors[number][1]) for number in drawn]
        best = int(np.argmin(misfits))
        look = donors[drawn[best]][1]
        if misfits[best] > self.fit.misfit or wanted.patch(look) > self.fit.patch:
            return None
        file = donors[drawn[best]][0]
        return ChosenDonor(file, read_donor(file.path), misfits[best])

    def _wanted(self, face: SourceFace) -> Look | None:
        """The look that a donor needs; None of a face that none can replace."""
        if face.covered or (self.fit.landmarks and face.guessed):
            return None
        if np.sqrt(np.prod(face.box[2:] - face.box[:2])) < self.fit.side:
            return None
        if not self.fit.faces_camera(face.keypoints):
            return None
        return self._look_of(align(face.image, face.keypoints)[0])

    def _look(self, donor: SourceFace) -> Look:
        return self._look_of(align(donor.image, donor.keypoints)[0])

    def _look_of(self, frame: np.ndarray) -> Look:
        nose = np.zeros(2) if self.pose is None else self.pose(frame)
        return Look(_thumbnail(frame), nose)


def read_donor(path: Path) -> SourceFace:
    """An aligned picture as a face with the template's keypoints.

    Raises:
        ImageError: if it cannot be read, or is not square.
    """
    image = read_image(path)
    height, width = image.shape[:2]
    if height != width:
        raise ImageError(path, f"an aligned face is square, this picture is {width} x {height}")
    return describe_face(image, FFHQ_BOX * width, keypoints=FFHQ_TEMPLATE * width)


def donor_files(folder: Path) -> list[Path]:
    """Pictures below a folder, sorted.

    Raises:
        ValueError: if it is no folder, or has none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder of donors")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{folder}: no picture in it ({', '.join(SUFFIXES)})")
    return files


def listed_donors(manifest: Manifest, splits: Mapping[str, tuple[str, ...]]) -> list[DonorFile]:
    """The rows of a manifest as donors; ``method`` is their kind.

    Args:
        manifest: of aligned generated faces.
        splits: which splits of a set a split of the manifest serves; a row of none of these has
            its split by its file's name.
    """
    return [
        DonorFile(
            Path(manifest[index].path),
            splits.get(manifest.name(index, "split"), ()),
            manifest.name(index, "method"),
        )
        for index in range(len(manifest))
    ]


def align(image: np.ndarray, keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A face in the frame [FRAME, FRAME, 3] float32 RGB, and the matrix [2, 3] that took it there.

    Raises:
        ValueError: if all keypoints coincide.
    """
    matrix = similarity_transform(keypoints[FIXED], FFHQ_TEMPLATE[FIXED] * FRAME)
    return warp(image.astype(np.float32), matrix, (FRAME, FRAME)), matrix


def fit_pose(faces: Sequence[tuple[Callable[[], np.ndarray], np.ndarray]]) -> PoseRegression | None:
    """The regression over (read image, keypoints [5, 2]) of known faces.

    Pictures that cannot be read are passed over; None where too few are left.
    """
    frames, noses = [], []
    for read, keypoints in faces:
        try:
            frame, matrix = align(read(), keypoints)
        except ValueError:
            continue
        nose = (matrix[:, :2] @ keypoints[2] + matrix[:, 2]) / FRAME
        frames.append(frame)
        noses.append(nose - FFHQ_TEMPLATE[2])
    if len(frames) < MIN_POSE_FACES:
        return None
    return PoseRegression.fit(frames, np.array(noses))


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    inner = np.clip(frame[FACE_ROWS, FACE_COLUMNS], 0, 255) / np.float32(255)
    small = cv2.resize(inner, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2LAB)


def _pose_features(frame: np.ndarray) -> np.ndarray:
    grey = frame[10:40, 8:40].mean(-1)
    cells = cv2.resize(grey, (POSE_CELLS, POSE_CELLS), interpolation=cv2.INTER_AREA)
    return ((cells - cells.mean()) / (cells.std() + 1)).ravel().astype(np.float64)


def _split_by_hash(name: str, splits: dict[str, float]) -> str:
    number = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8])
    position = number / 2**64 * sum(splits.values())
    for split, share in splits.items():
        position -= share
        if position < 0:
            return split
    return list(splits)[-1]
