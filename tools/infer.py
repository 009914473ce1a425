#!/usr/bin/env python
"""Find the faces in pictures and videos, and say which are forged.

INPUT is a picture, a video, a GIF, a folder (searched with its subfolders) or a pattern such as
"photos/**/*.jpg" (quote it, or let the shell expand it). The output folder gets

  results.json  every face: COCO box and mask, score (that it is a face), fake_probability; what
                became of every file; the model's name and SHA-256, thresholds and calibration
  media/        the inputs with boxes, masks and labels: blue and solid is real, orange and dashed
                is forged, the percentage says how probable the label is; videos keep their sound;
                with --heat-maps also <picture>.heat.jpg: where the face method sees forgery (of a
                face called real: where it is least sure)

With --face-weights, or a model file of tools/combine_weights.py, a face method looks again at every
face that the detector finds. MODEL.FACE.FUSION of its configuration says how the two P(fake)
become one: "mean_logit" (their logits' mean), "face" or "detector" (that one alone), "max".

"No face found" is told apart from "all faces real". A score is the model's estimate, no proof: it
says how much a face looks like the forgeries that the model was trained on.

Exit code: 0 all inputs read; 2 unusable arguments; 3 some inputs failed or ended early (each is
reported with its reason, the others are processed); 1 the outputs cannot be written.

Examples:
  tools/infer.py --weights model.safetensors --output out photo.jpg
  tools/infer.py --weights model.safetensors --output out --stride 5 folder clip.mp4
  tools/infer.py --weights detector.safetensors --face-weights dcl.safetensors --heat-maps \\
      --output out photo.jpg
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXIT_ARGUMENTS, EXIT_OUTPUT = 2, 1


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="picture, video, folder, glob")
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="model file (.safetensors) of train_net.py"
    )
    parser.add_argument(
        "--face-weights", metavar="FILE", help="a face method that looks again at every face"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="for results")
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="P",
        help="drop faces found with less confidence (default: the model's TEST.SCORE_THRESH)",
    )
    parser.add_argument(
        "--fake-threshold",
        type=float,
        metavar="P",
        help="call a face forged from this fake_probability on (default: TEST.FAKE_THRESH)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1"
    )
    parser.add_argument(
        "--batch-size", type=int, default=4, metavar="N", help="images at once (default: 4)"
    )
    parser.add_argument(
        "--stride",
        type=int,
        default=1,
        metavar="N",
        help="analyse every N-th frame of a video; frames between show its faces (default: 1)",
    )
    parser.add_argument("--no-media", action="store_true", help="write results.json only")
    parser.add_argument(
        "--heat-maps",
        action="store_true",
        help="for pictures: where the face method sees forgery in each face",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    # After the arguments are known to be sound: these imports take seconds
    from comics.inference.inputs import expand_inputs
    from comics.inference.outputs import summarise
    from comics.inference.predictor import Predictor
    from comics.inference.run import RunOptions, describe_summary, exit_code, run_inference

    try:
        run_options = RunOptions(
            output=options.output,
            batch_size=options.batch_size,
            stride=options.stride,
            write_media=not options.no_media,
            heat_maps=options.heat_maps,
        )
        predictor = Predictor.from_file(
            options.weights,
            options.device,
            options.score_threshold,
            options.fake_threshold,
            options.face_weights,
        )
        if options.heat_maps and not predictor.looks_at_faces:
            raise ValueError("--heat-maps needs a face method: give --face-weights")
        inputs = expand_inputs(options.inputs, exclude=options.output)
        if not inputs.files and not inputs.faults:
            raise ValueError("no picture or video in the inputs")
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        return _stop(str(error), EXIT_ARGUMENTS)
    try:
        files = run_inference(predictor, inputs, run_options)
    except OSError as error:
        return _stop(f"the outputs cannot be written: {error}", EXIT_OUTPUT)
    print(describe_summary(summarise(files)))
    print(f"Results: {options.output / 'results.json'}")
    return exit_code(files)


def _stop(message: str, code: int) -> int:
    print(f"infer.py: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
