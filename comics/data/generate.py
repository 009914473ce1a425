"""Making a multi-face set with real and forged faces: four COCO files and their images.

``out/train.json`` ... ``out/test_challenge.json`` name ``images/<split>/000001.jpg`` relative to
``out``; categories are OpenForensics' (0 Real, 1 Fake). Whether a face is forged, and how, is
drawn from a random stream of its own, that knows neither the face nor its photo. Every image of
a set is saved once at the end, at a quality drawn without regard to labels; the challenge
split's (and a share of train, where asked for) are corrupted between two such saves.

Every image has its own seed, so the set does not depend on the number of workers. An image and,
after it, its record in ``out/.records`` are written to a temporary file and renamed: a run that
was killed continues where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from comics import __version__
from comics.data.corruptions import challenge
from comics.data.forgery import DEFAULT_METHODS, METHODS, SourceFace, forge_face
from comics.data.forgery.donors import GeneratedDonors
from comics.data.forgery.history import encode_jpeg, jpeg_round_trip
from comics.data.forgery.networks import FaceNetwork
from comics.data.generate_sources import SPLITS, Job, Photo, PhotoSource, SyntheticSource
from comics.data.jobs import map_in_processes
from comics.data.viewer import Way, cut_of, draw_way, travel, travel_boxes, travel_mask
from comics.files import LEFTOVERS, hold_folder, remove_leftovers, write_bytes, write_text
from comics.ops.masks import bitmap_to_rle
from comics.structures import CLASS_NAMES, FAKE, REAL

RECORDS, ARGUMENTS = ".records", "arguments.json"
REAL_NAME = "real"  # of faces that stay as they are, in the counts of methods
JPEG_QUALITY = (85, 95)  # of the saved images, both included
MAX_CROP = 0.15  # share of an image that its way to the viewer cuts off at a side
MIN_LEFT = 0.6  # share of a face that a cut must leave for it to count as a face
TEST_SPLITS = ("test_dev", "test_challenge")
# Splits of a set that donors of a manifest's split serve: one of train is in photos of train alone
DONOR_SPLITS = {"train": ("train",), "val": ("val",), "test": TEST_SPLITS}
Source = SyntheticSource | PhotoSource


@dataclass(frozen=True)
class Settings:
    """What decides the content of a set, besides its photos.

    Attributes:
        seed: of everything random.
        fake_share: probability that a face is forged, in [0, 1].
        methods: names of ``METHODS`` used in all splits.
        unseen_methods: names used in the two test splits only.
        strength: of the traces, see ``forge_face``.
        corrupt_train: probability that an image of train is corrupted, in [0, 1], as all of the
            challenge split are.
        viewer: probability that an image of any split goes a way to its viewer, in [0, 1]: cut,
            scaled and compressed again, see ``comics.data.viewer``.
        mixed: probability that a photo with several faces must have real and forged ones, in
            [0, 1]; the others have what is drawn face by face.

    Raises:
        ValueError: for a value out of range, or no method for training.
        KeyError: for an unknown method.
    """

    seed: int = 0
    fake_share: float = 0.5
    methods: tuple[str, ...] = DEFAULT_METHODS
    unseen_methods: tuple[str, ...] = ()
    strength: float = 1.0
    corrupt_train: float = 0.0
    viewer: float = 0.0
    mixed: float = 0.0

    def __post_init__(self) -> None:
        for name in (*self.methods, *self.unseen_methods):
            if name not in METHODS:
                raise KeyError(f"no forgery method {name!r}. Choices: {', '.join(METHODS)}")
        for name in ("fake_share", "corrupt_train", "viewer", "mixed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 < self.strength <= 3:
            raise ValueError(f"strength must be in (0, 3], got {self.strength}")
        if self.mixed and not 0 < self.fake_share < 1:
            raise ValueError(
                f"mixed photos need a fake_share between 0 and 1, got {self.fake_share}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        if not self.methods_of("train"):
            raise ValueError("no forgery method is left for the training split")

    def methods_of(self, split: str) -> list[str]:
        """Names of the methods that forge the faces of ``split``, in the order of the table."""
        unseen = set(self.unseen_methods)
        allowed = set(self.methods) | unseen if split in TEST_SPLITS else set(self.methods) - unseen
        return [name for name in METHODS if name in allowed]


@dataclass(frozen=True)
class Materials:
    """What some methods need besides photos.

    Attributes:
        donors: generated faces, for methods whose donor is "generated".
        network: for methods that draw with one.
    """

    donors: GeneratedDonors | None = None
    network: FaceNetwork | None = None

    @property
    def arguments(self) -> dict:
        """What decides the forgeries, ready for JSON; nothing where nothing is used."""
        parts = {"donors": self.donors, "network": self.network}
        return {name: part.arguments for name, part in parts.items() if part is not None}

    def check(self, methods: Sequence[str]) -> None:
        """Refuse methods whose donors or network are not there.

        Raises:
            ValueError: naming the method and what it needs.
        """
        for name in methods:
            method = METHODS[name]
            if method.donor == "generated" and self.donors is None:
                raise ValueError(f"method {name!r} needs a folder of generated faces (--donors)")
            if not method.network:
                continue
            if self.network is None:
                raise ValueError(f"method {name!r} needs an ONNX network (--network)")
            if method.network == "latent" and not self.network.has_latent:
                raise ValueError(
                    f"method {name!r} needs an encoder and a decoder, {self.network.files[0]} is "
                    "one network from image to image"
                )


@dataclass(frozen=True)
class Report:
    """How a run went: images written and found finished, and (file, reason) of skipped photos."""

    written: int
    reused: int
    skipped: list[tuple[str, str]]


def generate_dataset(
    output: Path,
    source: Source,
    settings: Settings,
    counts: Mapping[str, int | None] | None = None,
    workers: int = 0,
    progress: bool = True,
    materials: Materials = Materials(),  # noqa: B008 - frozen
) -> Report:
    """Write a set to the folder ``output``, or finish one that an earlier run began.

    Args:
        output: folder of the set; made where absent.
        source: where photos come from.
        settings: seed, share and methods.
        counts: images per split; a split left out or None gets the source's usual number.
        workers: processes; 0 works in this one.
        progress: show a bar on stderr.
        materials: donors and network for the methods that need them.

    Raises:
        ValueError: if ``output`` holds a set made with other arguments, ``counts`` cannot be
            met, or a method lacks its donors or network.
    """
    materials.check([*settings.methods, *settings.unseen_methods])
    jobs = source.plan(counts or {})
    arguments = _arguments(source, settings, materials)
    _claim(output, arguments)
    for split in SPLITS:
        (output / "images" / split).mkdir(parents=True, exist_ok=True)
        (output / RECORDS / split).mkdir(parents=True, exist_ok=True)
    records: dict[str, list[dict]] = {split: [] for split in SPLITS}
    written, reused, skipped = 0, 0, []
    results = _run(_Maker(output, source, settings, materials), jobs, workers)
    for job, (state, value) in tqdm(
        zip(jobs, results, strict=True), total=len(jobs), unit="image", disable=not progress
    ):
        if state == "skipped":
            skipped.append((job.photo, value))
            continue
        written += state == "written"
        reused += state == "reused"
        records[job.split].append(value)
    for split in SPLITS:
        content = _coco_file(records[split], split, arguments)
        write_text(output / f"{split}.json", json.dumps(content))
    return Report(written, reused, skipped)


def draw_labels(
    rng: np.random.Generator,
    count: int,
    fake_share: float,
    methods: Sequence[str],
    mixed: float = 0.0,
) -> list[str | None]:
    """For each of ``count`` faces a forgery method, or None for a face that stays real.

    Nothing about the faces enters, so size and place cannot tell a label. Of several faces, with
    probability ``mixed`` some are real and some forged: the draw is repeated until they are.
    """
    fake = rng.random(count) < fake_share
    if mixed and count > 1 and rng.random() < mixed:
        while fake.all() or not fake.any():
            fake = rng.random(count) < fake_share
    drawn = rng.integers(0, len(methods), count)
    return [methods[choice] if forged else None for forged, choice in zip(fake, drawn, strict=True)]


def make_image(
    job: Job,
    source: Source,
    settings: Settings,
    materials: Materials = Materials(),  # noqa: B008 - frozen
) -> tuple[bytes, dict]:
    """One image of the set: its JPEG bytes, and its record for the annotation file.

    Raises:
        ValueError, OSError: if the photo cannot be used; the message names file and fault.
    """
    seeds = np.random.SeedSequence([settings.seed, SPLITS.index(job.split), job.number])
    drawing, labelling, forging, saving, viewing = map(np.random.default_rng, seeds.spawn(5))
    photo = source.open(job, drawing)
    labels = draw_labels(
        labelling,
        len(photo.faces),
        settings.fake_share,
        settings.methods_of(job.split),
        settings.mixed,
    )
    image, made = _forge(job, photo, labels, source, settings, materials, forging)
    ignored, way = photo.ignored, None
    if viewing.random() < settings.viewer:
        way = draw_way(viewing, max_crop=MAX_CROP)
        arrived = jpeg_round_trip(image, int(viewing.integers(*JPEG_QUALITY, endpoint=True)))
        image, made, ignored = _arrived(arrived, made, ignored, way)
    annotations = [_annotation(face) for face in made]
    quality = int(saving.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1))
    corrupted = job.split == "test_challenge"
    if job.split == "train":
        corrupted = saving.random() < settings.corrupt_train
    if corrupted:
        image = challenge(jpeg_round_trip(image, quality), saving)
    height, width = image.shape[:2]
    record = {
        "file_name": job.file_name,
        "height": height,
        "width": width,
        "source_photo": job.photo,
        "jpeg_quality": quality,
    }
    if way is not None:
        record["viewer"] = way.record
    for box in ignored:
        # COCO ignores per category: once for detections called real, once for those called fake
        annotations += [_ignore_annotation(box, (height, width), label) for label in (REAL, FAKE)]
    return encode_jpeg(image, quality), {"image": record, "annotations": annotations}


@dataclass(frozen=True)
class _MadeFace:
    """A face of a finished image.

    Attributes:
        box: [4] (x0, y0, x1, y1) in pixels.
        mask: [H, W] bool, its region.
        method: how it was forged; None for a real face.
        altered: [H, W] bool where it was altered; None for a real face.
        parameters: of the forgery.
    """

    box: np.ndarray
    mask: np.ndarray
    method: str | None = None
    altered: np.ndarray | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)


def _forge(
    job: Job,
    photo: Photo,
    labels: list[str | None],
    source: Source,
    settings: Settings,
    materials: Materials,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[_MadeFace]]:
    """Forge the faces that ``labels`` name; the image and all of its faces."""
    image, made = photo.image, []
    for index, (face, method) in enumerate(zip(photo.faces, labels, strict=True)):
        stream = rng.spawn(1)[0]  # so that a face's forgery does not depend on earlier faces
        if method is None:
            made.append(_MadeFace(face.box, face.mask))
            continue
        donor, of_donor = None, {}
        if METHODS[method].donor == "photo":
            donor = source.donor(job, photo, index, stream)
        elif METHODS[method].donor == "generated":
            assert materials.donors is not None  # as Materials.check made sure
            chosen = materials.donors.choose(face, job.split, stream)
            if chosen is not None:
                donor, of_donor = chosen.face, chosen.record
        if METHODS[method].needs_donor and donor is None:
            method = "self_blend"  # no other photo with a face, or no donor that fits
        own = replace(face, image=image, mask=_own_pixels(photo.faces, index))
        forged = forge_face(
            own,
            stream,
            method=method,
            donor=donor,
            network=materials.network,
            strength=settings.strength,
        )
        image = forged.image
        parameters = of_donor | forged.parameters
        made.append(_MadeFace(face.box, face.mask, method, forged.altered, parameters))
    return image, made


def _arrived(
    image: np.ndarray, made: list[_MadeFace], ignored: np.ndarray, way: Way
) -> tuple[np.ndarray, list[_MadeFace], np.ndarray]:
    """Image, faces and ignore regions as they arrive; a face that was cut through is ignored."""
    shape, kept, boxes = image.shape[:2], [], [*ignored]
    rows, columns = cut_of(shape, way)
    for face in made:
        left = face.mask[rows, columns].sum() / face.mask.sum()
        mask = travel_mask(face.mask, way)
        if left < MIN_LEFT or not mask.any():
            if left > 0:
                boxes.append(face.box)
            continue
        altered = None if face.altered is None else travel_mask(face.altered, way)
        box = travel_boxes(face.box, shape, way)[0]
        kept.append(replace(face, box=box, mask=mask, altered=altered))
    arrived = travel(image, way)
    moved = travel_boxes(np.array(boxes).reshape(-1, 4), shape, way)
    size = np.array([*arrived.shape[1::-1]] * 2)
    inside = (np.minimum(moved[:, 2:], size[2:]) - np.maximum(moved[:, :2], 0) >= 1).all(axis=1)
    return arrived, kept, moved[inside]


def _own_pixels(faces: list[SourceFace], index: int) -> np.ndarray:
    """Region of a face without the pixels that other faces' regions share, if any are left."""
    own = faces[index].mask.copy()
    for other, face in enumerate(faces):
        if other != index:
            own &= ~face.mask
    return own if own.any() else faces[index].mask


def _annotation(face: _MadeFace) -> dict:
    height, width = face.mask.shape
    x0, y0 = np.maximum(face.box[:2], 0)
    x1, y1 = np.minimum(face.box[2:], (width, height))
    altered = {} if face.altered is None else {"altered": _rle(face.altered)}
    return {
        "category_id": REAL if face.method is None else FAKE,
        "bbox": [round(float(value), 2) for value in (x0, y0, x1 - x0, y1 - y0)],
        "area": int(face.mask.sum()),
        "iscrowd": 0,
        "segmentation": _rle(face.mask),
        "method": face.method,
        "forgery": {**face.parameters, **altered},
    }


def _ignore_annotation(box: np.ndarray, shape: tuple[int, int], label: int) -> dict:
    x0, y0, x1, y1 = np.clip(np.rint(box), 0, [shape[1], shape[0]] * 2).astype(int)
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return {
        "category_id": label,
        "bbox": [int(value) for value in (x0, y0, x1 - x0, y1 - y0)],
        "area": int(mask.sum()),
        "iscrowd": 1,
        "segmentation": _rle(mask),
        "method": None,
        "forgery": {},
    }


def _rle(mask: np.ndarray) -> dict:
    return bitmap_to_rle(torch.from_numpy(mask))


def _coco_file(records: list[dict], split: str, arguments: dict) -> dict:
    """Number the records of a split and put them together as COCO."""
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, record in enumerate(records, 1):
        images.append({"id": image_id, **record["image"]})
        for annotation in record["annotations"]:
            numbers = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append(numbers | annotation)
    info = {
        "description": f"Real and forged faces, split {split}, made by tools/make_dataset.py",
        "version": __version__,
        "split": split,
        "methods": dict(Counter(a["method"] or REAL_NAME for a in annotations if not a["iscrowd"])),
        **arguments,
    }
    categories = [{"id": index, "name": name} for index, name in enumerate(CLASS_NAMES)]
    return {"info": info, "categories": categories, "images": images, "annotations": annotations}


def _arguments(source: Source, settings: Settings, materials: Materials) -> dict:
    """What must be equal for two runs to make the same images."""
    return materials.arguments | {
        "seed": settings.seed,
        "source": source.name,
        "arguments": json.loads(json.dumps(asdict(settings) | source.arguments)),
    }


def _claim(output: Path, arguments: dict) -> None:
    """Note in ``output`` what is made there; refuse a folder with other arguments."""
    path = output / RECORDS / ARGUMENTS
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != arguments:
            raise ValueError(
                f"{output} holds a set made with other arguments; finish it with those, or choose "
                f"another folder.\n  there: {json.dumps(found)}\n  now:   {json.dumps(arguments)}"
            )
    elif any((output / f"{split}.json").exists() for split in SPLITS):
        raise ValueError(f"{output} holds annotation files that were not made here")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(arguments))


class _Maker:
    """Makes one job's image and files; sent to every worker process."""

    def __init__(
        self, output: Path, source: Source, settings: Settings, materials: Materials
    ) -> None:
        self.output, self.source = output, source
        self.settings, self.materials = settings, materials
        self.key = hashlib.sha256(
            json.dumps([__version__, _arguments(source, settings, materials)]).encode("utf-8")
        ).hexdigest()

    def __call__(self, job: Job) -> tuple[str, dict | str]:
        """("written" | "reused", record) or ("skipped", reason)."""
        image_path = self.output / job.file_name
        record_path = self.output / RECORDS / job.split / f"{job.number:06d}.json"
        finished = self._finished(job, image_path, record_path)
        if finished is not None:
            return "reused", finished
        try:
            data, record = make_image(job, self.source, self.settings, self.materials)
        except (ValueError, OSError) as error:
            return "skipped", str(error)
        write_bytes(image_path, data, durable=False)
        stored = {"key": self.key, "photo": job.photo, "crc": zlib.crc32(data), "record": record}
        write_text(record_path, json.dumps(stored), durable=False)
        return "written", record

    def _finished(self, job: Job, image_path: Path, record_path: Path) -> dict | None:
        """The record of an image that an earlier run finished, if it is whole."""
        try:
            stored = json.loads(record_path.read_text(encoding="utf-8"))
            same = (stored["key"], stored["photo"]) == (self.key, job.photo)
            whole = same and zlib.crc32(image_path.read_bytes()) == stored["crc"]
            return stored["record"] if whole else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _run(maker: _Maker, jobs: list[Job], workers: int) -> Iterator[tuple[str, dict | str]]:
    """Results in the order of ``jobs``."""
    with hold_folder(maker.output / RECORDS) as alone:
        if alone:  # the latter are of versions before 0.4
            remove_leftovers(maker.output, ["images", RECORDS], (*LEFTOVERS, "*.tmp"))
        # As in the workers: BLAS may round otherwise with threads
        with threadpool_limits(1) if workers == 0 else contextlib.nullcontext():
            yield from map_in_processes(maker, jobs, workers, chunk=4, preloaded=[__name__])
