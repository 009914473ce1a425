"""Options that the commands which go through files share, in the groups that ``--help`` shows."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from comics.inference.runtimes import RUNTIMES

if TYPE_CHECKING:
    from comics.inference.predictor import Predictor

TILING_MODES = ("never", "auto", "always")


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """What is looked at."""
    group = parser.add_argument_group("inputs")
    group.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="picture, video, folder, pattern, webcam:0, rtsp://...; - reads paths from the "
        "standard input",
    )
    group.add_argument(
        "--list",
        action="append",
        default=[],
        metavar="FILE",
        help="a file that names one path a line (or NUL-separated); - is the standard input",
    )
    group.add_argument(
        "--shard",
        default="1/1",
        metavar="I/N",
        help="process part I of N only; a file's part follows from its name alone. Each part "
        "needs a folder of its own",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What judges, and where."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--weights",
        metavar="FILE",
        help="model file (.safetensors) of comics train or combine, or ONNX file of comics export; "
        "an address https://...#sha256=... or hf://owner/repository/file@commit (default: what the "
        "environment variable COMICS_WEIGHTS names, or the model that comes with the package)",
    )
    group.add_argument(
        "--face-weights", metavar="FILE", help="a face method that looks again at every face"
    )
    group.add_argument(
        "--score-threshold",
        type=float,
        metavar="P",
        help="drop faces found with less confidence (default: the model's TEST.SCORE_THRESH)",
    )
    group.add_argument(
        "--fake-threshold",
        type=float,
        metavar="P",
        help="call a face forged from this fake_probability on (default: TEST.FAKE_THRESH)",
    )
    group.add_argument(
        "--tiling",
        choices=TILING_MODES,
        help="also look at large pictures tile by tile, for small faces: auto where the picture "
        "would be shrunk much, always where it is larger than a tile; each tile costs as much "
        "as a picture (default: TEST.TILING.MODE, which is never unless the model says so)",
    )


def add_trust_argument(group: argparse._ArgumentGroup) -> None:
    """Whose Content Credentials are trusted."""
    group.add_argument(
        "--trust-list",
        type=Path,
        metavar="FILE",
        help="PEM certificates: signers of Content Credentials (C2PA) that lead to one of them are "
        "called trusted (default: none is)",
    )


def add_runtime_argument(group: argparse._ArgumentGroup) -> None:
    """What the networks run in."""
    group.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help="what the networks run in: torch; onnx (ONNX Runtime) or openvino: on the CPU, about "
        "twice as quick, with files that are made at the first use, in seconds, and kept in "
        "$COMICS_CACHE or ~/.cache/comics; auto: the quickest that is installed where there is no "
        "GPU, else PyTorch (default: $COMICS_RUNTIME, else auto)",
    )


def chosen_predictor(options: argparse.Namespace, **more: bool) -> Predictor:
    """The predictor that ``add_model_arguments`` and ``--device`` describe.

    Args:
        options: as parsed.
        more: further arguments of ``load_predictor``.

    Raises:
        FileNotFoundError, ValueError: as ``default_weights`` and ``load_predictor``.
    """
    # After the arguments are known to be sound: these imports take seconds
    from comics.inference.default_weights import default_weights
    from comics.inference.load import load_predictor

    return load_predictor(
        default_weights(options.weights),
        options.device,
        score_threshold=options.score_threshold,
        fake_threshold=options.fake_threshold,
        face_weights=options.face_weights,
        tiling=options.tiling,
        runtime=options.runtime,
        report=lambda line: print(line, file=sys.stderr, flush=True),
        **more,
    )


def add_speed_arguments(parser: argparse.ArgumentParser) -> None:
    """What changes the time a run takes, and little else."""
    group = parser.add_argument_group("speed")
    group.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1"
    )
    group.add_argument(
        "--batch-size", type=int, default=4, metavar="N", help="images at once (default: 4)"
    )
    add_runtime_argument(group)
    group.add_argument(
        "--decoding-threads",
        type=int,
        default=2,
        metavar="N",
        help="pictures decoded at once, while the model works (default: 2)",
    )
    group.add_argument(
        "--amp",
        action="store_true",
        help="mixed precision on CUDA: faster, verdicts differ in the third decimal or so",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile the backbone first: a minute or more, then faster; needs a C++ compiler",
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """What is written."""
    group = parser.add_argument_group("outputs")
    group.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="for results")
    group.add_argument(
        "--no-media", action="store_true", help="write no annotated pictures and videos"
    )
    group.add_argument(
        "--heat-maps",
        action="store_true",
        help="where the face method sees forgery in each face; of a video, in the frame that is "
        "shown for each person",
    )
    group.add_argument(
        "--stability",
        action="store_true",
        help="also P(fake) of each face after the picture was saved as JPEG of quality 75 and 50, "
        "and at half its size; of a video, in the frame that is shown for each person. A picture "
        "with faces takes four times as long",
    )
    add_trust_argument(group)
    group.add_argument("--crops", action="store_true", help="also write a picture of every face")
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="start over in a folder that holds a run, whatever its settings; files that are not "
        "made again stay",
    )
