"""What the report says of one face, for someone who has to decide on it: its page.

Every page is complete without a script: the crop with nothing drawn on it, its mask and its heat
map as drawings over the same crop, the figures, how firm they are, and what they mean.

Shape letters: H, W height and width of the picture.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from comics.data.images import DEFAULT_MAX_PIXELS
from comics.inference.doubt import REASONS
from comics.inference.knowledge import ErrorRate, error_rates_of
from comics.inference.stability import TREATMENTS
from comics.ops.crops import margin_window
from comics.ops.masks import segmentation_to_rle
from comics.pages.report_rows import FaceRow, RunRows
from comics.pages.thumbnails import FacePicture
from comics.runs.pictures import CROP_MARGIN
from comics.structures import VERDICTS
from comics.video.track_verdicts import clock

NO_ERROR_RATES = (
    "The model file holds no error rates by size and quality of face, so none are given."
)
NOT_MEASURED = "not measured: comics detect --stability does"
COMPARE = "comics compare {name} ORIGINAL --output comparison.html"
MAX_RATES = 4  # shown of a face
MAX_GROUPS = 6  # of error rates on the first page
MASK_DETAIL = 0.5  # pixels by which the outline may differ from the mask's

# What a face's figures mean; also on the server's page, whose script fills them in
SENTENCES = {
    "unclear": "Treat this as no answer: {why}. A larger or less compressed copy may give one.",
    "fake_changed": "The verdict does not hold when the picture is {treatments}: it rests on fine "
    "traces, which such copies lose. Look for the picture in a better copy before you rely on it.",
    "real_changed": "The verdict does not hold when the picture is {treatments}: a copy of this "
    "picture may be called something else, so look at it yourself.",
    "lost": " When the picture is {treatments}, the face is not found again.",
    "steady": " It stays so when the picture is saved again or shrunk.",
    # Of a person in a video: one frame of many was treated
    "frame_changed": " The frame that is shown says otherwise when it is {treatments}.",
    "frame_lost": " When the frame that is shown is {treatments}, the face is not found again.",
    "frame_steady": " The frame that is shown says the same when it is saved again or shrunk.",
    "fake": "This face has traces like those of the forgeries that the model knows.{firm} That is "
    "an estimate and no proof: look for the original.",
    "real": "None of the traces that the model knows was seen in this face.{firm} A forgery of a "
    "kind that it does not know looks the same to it.",
}

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Judge:
    """How a run turned P(fake) into a verdict: its threshold, and what is too near to it."""

    threshold: float
    below: float
    above: float

    def verdict(self, probability: float) -> str:
        """ "real", "fake" or "unclear", of P(fake) alone."""
        if self.threshold - self.below <= probability < self.threshold + self.above:
            return "unclear"
        return "fake" if probability >= self.threshold else "real"


def face_pages(run: RunRows, pictures: Mapping[int, FacePicture]) -> list[dict[str, Any]]:
    """What the template shows of each face that has a picture: forged ones, unclear ones, others.

    Args:
        run: its rows.
        pictures: position of a face among the run's -> its picture.
    """
    judge = Judge(run.fake_threshold, *run.near)
    order = sorted(pictures, key=lambda place: _order(run.faces[place]))
    pages = [_page(run, place, pictures[place], judge) for place in order]
    for page, before, after in zip(pages, [None, *pages], [*pages[1:], None], strict=False):
        page["previous"] = None if before is None else before["anchor"]
        page["next"] = None if after is None else after["anchor"]
    return pages


def anchor(place: int) -> str:
    """The id of a face's page; ``place`` is its position among the run's faces."""
    return f"face-{place}"


def verdict_name(face: FaceRow) -> str:
    """Of ``comics.structures.VERDICTS``."""
    return "unclear" if face.doubts else VERDICTS[face.label]


def _order(face: FaceRow) -> tuple:
    """What must be looked at first: on paper it has pages of its own."""
    urgency = ["fake", "unclear", "real"].index(verdict_name(face))
    return (urgency, *face.file.rank, -face.probability)


def _page(run: RunRows, place: int, picture: FacePicture, judge: Judge) -> dict[str, Any]:
    face = run.faces[place]
    verdict = verdict_name(face)
    window = _window(face, picture)
    view = window or (0, 0, *picture.size)
    size = None if face.view is None else face.view[1]
    return {
        "anchor": anchor(place),
        "name": face.file.name,
        "what": f"person {face.track}" if face.track is not None else f"face {face.place + 1}",
        "verdict": verdict,
        "picture": picture.uri,
        "drawn_over": picture.drawn_over,
        "view": view,
        "mask": None if window is None else mask_path(face.mask, size, window),
        "heat": None if window is None else face.heat,
        "facts": _facts(run, face, judge),
        "meaning": meaning(verdict, face, judge),
        # What must be looked at has a page of its own on paper; others share one
        "own_page": verdict != "real",
    }


def _window(face: FaceRow, picture: FacePicture) -> tuple[int, int, int, int] | None:
    """(left, top, width, height) of the crop in the picture or frame; None where it is not known.

    A crop that was cut from an annotated video is of the file's most suspicious frame, which need
    not be the track's.
    """
    other_frame = face.shown is not None and face.shown.index != face.file.peak_frame
    if face.view is None or (picture.drawn_over and other_frame):
        return None
    (x, y, width, height), (columns, rows) = face.view
    size = (rows, columns)
    left, top, right, bottom = margin_window((x, y, x + width, y + height), size, CROP_MARGIN)
    return left, top, right - left, bottom - top


def mask_path(
    mask: Mapping | None, size: tuple[int, int] | None, window: tuple[int, int, int, int]
) -> str | None:
    """The outlines of a mask as an SVG path, in pixels of the picture; None without a usable one.

    Args:
        mask: COCO's RLE, from a document that may be a stranger's.
        size: (W, H) of the picture.
        window: (left, top, width, height) beyond which nothing is shown.
    """
    if mask is None or size is None or size[0] * size[1] > DEFAULT_MAX_PIXELS:
        return None
    try:
        rle = segmentation_to_rle(dict(mask), size[1], size[0])
        bitmap = coco_mask.decode(rle)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    left, top, width, height = window
    part = np.ascontiguousarray(bitmap[top : top + height, left : left + width])
    contours, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    pieces = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, MASK_DETAIL, True)[:, 0]
        told = " ".join(f"{x + left + 0.5:g},{y + top + 0.5:g}" for x, y in points.tolist())
        pieces.append(f"M{told}Z")
    return "".join(pieces) or None


def _facts(run: RunRows, face: FaceRow, judge: Judge) -> Pairs:
    width, height = (round(side) for side in face.size)
    facts = [
        ("P(fake)", f"{face.probability:.3f}; {_band(judge)}"),
        ("Its uncertainty", _uncertainty(face, run.provenance)),
        ("Score", f"{face.score:.3f}: how sure it is that there is a face"),
        ("Size", f"{width} × {height} pixels" + (" (median)" if face.track is not None else "")),
    ]
    if face.doubts:
        facts.append(("Unclear because", "; ".join(REASONS[name] for name in face.doubts)))
    if face.track is not None and face.times is not None:
        seen = " – ".join(map(clock, face.times))
        facts.append(("Seen", f"{seen}, in {face.frames} analysed frames"))
    if face.shown is not None:
        at, alone = clock(face.shown.time_s), f"P(fake) {face.shown.probability:.3f}"
        facts.append(("Shown", f"the frame at {at}, where it looks most forged: {alone} alone"))
    for name, text in TREATMENTS.items():
        if face.stability is not None and name in face.stability:
            facts.append((text[0].upper() + text[1:], _treated(face.stability[name], judge)))
    side = min(face.size)
    rates = [rate for rate in error_rates_of(run.provenance) if rate.covers(side)]
    facts.extend(("Error rate", rate.sentence()) for rate in rates[:MAX_RATES])
    if face.track is None:
        name = face.file.name
        name = shlex.quote(f"./{name}" if name.startswith("-") else name)  # for a shell
        facts.append(("Compare with an original", COMPARE.format(name=name)))
    return facts


def _band(judge: Judge) -> str:
    told = f"forged from {judge.threshold:g} on"
    if judge.below or judge.above:
        low, high = judge.threshold - judge.below, judge.threshold + judge.above
        told += f", unclear from {max(0.0, low):.3g} to {min(1.0, high):.3g}"
    return told


def _uncertainty(face: FaceRow, provenance: Mapping) -> str:
    calibration = provenance.get("calibration")
    state = calibration.get("state") if isinstance(calibration, Mapping) else None
    known = f"; {state}" if state in ("calibrated", "uncalibrated") else ""
    formed = "" if face.track is None else f"formed over {face.frames} frames"
    if face.stability is None:
        return (formed or NOT_MEASURED) + known
    told = [value for value in face.stability.values() if value is not None]
    values = [_alone(face), *told]
    what = "picture as it is" if face.track is None else "frame that is shown"
    return (
        f"{formed}{'; ' if formed else ''}{min(values):.3f} to {max(values):.3f}, over the {what} "
        f"and {len(told)} treated {'copy' if len(told) == 1 else 'copies'} of it{known}"
    )


def _alone(face: FaceRow) -> float:
    """P(fake) of the picture or frame that was treated."""
    return face.probability if face.shown is None else face.shown.probability


def _treated(probability: float | None, judge: Judge) -> str:
    if probability is None:
        return "the face is not found again"
    return f"P(fake) {probability:.3f}: {judge.verdict(probability)}"


def meaning(verdict: str, face: FaceRow, judge: Judge) -> str:
    """One sentence or two on what the figures of a face mean, for those who decide on it."""
    if verdict == "unclear":
        return SENTENCES["unclear"].format(why="; ".join(REASONS[name] for name in face.doubts))
    if face.track is not None:
        return SENTENCES[verdict].format(firm=_firm_frame(face, judge))
    changed, lost = _changes(verdict, face.stability, judge)
    if changed:
        return SENTENCES[f"{verdict}_changed"].format(treatments=_listed(changed))
    firm = ""
    if lost:
        firm = SENTENCES["lost"].format(treatments=_listed(lost))
    elif face.stability:
        firm = SENTENCES["steady"]
    return SENTENCES[verdict].format(firm=firm)


def _firm_frame(face: FaceRow, judge: Judge) -> str:
    """How firm the frame is that is shown for a person in a video; "" where it is not known."""
    if not face.stability:
        return ""
    changed, lost = _changes(judge.verdict(_alone(face)), face.stability, judge)
    if changed:
        return SENTENCES["frame_changed"].format(treatments=_listed(changed))
    if lost:
        return SENTENCES["frame_lost"].format(treatments=_listed(lost))
    return SENTENCES["frame_steady"]


def _changes(
    verdict: str, stability: Mapping[str, float | None] | None, judge: Judge
) -> tuple[list[str], list[str]]:
    """Treatments after which the verdict is another, and after which the face is not found."""
    told = stability or {}
    changed = [
        TREATMENTS[name]
        for name, value in told.items()
        if value is not None and judge.verdict(value) != verdict
    ]
    return changed, [TREATMENTS[name] for name, value in told.items() if value is None]


def _listed(texts: Sequence[str]) -> str:
    return " or ".join((", ".join(texts[:-1]), texts[-1])) if len(texts) > 1 else texts[0]


def rates_sentence(provenance: Mapping) -> str:
    """What the report says of the model's error rates."""
    groups: dict[tuple[str, str], list[ErrorRate]] = {}
    for rate in error_rates_of(provenance):
        groups.setdefault((rate.measured_on, rate.quality), []).append(rate)
    if not groups:
        return NO_ERROR_RATES
    told = [_group_sentence(*name, rates) for name, rates in list(groups.items())[:MAX_GROUPS]]
    return " ".join(["Measured, of real / of forged faces, as called forged:", *told])


def _group_sentence(measured_on: str, quality: str, rates: Sequence[ErrorRate]) -> str:
    """The rates of one measurement, by size of face."""
    parts = [
        f"{rate.sizes()} pixels {100 * rate.real_called_forged:.1f} / "
        f"{100 * rate.forged_called_forged:.1f} % ({rate.faces} faces)"
        for rate in rates
    ]
    return f"{measured_on}{', ' if quality else ''}{quality}: {', '.join(parts)}."
