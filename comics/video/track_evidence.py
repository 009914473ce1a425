"""The frame of a track that is shown for it: that in which its face looks most forged.

Of a picture's face, results hold a mask and, where asked for, a heat map and its stability. Of a
person in a video they hold the same, of this frame.

Shape letters: H, W height and width of the frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from comics.inference.heat_grids import HeatGrid
from comics.runs.outputs import BOX_DECIMALS, SCORE_DECIMALS, stability_entry


@dataclass(frozen=True)
class TrackEvidence:
    """A face of a track in its most suspicious frame; of several such frames the first.

    Attributes:
        frame: its index in the part of the video that was looked at.
        time_s: seconds since the video's first frame.
        size: (H, W).
        box: (x, y, width, height) in pixels of the frame.
        fake_probability: what that frame alone says.
        mask: COCO's RLE; None of a detector without masks.
        stability: see ``comics.inference.stability``; None: not measured.
        heat_map: None: not asked for.
        picture: of the frame with its heat maps, relative to the run's folder; None: not written.
    """

    frame: int
    time_s: float
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    fake_probability: float
    mask: Mapping[str, object] | None = None
    stability: Mapping[str, float | None] | None = None
    heat_map: HeatGrid | None = None
    picture: str | None = None

    def entry(self) -> dict[str, object]:
        """What results say of it; JSON."""
        told: dict[str, object] = {
            "frame": self.frame,
            "time_s": self.time_s,
            "width": self.size[1],
            "height": self.size[0],
            "bbox": [round(value, BOX_DECIMALS) for value in self.box],
            "fake_probability": round(self.fake_probability, SCORE_DECIMALS),
        }
        if self.mask is not None:
            told["segmentation"] = dict(self.mask)
        if self.stability is not None:
            told["stability"] = stability_entry(self.stability)
        if self.heat_map is not None:
            told["heat_map"] = self.heat_map.entry()
        if self.picture is not None:
            told["picture"] = self.picture
        return told
