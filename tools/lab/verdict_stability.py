#!/usr/bin/env python
"""How much a verdict moves when nothing of substance does: the box by a little, a video's sampling.

--sources: of faces drawn from each (NAME=ENTRY, as for tools/lab/benchmark_sources.py), P(fake) is
asked at the box and at boxes that are shifted and scaled by up to --jitter of its side. Printed per
model and way of cropping (--ways): how many crops the face method looks at and the time they take,
the standard deviation of P(fake) over the jittered boxes (mean over faces), the largest change, how
many faces change sides, and of how many all boxes give the same P(fake). --labelled N adds, over N
faces of each class and source at their own boxes, the mean change of P(fake) beside the first way,
AUC (mean over sources), and the shares of real and forged faces called forged (all sources).

Ways: box: the crop at the box, with its mirror image where the model looks at that too; once: the
crop alone; grid:G: MODEL.FACE.CROP_GRID G; grids:G: the crop on that grid, and the mirror image of
one on a grid half a step aside; pair:F: the crop, and the mirror image of one F times as large;
crops:N: N boxes, the first of them itself, each as the way box.

--videos: P(fake) of each video when 1, 2, 5 and 10 frames a second are analysed.

Exit code: 0 done; 2 unusable arguments or files.

Example:
  tools/lab/verdict_stability.py --weights new.safetensors old.safetensors \\
      --sources "dfdc=faces.csv@split=val" --ways box grid:0.05 crops:3 --videos clips/*.mp4
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from benchmark_sources import named

EXIT_ARGUMENTS = 2
FACES, REPEATS, JITTER = 60, 8, 0.01
RATES = (1.0, 2.0, 5.0, 10.0)  # frames a second
WAYS = ("box", "crops:3")
OWN_SPREAD = 0.02  # of the boxes of crops:N about the one given, a share of its side

Box = tuple[float, ...]
Cut = tuple[tuple[int, ...], bool]  # a window, and whether its mirror image is looked at


@dataclass(frozen=True)
class Face:
    """A face that has a box."""

    source: str
    path: str
    box: Box
    label: int


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", nargs="+", required=True, metavar="FILE", help="model files")
    parser.add_argument("--sources", nargs="+", default=[], metavar="NAME=ENTRY")
    parser.add_argument("--faces", type=int, default=FACES, metavar="N", help="of each (60)")
    parser.add_argument("--labelled", type=int, default=0, metavar="N", help="of each class (0)")
    parser.add_argument("--jitter", type=float, default=JITTER, metavar="SHARE", help="(0.01)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), metavar="NAME:LEVEL")
    parser.add_argument("--videos", nargs="+", type=Path, default=[], metavar="FILE")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each video, from its start")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    from comics.inference.load import load_predictor

    try:
        ways = {text: way_of(text) for text in options.ways}
        faces = [face for text in options.sources for face in _faces(text)]
        for path in options.weights:
            predictor = load_predictor(path, "cpu")
            print(f"{path}, threshold {predictor.rule.fake_threshold:.4f}")
            if faces:
                _boxes(predictor, drawn(faces, options.faces), ways, options.jitter)
            if faces and options.labelled:
                _figures(predictor, drawn(faces, options.labelled, by_class=True), ways)
            if options.videos:
                _videos(predictor, options)
    except (OSError, KeyError, ValueError) as error:
        print(f"verdict_stability.py: {error}", file=sys.stderr)
        return EXIT_ARGUMENTS
    return 0


def _faces(text: str) -> list[Face]:
    """The faces of a source that have a box."""
    from comics.config import get_cfg
    from comics.data.faces.loader import load_faces

    name, entry = named(text)
    manifest = load_faces(get_cfg(), entry)
    rows = [manifest[i] for i in np.flatnonzero(~np.isnan(manifest.boxes[:, 0])).tolist()]
    return [Face(name, row.path, tuple(row.box), row.label) for row in rows if row.box is not None]


def drawn(faces: Sequence[Face], count: int, by_class: bool = False) -> list[Face]:
    """So many of each source, or of each class of each source, always the same ones."""
    parts: dict[tuple, list[Face]] = {}
    for face in faces:
        parts.setdefault((face.source, face.label if by_class else None), []).append(face)
    return [
        part[position]
        for part in parts.values()
        for position in np.random.default_rng(0).permutation(len(part))[:count].tolist()
    ]


def way_of(text: str) -> Callable[[Box, float, bool], list[Cut]]:
    """How the crops of one box are placed: takes the box, the margin, and the model's mirroring.

    Raises:
        ValueError: for an unknown way.
    """
    name, _, level = text.partition(":")
    number = float(level) if level else 0.0

    def crops(box: Box, margin: float, mirror: bool) -> list[Cut]:
        own = np.random.default_rng(2)
        boxes = [box, *(moved(box, OWN_SPREAD, own) for _ in range(int(number) - 1))]
        return [cut for each in boxes for cut in _both(_window(each, margin), mirror)]

    ways: dict[str, Callable[[Box, float, bool], list[Cut]]] = {
        "box": lambda box, margin, mirror: _both(_window(box, margin), mirror),
        "once": lambda box, margin, _: [(_window(box, margin), False)],
        "grid": lambda box, margin, mirror: _both(_window(box, margin, number), mirror),
        "grids": lambda box, margin, _: [
            (_window(box, margin, number), False), (_aside(box, margin, number), True)
        ],
        "pair": lambda box, margin, _: [
            (_window(box, margin), False), (_window(_scaled(box, number), margin), True)
        ],
        "crops": crops,
    }  # fmt: skip
    if name not in ways or bool(level) != (name not in ("box", "once")):
        raise ValueError(f"{text!r} is no way of cropping; there are {', '.join(ways)}")
    return ways[name]


def _both(window: tuple[int, ...], mirror: bool) -> list[Cut]:
    return [(window, flipped) for flipped in ((False, True) if mirror else (False,))]


def _window(box: Box, margin: float, grid: float = 0.0) -> tuple[int, ...]:
    import torch

    from comics.ops.crops import square_windows

    return tuple(square_windows(torch.tensor([box]), margin, grid)[0].tolist())


def _aside(box: Box, margin: float, grid: float) -> tuple[int, ...]:
    """The window on a grid whose lines lie half a step beside those of ``square_windows``."""
    x0, y0, x1, y1 = box
    base = math.log1p(grid)
    side = max(x1 - x0, y1 - y0) * (1 + 2 * margin)
    side = math.exp((math.floor(math.log(side) / base) + 0.5) * base)
    step, whole = grid * side, max(1, round(side))
    x, y = ((math.floor(c / 2 / step) + 0.5) * step for c in (x0 + x1, y0 + y1))
    left, top = math.floor(x - whole / 2 + 0.5), math.floor(y - whole / 2 + 0.5)
    return left, top, left + whole, top + whole


def _scaled(box: Box, factor: float) -> Box:
    x0, y0, x1, y1 = box
    dx, dy = (x1 - x0) * (factor - 1) / 2, (y1 - y0) * (factor - 1) / 2
    return (x0 - dx, y0 - dy, x1 + dx, y1 + dy)


def moved(box: Sequence[float], share: float, rng: np.random.Generator) -> Box:
    """A box shifted along both axes, and scaled, each by up to a share of its longer side."""
    x0, y0, x1, y1 = box
    side = max(x1 - x0, y1 - y0)
    dx, dy, grown = rng.uniform(-share, share, 3) * side
    return (x0 + dx - grown / 2, y0 + dy - grown / 2, x1 + dx + grown / 2, y1 + dy + grown / 2)


def _boxes(predictor, faces: Sequence[Face], ways, jitter: float) -> None:
    """Print how much P(fake) moves with the box."""
    rng = np.random.default_rng(1)
    asked = [[face.box, *(moved(face.box, jitter, rng) for _ in range(REPEATS))] for face in faces]
    said, crops, seconds = probabilities(predictor, faces, asked, ways)
    threshold = predictor.rule.fake_threshold
    print("way | crops | ms a face | sd of P(fake) | largest change | sides changed | all equal")
    for position, way in enumerate(ways):
        p = said[position]
        changes = np.abs(p[:, 1:] - p[:, :1])
        sides = (p >= threshold).any(1) & (p < threshold).any(1)
        print(f"{way} | {crops[position]:g} | {1000 * seconds * crops[position]:.1f} | "
              f"{p[:, 1:].std(1).mean():.4f} | {changes.max():.4f} | {sides.sum()} of {len(p)} | "
              f"{(np.ptp(p, axis=1) == 0).mean():.0%}")  # fmt: skip


def _figures(predictor, faces: Sequence[Face], ways) -> None:
    """Print what the verdicts at the faces' own boxes are worth."""
    from comics.evaluation.classification import auc

    said, *_ = probabilities(predictor, faces, [[face.box] for face in faces], ways)
    threshold = predictor.rule.fake_threshold
    labels = np.array([face.label for face in faces])
    sources = np.array([face.source for face in faces])
    names = list(dict.fromkeys(sources.tolist()))
    print(f"way | mean change | AUC | real called forged | forged called forged | "
          f"AUC of {', '.join(names)} ({len(faces)} faces)")  # fmt: skip
    for position, way in enumerate(ways):
        p = said[position, :, 0]
        each = [auc(labels[sources == name], p[sources == name]) for name in names]
        called = p >= threshold
        print(f"{way} | {np.abs(p - said[0, :, 0]).mean():.4f} | {np.mean(each):.4f} | "
              f"{called[labels == 0].sum()} of {(labels == 0).sum()} | "
              f"{called[labels == 1].sum()} of {(labels == 1).sum()} | "
              f"{', '.join(f'{value:.4f}' for value in each)}")  # fmt: skip


def probabilities(
    predictor, faces: Sequence[Face], asked: Sequence[Sequence[Box]], ways
) -> tuple[np.ndarray, np.ndarray, float]:
    """P(fake) of the face method at boxes of faces.

    Args:
        predictor: with a face method.
        faces: [F].
        asked: [F][B] boxes of each.
        ways: name -> what ``way_of`` gives; [W].

    Returns:
        [W, F, B] P(fake); [W] crops that are looked at for one; the seconds that one takes.
    """
    import torch

    from comics.data.images import image_to_tensor, read_image
    from comics.evaluation.calibration import calibrate
    from comics.ops.crops import usable_boxes

    model = predictor.model
    said = np.empty((len(ways), len(faces), len(asked[0])))
    counts, seconds, forwarded = np.zeros(len(ways)), 0.0, 0
    for row, (face, boxes) in enumerate(zip(faces, asked, strict=True)):
        image = image_to_tensor(read_image(face.path))
        usable = usable_boxes(torch.tensor(boxes, dtype=torch.float32), image.shape[-2:]).tolist()
        cuts = [
            [way(tuple(box), model.margin, model.mirror) for box in usable] for way in ways.values()
        ]
        wanted = list(dict.fromkeys(cut for way in cuts for box in way for cut in box))
        begun = time.perf_counter()
        logits = dict(zip(wanted, _logits(model, image, wanted), strict=True))
        seconds += time.perf_counter() - begun
        forwarded += len(wanted)
        for position, way in enumerate(cuts):
            counts[position] = len(way[0])
            said[position, row] = [np.mean([logits[cut] for cut in box]) for box in way]
    raw = 1 / (1 + np.exp(-said / model.face_temperature.item()))
    p = calibrate(raw.ravel(), predictor.rule.temperature).reshape(raw.shape)
    return p, counts, seconds / max(forwarded, 1)


def _logits(model, image, cuts: Sequence[Cut]) -> list[float]:
    """The face method's logit of each crop."""
    import torch

    from comics.ops.crops import crop_windows

    found: list[float] = []
    for start in range(0, len(cuts), model.crops_per_forward):
        part = cuts[start : start + model.crops_per_forward]
        windows = torch.tensor([window for window, _ in part])
        crops = crop_windows(image, windows, model.face.crop_size, model.border)
        flipped = torch.tensor([flipped for _, flipped in part])
        crops[flipped] = crops[flipped].flip(-1)
        with torch.inference_mode():
            found += model.face(crops).double().tolist()
    return found


def _videos(predictor, options: argparse.Namespace) -> None:
    from comics.runs.inputs import InputFile
    from comics.runs.video import VideoOptions, VideoOutputs, run_video

    print("video | " + " | ".join(f"{rate:g} fps" for rate in RATES) + " | verdicts")
    for path in options.videos:
        said, verdicts = [], set()
        for rate in RATES:
            with tempfile.TemporaryDirectory() as folder:
                status = run_video(
                    InputFile(path, PurePath(path.name)), predictor,
                    VideoOptions(max_fps=rate, end_s=options.seconds, rule=predictor.video_rule),
                    lambda *_: None, VideoOutputs(Path(folder)),
                )  # fmt: skip
            said.append(status.fake_probability)
            verdicts.add(str(status.verdict or status.reason))
        cells = " | ".join("–" if p is None else f"{p:.3f}" for p in said)
        print(f"{path.name} | {cells} | {', '.join(sorted(verdicts))}")


if __name__ == "__main__":
    sys.exit(main())
