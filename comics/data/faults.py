"""Every fault that a multi-face set can have, and what the reader does about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

ERROR, WARNING = "error", "warning"

# code -> (severity, treatment). An error: the reader refuses the set. A warning: it goes on so.
TREATMENTS = {
    # the annotation file
    "unreadable-file": (ERROR, "the set is refused"),
    "missing-key": (ERROR, "the set is refused"),
    "bad-value": (ERROR, "the set is refused"),
    "duplicate-image-id": (ERROR, "the set is refused"),
    "duplicate-annotation-id": (ERROR, "the set is refused"),
    "unknown-category": (ERROR, "the set is refused"),
    "unsafe-path": (ERROR, "the set is refused"),
    "categories-by-id": (WARNING, "category ids 0 and 1 are taken as real and fake"),
    "duplicate-file-name": (WARNING, "both entries are used"),
    "unknown-image": (WARNING, "the annotation is left out"),
    "no-faces": (WARNING, "the set serves for testing; training refuses it"),
    # boxes and masks
    "box-empty": (WARNING, "the face is left out"),
    "box-outside": (WARNING, "the face is left out"),
    "box-clipped": (WARNING, "the box is clipped to the image"),
    "polygon-outside": (WARNING, "the mask is cut at the border of the image"),
    "polygon-invalid": (WARNING, "the polygon is ignored; with none left, the box is the mask"),
    "mask-size": (WARNING, "the box is the mask"),
    "mask-invalid": (WARNING, "the box is the mask"),
    "mask-empty": (WARNING, "the box is the mask"),
    # image files
    "missing-image": (WARNING, "training replaces the image, testing skips and lists it"),
    "unreadable-image": (WARNING, "training replaces the image, testing skips and lists it"),
    "size-mismatch": (WARNING, "training replaces the image, testing skips and lists it"),
    "too-many-unusable-images": (WARNING, "the set serves for testing; training stops"),
    "no-usable-image": (ERROR, "nothing is left to train or test on"),
}


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        code: a key of ``TREATMENTS``.
        file: the annotation file, or the image file where the fault is in that.
        message: what is wrong, with the values.
        image_id, annotation_id: ids in the annotation file, where the fault has one.
    """

    code: str
    file: str
    message: str
    image_id: int | None = None
    annotation_id: int | None = None

    @property
    def severity(self) -> str:
        """``"error"`` (the reader refuses the set) or ``"warning"`` (it goes on)."""
        return TREATMENTS[self.code][0]

    @property
    def treatment(self) -> str:
        """What the reader does about it."""
        return TREATMENTS[self.code][1]

    def as_dict(self) -> dict:
        """All of it, for JSON."""
        return {**asdict(self), "severity": self.severity, "treatment": self.treatment}

    def __str__(self) -> str:
        where = [self.file]
        if self.image_id is not None:
            where.append(f"image {self.image_id}")
        if self.annotation_id is not None:
            where.append(f"annotation {self.annotation_id}")
        place = ", ".join(where)
        return f"{self.severity}: {place}: {self.message} [{self.code}: {self.treatment}]"
