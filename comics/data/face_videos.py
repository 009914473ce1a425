"""A seeded set of face clips: real and forged, compressed by H.264, with everything recorded.

Every real clip is forged by several methods of ``comics.data.forgery``, each with one set of
parameters for all of its frames. Every clip is encoded as a whole at each compression, and the
crops are cut out of the decoded frames by one box per clip, without resampling. Identities of one
split appear in no other, neither as target nor as source.

Shape letters: T frames of a clip; S side of a crop.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from comics.data.compression import RAW, compress_frames, crf_of
from comics.data.face_video_people import DrawnPeople, People, PhotoPeople
from comics.data.faces.manifest_files import write_manifest
from comics.data.forgery import METHODS, PLAIN_METHODS, SourceFace, forge_face
from comics.data.jobs import claim_folder, run_jobs
from comics.files import write_text

SPLITS = ("train", "val", "test")
MANIFEST, RECORD = "manifest.csv", "clips.json"
FORGERY, PARTNERS, ORDER = 20, 21, 22  # streams of random numbers that one seed gives
PADDING = 16  # pixels of a frame around the crop's box
RAW_CRF = 0  # "raw" clips are encoded too, without loss but for the change of colour space
DEFAULT_METHODS = ("swap_poisson", "part_swap", "down_up", "upsampling_grid")


@dataclass(frozen=True)
class FaceVideoSettings:
    """What set is made.

    Attributes:
        seed: one seed, one set.
        clips: real clips per identity.
        frames: T.
        size: S, pixels; even.
        methods: ways to forge every real clip, names of ``comics.data.forgery.METHODS``.
        unseen_methods: further ways, in the test split alone.
        levels: compressions, "raw" or "c" and a constant rate factor.
        shares: of the identities in train, val and test.
        strength: of the traces of forgery.

    Raises:
        ValueError: for a value out of range, or an unknown name.
    """

    seed: int = 0
    clips: int = 2
    frames: int = 4
    size: int = 96
    methods: tuple[str, ...] = DEFAULT_METHODS
    unseen_methods: tuple[str, ...] = ()
    levels: tuple[str, ...] = (RAW, "c23", "c40")
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
    strength: float = 1.0

    def __post_init__(self) -> None:
        usable = PLAIN_METHODS  # the others need donors or a network, which clips do not have
        unknown = [name for name in (*self.methods, *self.unseen_methods) if name not in usable]
        if unknown:
            raise ValueError(f"no forgery method {unknown[0]!r}; choices: {', '.join(usable)}")
        for level in self.levels:
            crf_of(level)
        if min(self.clips, self.frames) < 1 or not self.levels or not self.methods:
            raise ValueError("clips, frames, levels and methods must be one or more")
        if self.size < 32 or self.size % 2:
            raise ValueError(f"size must be even and 32 or more, got {self.size}")
        if min(self.shares) < 0 or sum(self.shares) <= 0:
            raise ValueError(f"shares must be 0 or more, got {self.shares}")

    @property
    def side(self) -> int:
        """Side of the frames that crops are cut from, pixels."""
        return self.size + 2 * PADDING


@dataclass(frozen=True)
class FaceClipJob:
    """One real clip and its forgeries; ``sources`` are numbers of identities, per method."""

    identity: int
    number: int
    split: str
    methods: tuple[str, ...]
    sources: tuple[int, ...]


@dataclass
class FaceVideoReport:
    """What a run did: rows in the manifest, clips found finished, faults by clip."""

    rows: int
    reused: int
    faults: list[tuple[str, str]]


def make_face_videos(
    output: Path,
    people: People,
    settings: FaceVideoSettings,
    *,
    workers: int = 0,
    progress: str = "",
) -> FaceVideoReport:
    """Write crops, masks, ``manifest.csv`` and ``clips.json`` (parameters of every forgery).

    Args:
        output: folder; a run that was interrupted goes on there.
        people: of frames of ``settings.side``.
        workers: processes; 0 = this one. The set does not depend on it.
        progress: label of a progress bar; "" for none.

    Raises:
        ValueError: if ``output`` was begun with other arguments, a split has one identity alone,
            or no clip could be made.
    """
    jobs = plan(people, settings)
    claim_folder(output, {"settings": asdict(settings), "people": people.arguments})
    work = _ClipMaker(output, people, settings)
    named = [(f"{people.names[job.identity]}_{job.number}", job) for job in jobs]
    rows: list[dict] = []
    record: dict[str, dict] = {}
    faults, reused = [], 0
    for result in run_jobs(output, work, named, workers=workers, progress=progress):
        faults += [(result.name, fault) for fault in result.faults]
        reused += result.reused
        if result.value is not None:
            rows += result.value["rows"]
            record |= result.value["clips"]
    if not rows:
        raise ValueError(f"{output}: no clip could be made: {faults[0][1] if faults else 'no job'}")
    write_text(output / RECORD, json.dumps(record, indent=1))
    return FaceVideoReport(write_manifest(output / MANIFEST, rows), reused, faults)


def plan(people: People, settings: FaceVideoSettings) -> list[FaceClipJob]:
    """The jobs of a set: splits by identity, sources from the same split.

    Raises:
        ValueError: if a split that is not empty has one identity alone.
    """
    count = len(people.names)
    order = np.random.default_rng((settings.seed, ORDER)).permutation(count)
    bounds = np.rint(np.cumsum(settings.shares) / sum(settings.shares) * count).astype(int)
    jobs = []
    for split, start, end in zip(SPLITS, [0, *bounds[:-1]], bounds, strict=True):
        members = sorted(int(identity) for identity in order[start:end])
        if len(members) == 1:
            raise ValueError(f"{split} would have one identity of {count}: no face to swap with")
        methods = settings.methods + (settings.unseen_methods if split == "test" else ())
        for identity in members:
            for number in range(settings.clips):
                rng = np.random.default_rng((settings.seed, PARTNERS, identity, number))
                others = [member for member in members if member != identity]
                # A face that is altered without a donor is its own source
                sources = tuple(
                    int(rng.choice(others)) if METHODS[name].needs_donor else identity
                    for name in methods
                )
                jobs.append(FaceClipJob(identity, number, split, methods, sources))
    return jobs


def forge_clip(
    faces: Sequence[SourceFace],
    donors: Sequence[SourceFace] | None,
    *,
    method: str,
    seed: Sequence[int],
    strength: float = 1.0,
) -> tuple[list[np.ndarray], list[np.ndarray], dict]:
    """Forge every frame of a clip alike: each frame begins with the same random state.

    Returns:
        T images [H, W, 3] uint8, T masks [H, W] bool of the altered pixels, and the parameters
        of the first frame.
    """
    images, masks = [], []
    parameters: dict = {}
    for frame, face in enumerate(faces):
        forged = forge_face(
            face,
            np.random.default_rng(tuple(seed)),
            method=method,
            donor=None if donors is None else donors[frame],
            strength=strength,
        )
        images.append(forged.image)
        masks.append(forged.altered)
        parameters = parameters or forged.parameters
    return images, masks, parameters


@dataclass(frozen=True)
class _ClipMaker:
    """The work on one job; sent to worker processes."""

    output: Path
    people: People
    settings: FaceVideoSettings

    def __call__(self, job: FaceClipJob) -> tuple[dict, list[str]]:
        """Rows and record of a real clip and its forgeries."""
        settings, names = self.settings, self.people.names
        faces = self.people.clip(job.identity, job.number, settings.frames)
        target = names[job.identity]
        common = {"target": target, "split": job.split}
        real = {**common, "label": "real", "source": target, "video": f"real/{target}_{job.number}"}
        rows = self._write([face.image for face in faces], None, real)
        pairs = {(row["compression"], row["frame"]): row["path"] for row in rows}
        clips = {}
        for method, source in zip(job.methods, job.sources, strict=True):
            donors = None
            if METHODS[method].needs_donor:
                donors = self.people.donor(source, job.identity, job.number, settings.frames)
            seed = (settings.seed, FORGERY, job.identity, job.number, list(METHODS).index(method))
            images, masks, parameters = forge_clip(
                faces, donors, method=method, seed=seed, strength=settings.strength
            )
            video = f"{method}/{target}_{job.number}"
            fake = {**common, "label": "fake", "method": method, "source": names[source]}
            for row in self._write(images, masks, fake | {"video": video}):
                pair = pairs[row["compression"], row["frame"]]
                rows.append(row | {"paired_real": pair})
            clips[video] = {"source": names[source], "target": target, "parameters": parameters}
        return {"rows": rows, "clips": clips}, []

    def _write(
        self,
        images: Sequence[np.ndarray],
        masks: Sequence[np.ndarray] | None,
        columns: dict,
    ) -> list[dict]:
        """Encode a clip at every level, write its crops, return their rows."""
        name = _file_name(columns["video"])
        rows = []
        for level in self.settings.levels:
            crf = crf_of(level)
            decoded = compress_frames(images, RAW_CRF if crf is None else crf)
            for frame, image in enumerate(decoded):
                path = f"crops/{level}/{name}/{frame:03d}.png"
                self._save(path, _cut(image))
                mask = "" if masks is None else f"masks/{name}/{frame:03d}.png"
                row = {"path": path, "frame": frame, "compression": level, "mask": mask}
                rows.append(columns | row)
        for frame, altered in enumerate(masks or ()):
            self._save(f"masks/{name}/{frame:03d}.png", _cut(altered).astype(np.uint8) * 255)
        return rows

    def _save(self, path: str, image: np.ndarray) -> None:
        target = self.output / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        target.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def open_people(
    source: str, identities: int, settings: FaceVideoSettings
) -> DrawnPeople | PhotoPeople:
    """People for a set: "drawn", or the COCO file or folder of real photos at ``source``."""
    if source == "drawn":
        return DrawnPeople(identities, settings.side, settings.seed)
    return PhotoPeople(Path(source), identities, settings.side, settings.seed)


def _cut(frame: np.ndarray) -> np.ndarray:
    return frame[PADDING:-PADDING, PADDING:-PADDING]


def _file_name(video: str) -> str:
    """A video's id as a path: names of photos may hold anything."""
    return "/".join("".join(c if c.isalnum() or c in "-_" else "_" for c in part)
                    for part in video.split("/", 1))  # fmt: skip
