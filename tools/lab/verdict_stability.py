#!/usr/bin/env python
"""How much a verdict moves when nothing of substance does: the box by a little, a video's sampling.

--sources: of faces drawn from each (NAME=ENTRY, as for tools/lab/benchmark_sources.py), P(fake) is
asked at the box and at boxes that are shifted and scaled by up to --jitter of its side. Printed per
model: the standard deviation of P(fake) over the jittered boxes (mean over faces), the largest
change, and how many faces change sides; the same where P(fake) is the mean logit of several crops
(--crops), with what that costs.

--videos: P(fake) of each video when 1, 2, 5 and 10 frames a second are analysed.

Exit code: 0 done; 2 unusable arguments or files.

Example:
  tools/lab/verdict_stability.py --weights new.safetensors old.safetensors \\
      --sources "dfdc=faces.csv@split=val" --videos clips/*.mp4
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from benchmark_sources import named

EXIT_ARGUMENTS = 2
FACES, REPEATS, JITTER = 60, 8, 0.01
RATES = (1.0, 2.0, 5.0, 10.0)  # frames a second
CROPS = (1, 3, 5)  # boxes that one P(fake) is the mean of
OWN_SPREAD = 0.02  # of these boxes about the one given, a share of its side


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", nargs="+", required=True, metavar="FILE", help="model files")
    parser.add_argument("--sources", nargs="+", default=[], metavar="NAME=ENTRY")
    parser.add_argument("--faces", type=int, default=FACES, metavar="N", help="of each (60)")
    parser.add_argument("--jitter", type=float, default=JITTER, metavar="SHARE", help="(0.01)")
    parser.add_argument("--crops", nargs="+", type=int, default=list(CROPS), metavar="N")
    parser.add_argument("--videos", nargs="+", type=Path, default=[], metavar="FILE")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each video, from its start")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    from comics.inference.load import load_predictor

    try:
        faces = [face for text in options.sources for face in _faces(text, options.faces)]
        for path in options.weights:
            predictor = load_predictor(path, "cpu")
            print(f"{path}, threshold {predictor.rule.fake_threshold:.4f}")
            if faces:
                _boxes(predictor, faces, options)
            if options.videos:
                _videos(predictor, options)
    except (OSError, KeyError, ValueError) as error:
        print(f"verdict_stability.py: {error}", file=sys.stderr)
        return EXIT_ARGUMENTS
    return 0


def _faces(text: str, count: int) -> list[tuple[np.ndarray, tuple[float, ...]]]:
    """(picture, box) of faces that have one, drawn, always the same ones."""
    from comics.config import get_cfg
    from comics.data.faces.loader import load_faces
    from comics.data.images import read_image

    _, entry = named(text)
    manifest = load_faces(get_cfg(), entry)
    known = np.flatnonzero(~np.isnan(manifest.boxes[:, 0]))
    chosen = np.random.default_rng(0).permutation(known)[:count]
    rows = [manifest[index] for index in chosen.tolist()]
    return [(read_image(row.path), tuple(row.box)) for row in rows if row.box is not None]


def _boxes(predictor, faces: Sequence, options: argparse.Namespace) -> None:
    print("crops | ms a face | sd of P(fake) | largest change | sides changed")
    for crops in options.crops:
        rng = np.random.default_rng(1)
        found, started = [], time.perf_counter()
        for image, box in faces:
            asked = [box, *(moved(box, options.jitter, rng) for _ in range(REPEATS))]
            found.append(_probabilities(predictor, image, asked, crops))
        p = np.array(found)
        seconds = (time.perf_counter() - started) / p.size
        changes = np.abs(p[:, 1:] - p[:, :1])
        sides = (p >= predictor.rule.fake_threshold).any(1) & (
            p < predictor.rule.fake_threshold
        ).any(1)
        print(f"{crops:5} | {1000 * seconds:9.1f} | {p[:, 1:].std(1).mean():13.4f} | "
              f"{changes.max():14.4f} | {sides.sum()} of {len(p)}")  # fmt: skip


def moved(box: Sequence[float], share: float, rng: np.random.Generator) -> tuple[float, ...]:
    """A box shifted along both axes, and scaled, each by up to a share of its longer side."""
    x0, y0, x1, y1 = box
    side = max(x1 - x0, y1 - y0)
    dx, dy, grown = rng.uniform(-share, share, 3) * side
    return (x0 + dx - grown / 2, y0 + dy - grown / 2, x1 + dx + grown / 2, y1 + dy + grown / 2)


def _probabilities(predictor, image: np.ndarray, boxes: Sequence, crops: int) -> list[float]:
    """P(fake) at each box: the mean logit of ``crops`` boxes about it, the first of them itself."""
    import torch

    from comics.data.images import image_to_tensor
    from comics.evaluation.calibration import calibrate

    own = np.random.default_rng(2)
    asked = [
        place
        for box in boxes
        for place in [box, *(moved(box, OWN_SPREAD, own) for _ in range(crops - 1))]
    ]
    with torch.inference_mode():
        (said,) = predictor.model.face_probability(
            [image_to_tensor(image)], [torch.tensor(asked, dtype=torch.float32)]
        )
    logits = torch.logit(said.double().clamp(1e-6, 1 - 1e-6)).reshape(-1, crops).mean(1)
    return calibrate(torch.sigmoid(logits).tolist(), predictor.rule.temperature).tolist()


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
