"""Samples of face methods: a query picture, and the further views that a method declares.

Views, by the name that methods ask for them with:

* "key": DCL's second view, drawn on its own; another frame where frame shift is drawn;
* "paired_real": the real picture of a fake, in geometry and photometry of the query;
* "positive": RealCentric's partner at the level image, temporal, semantic or class;
* "strong": the query's frame under strong compression, same crop, same augmentation;
* "other": another frame of the clip, as weakly compressed as the query, drawn on its own.

* any other name: a function of that name in ``comics.registry.FACE_VIEWS``.

A view that a row cannot have is None. A row may also make a twin: a sample of the same geometry and
augmentation with a label of its own, for every face method alike (self-blended images).

Shape letters: S side of a crop.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import comics.data.faces.own_views  # noqa: F401  (fills the table of views)
from comics.data.compression import compress_to
from comics.data.faces.augmenters import Augmenter
from comics.data.faces.crops import crop_mask, crop_with_margin
from comics.data.faces.manifest import FaceRow, Manifest
from comics.data.faces.pairs import LEVELS, PairIndex
from comics.data.faces.self_blend import SelfBlendView
from comics.data.faces.views import Augmentation, mix
from comics.data.forgery.self_blended import BlendedPair
from comics.data.images import DEFAULT_MAX_PIXELS, ImageError, read_image
from comics.data.transforms import resize_image
from comics.ops.masks import segmentation_to_bitmap
from comics.registry import FACE_VIEWS
from comics.structures import FAKE, REAL

VIEWS = ("key", "paired_real", "positive", "strong", "other")
PLAIN = Augmentation()  # nothing is drawn
Codec = Callable[[np.ndarray], np.ndarray]  # a picture to what is left of it after compression
# Of the mean of a mask picture's colours; videos of masks are compressed, so black is not quite 0
MASK_LEVEL = 32
# Weight of the source from which on a pixel of a twin counts as forged; the smallest ratio of a
# blend is 0.25
TWIN_MASK_LEVEL = 0.1


@dataclass(frozen=True)
class FaceReader:
    """Reads crops and masks of rows.

    Attributes:
        size: S, pixels.
        margin, border: see ``crop_with_margin``.
        max_pixels: larger pictures are refused.
    """

    size: int
    margin: float
    border: str = "replicate"
    max_pixels: int = DEFAULT_MAX_PIXELS

    def crop(
        self,
        row: FaceRow,
        path: str | None = None,
        codec: Codec | None = None,
        augmentation: Augmentation = PLAIN,
    ) -> np.ndarray:
        """[S, S, 3] uint8 RGB of a row's box.

        Args:
            path: another picture to cut the same box out of.
            codec: applied to the whole picture before the crop.
            augmentation: places the window, and changes it before it is resized.

        Raises:
            ImageError: if the picture cannot be read, or the box is outside of it.
        """
        path = row.path if path is None else path
        image = self.picture(path)
        if codec is not None:
            image = codec(image)
        try:
            window = crop_with_margin(
                image, row.box, self.margin, 0, self.border, augmentation.placement
            )
        except ValueError as error:
            raise ImageError(path, f"{row.place}: {error}") from error
        return resize_image(augmentation.window(window), (self.size, self.size))

    def picture(self, path: str) -> np.ndarray:
        """[H, W, 3] uint8 RGB, the whole picture; raises ``ImageError``."""
        return read_image(path, self.max_pixels)

    def mask(self, row: FaceRow, augmentation: Augmentation = PLAIN) -> np.ndarray | None:
        """[S, S] bool, the forged region; empty for a real face, None where it is unknown."""
        if row.label == REAL:
            return np.zeros((self.size, self.size), dtype=bool)
        if not row.mask:
            return None
        if not row.mask.startswith("{"):
            mask = self.picture(row.mask).mean(axis=2) > MASK_LEVEL
        try:
            if row.mask.startswith("{"):
                segmentation = json.loads(row.mask)
                mask = segmentation_to_bitmap(segmentation, *segmentation["size"]).numpy()
            return crop_mask(mask, row.box, self.margin, self.size, augmentation.placement)
        except (ValueError, KeyError, TypeError) as error:
            raise ImageError(row.path, f"{row.place}: its mask cannot be used: {error}") from error


@dataclass
class FaceSample:
    """One row of a batch.

    Attributes:
        image: [S, S, 3] uint8 RGB, the query.
        row: number in the manifest.
        views: name -> [S, S, 3] uint8, or None where the row has no such view.
        mask: [S, S] bool in the geometry of ``image``; None where it is unknown.
        broken: (row, error) of further pictures that could not be read; their view is None.
        label: its own label, where it is not the row's; None otherwise.
        twin: a sample made from this one, with a label of its own; None where there is none.
    """

    image: np.ndarray
    row: int
    views: dict[str, np.ndarray | None] = field(default_factory=dict)
    mask: np.ndarray | None = None
    broken: list[tuple[int, ImageError]] = field(default_factory=list)
    label: int | None = None
    twin: FaceSample | None = None


@dataclass(frozen=True)
class SampleMaker:
    """Makes the samples of a training set.

    Attributes:
        manifest, pairs: the rows, and which belong together.
        reader: of crops.
        augmenter: draws augmentations.
        views: names to make, of ``VIEWS`` or ``FACE_VIEWS``.
        with_masks: also make masks.
        pairing: levels that "positive" is drawn from, of ``LEVELS``.
        pairing_frames: reach of the temporal level, in sampled frames.
        weak, strong: names of the compressions.
        compress_missing: make the compressions that the set does not hold.
        clip_frames: frames of the clip that are encoded before one that is compressed.
        self_blend: makes twins of real rows; None for no twins.

    Raises:
        ValueError: for an unknown view or level.
    """

    manifest: Manifest
    pairs: PairIndex
    reader: FaceReader
    augmenter: Augmenter
    views: tuple[str, ...] = ()
    with_masks: bool = False
    pairing: tuple[str, ...] = ("image",)
    pairing_frames: int = 1
    weak: str = "c23"
    strong: str = "c40"
    compress_missing: bool = True
    clip_frames: int = 0
    self_blend: SelfBlendView | None = None

    def __post_init__(self) -> None:
        for what, names, choices in (
            ("view", self.views, (*VIEWS, *(name for name, _ in FACE_VIEWS))),
            ("pairing level", self.pairing, LEVELS),
        ):
            unknown = sorted(set(names) - set(choices))
            if unknown:
                raise ValueError(f"unknown {what} {unknown[0]!r}; choices: {', '.join(choices)}")
        if "positive" in self.views and not self.pairing:
            raise ValueError("MODEL.FACE.REAL_CENTRIC.PAIRING names no level")

    def __call__(self, index: int, rng: np.random.Generator) -> FaceSample:
        """The sample of a row.

        Raises:
            ImageError: if the row's own picture cannot be read. Faults of further pictures are
                noted in the sample instead.
        """
        row = self.manifest[index]
        augmentation = self.augmenter.draw(rng)
        plain, pair = self._query_crop(index, augmentation), None
        if self.self_blend is not None:
            # A stream of its own: a row without a twin draws what it draws without self-blending
            pair = self.self_blend(plain, row, rng.spawn(1)[0], augmentation.placement)
        if pair is not None:
            plain = pair.real
        sample = FaceSample(plain, index)
        wanted = self._wants_real(augmentation)
        real = self._paired_real(row, sample, augmentation) if wanted else None
        sample.image = augmentation.image(self._mixed(plain, real, augmentation))
        for view in self.views:
            if view == "paired_real":
                sample.views[view] = None if real is None else augmentation.image(real)
            elif view == "strong":
                sample.views[view] = self._strong(row, augmentation, sample, pair)
            elif view not in VIEWS:
                sample.views[view] = FACE_VIEWS.get(view)(self, sample, plain, rng)
            else:
                make = {"key": self._key, "positive": self._positive, "other": self._other}[view]
                sample.views[view] = make(plain, real, sample, rng)
        if self.with_masks:
            mask = self._try(index, sample, lambda: self.reader.mask(row, augmentation))
            sample.mask = None if mask is None else augmentation.mask(mask)
        if pair is not None:
            sample.twin = self._twin(pair, sample, augmentation, rng)
        return sample

    def _twin(
        self,
        pair: BlendedPair,
        sample: FaceSample,
        augmentation: Augmentation,
        rng: np.random.Generator,
    ) -> FaceSample:
        """The blend of a real sample, forged by label; views that need other rows are None."""
        twin = FaceSample(augmentation.image(pair.blend), sample.row, label=FAKE)
        for view in self.views:
            picture = None
            if view == "paired_real":
                picture = sample.image
            elif view == "key" or (view == "positive" and "image" in self.pairing):
                picture = self.augmenter.draw(rng).image(pair.blend)
            elif view == "strong" and self.compress_missing:
                picture = augmentation.image(compress_to(pair.blend, self.strong))
            elif view not in VIEWS:
                picture = FACE_VIEWS.get(view)(self, twin, pair.blend, rng)
            twin.views[view] = picture
        if self.with_masks:
            twin.mask = augmentation.mask(pair.soft > TWIN_MASK_LEVEL)
        return twin

    # -- the query ----------------------------------------------------------------------------

    @property
    def _compresses(self) -> bool:
        return "strong" in self.views and self.compress_missing

    def _query_crop(self, index: int, augmentation: Augmentation) -> np.ndarray:
        """A row's crop, weakly compressed where the method looks at compression."""
        row = self.manifest[index]
        make = self._compresses and row.compression != self.weak
        codec = self._codec(index, self.weak) if make else None
        return self.reader.crop(row, codec=codec, augmentation=augmentation)

    def _codec(self, index: int, level: str) -> Codec:
        """H.264 of a row's picture, after the frames of its clip that directly precede it."""

        def encode(image: np.ndarray) -> np.ndarray:
            before = []
            for other in self.pairs.preceding(index, self.clip_frames):
                try:
                    before.append(self.reader.picture(self.manifest[other].path))
                except ImageError:  # told of where it is a sample's own picture
                    before = []
            if any(frame.shape != image.shape for frame in before):  # crops of several sizes
                before = []
            return compress_to(image, level, before)

        return encode

    def _wants_real(self, augmentation: Augmentation) -> bool:
        return augmentation.mixup is not None or bool({"paired_real", "key"} & set(self.views))

    def _paired_real(
        self, row: FaceRow, sample: FaceSample, augmentation: Augmentation
    ) -> np.ndarray | None:
        if row.label != FAKE or not row.paired_real:
            return None
        path = row.paired_real
        return self._try(
            sample.row, sample, lambda: self.reader.crop(row, path, augmentation=augmentation)
        )

    @staticmethod
    def _mixed(
        image: np.ndarray, real: np.ndarray | None, augmentation: Augmentation
    ) -> np.ndarray:
        if augmentation.mixup is None or real is None:
            return image
        return mix(image, real, augmentation.mixup)

    # -- the further views --------------------------------------------------------------------

    def _key(
        self,
        plain: np.ndarray,
        real: np.ndarray | None,
        sample: FaceSample,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """DCL: a view drawn on its own, of another frame where frame shift is drawn."""
        augmentation = self.augmenter.draw(rng)
        shift = getattr(self.augmenter, "frame_shift_prob", 0.0)
        partner = None
        if rng.random() < shift:
            partner = self.pairs.other_frame(sample.row, rng)
        if partner is not None:
            row = self.manifest[partner]
            shifted = self._crop_of(partner, sample, augmentation)
            if shifted is not None:
                plain = shifted
                mixes = augmentation.mixup is not None
                real = self._paired_real(row, sample, augmentation) if mixes else None
        return augmentation.image(self._mixed(plain, real, augmentation))

    def _positive(
        self,
        plain: np.ndarray,
        real: np.ndarray | None,
        sample: FaceSample,
        rng: np.random.Generator,
    ) -> np.ndarray | None:
        """RealCentric: one level drawn uniformly among those that the row has.

        docs/methods.md#realcentric-pairing.
        """
        index = sample.row
        partners: dict[str, int | None] = {}
        for level in self.pairing:
            partners[level] = {
                "image": lambda: index,
                "temporal": lambda: self.pairs.near_frame(index, self.pairing_frames, rng),
                "semantic": lambda: self.pairs.semantic(index, rng),
                "class": lambda: self.pairs.same_class(index, rng),
            }[level]()
        found = [partner for partner in partners.values() if partner is not None]
        if not found:
            return None
        partner = found[int(rng.integers(len(found)))]
        augmentation = self.augmenter.draw(rng)
        if partner != index:
            other = self._crop_of(partner, sample, augmentation)
            return None if other is None else augmentation.image(other)
        return augmentation.image(plain)

    def _strong(
        self,
        row: FaceRow,
        augmentation: Augmentation,
        sample: FaceSample,
        pair: BlendedPair | None,
    ) -> np.ndarray | None:
        """CompressionRelation: the same frame and crop box under strong compression.

        Of a row with a twin the crop itself is compressed: it may have changed its colours, and
        the twin has no frame.
        """
        if pair is not None:
            if not self.compress_missing:
                return None
            return augmentation.image(compress_to(pair.real, self.strong))
        stored = self.pairs.at_compression(sample.row, self.strong)
        if stored is not None:
            crop = self._crop_of(stored, sample, augmentation)
        elif self.compress_missing:
            codec = self._codec(sample.row, self.strong)
            crop = self.reader.crop(row, codec=codec, augmentation=augmentation)
        else:
            return None
        return None if crop is None else augmentation.image(crop)

    def _other(
        self,
        plain: np.ndarray,
        real: np.ndarray | None,
        sample: FaceSample,
        rng: np.random.Generator,
    ) -> np.ndarray | None:
        """CompressionRelation: x', another weakly compressed frame of the clip."""
        partner = self.pairs.other_frame(sample.row, rng)
        if partner is None:
            return None
        augmentation = self.augmenter.draw(rng)
        crop = self._try(partner, sample, lambda: self._query_crop(partner, augmentation))
        return None if crop is None else augmentation.image(crop)

    def _crop_of(
        self, index: int, sample: FaceSample, augmentation: Augmentation
    ) -> np.ndarray | None:
        """The crop of another row than the sample's own; None as ``_try``."""
        row = self.manifest[index]
        return self._try(index, sample, lambda: self.reader.crop(row, augmentation=augmentation))

    @staticmethod
    def _try(
        index: int, sample: FaceSample, read: Callable[[], np.ndarray | None]
    ) -> np.ndarray | None:
        """What ``read`` returns; None, and a note in the sample, if a picture is broken."""
        try:
            return read()
        except ImageError as error:
            sample.broken.append((index, error))
            return None
