"""``comics export``: ONNX files of a model file, for ONNX Runtime."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

# Where the package is not installed, it is beside this folder
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from comics.commands.stopping import stop

DESCRIPTION = """\
Make ONNX files of a model file, for ONNX Runtime: the same results, without training code.

Any model file will do: a detector, plain or COMICS, a face method, or both joined by
combine_weights.py. What is exported is the dense part, which is nearly all of the work: RGB
pictures [B, 3, H, W] float32 on the 0-255 scale, of any number and size, to the head's maps;
normalisation, padding and COMICS' frequency attention are inside. What depends on the faces that
are found (candidates, suppression, masks) stays in Python, the same code as for PyTorch. So use the
files by

  comics detect --weights model.onnx ...           comics.load("model.onnx")

The file holds the configuration, thresholds, calibration, and the SHA-256 of the model file. Of a
two-stage detector and of joined models further graphs lie beside it (model.box_head.onnx,
model.face.onnx, ...): keep them together. A face method's file goes to --face-weights.

Before a file gets its name, it is run in ONNX Runtime on random pictures of two sizes, and compared
with PyTorch; lines of progress say what is done. Needs: pip install "comics-forensics[onnx]".

Exit code: 0 done; 1 a graph differs from the model by more than --tolerance (nothing is written),
or the output cannot be written; 2 the model file is absent, broken or cannot be exported.

Examples:
  {prog} model.safetensors                        (writes model.onnx beside it)
  {prog} model.safetensors --output exported/comics.onnx
"""
EXIT_OUTPUT, EXIT_ARGUMENTS = 1, 2
NEEDED = ("onnx", "onnxruntime")


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION.replace("{prog}", parser.prog)
    parser.add_argument("weights", metavar="FILE", help="model file (.safetensors)")
    parser.add_argument(
        "--output",
        metavar="PATH",
        help=".onnx file to write, or a folder for it (default: beside the model file)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        metavar="D",
        help="largest difference from PyTorch that is taken, of each output as a share of its "
        "largest value, or absolute where that is below 1 (default: 1e-4)",
    )


def run_export(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        needed = ", ".join(missing)
        return stop(
            options, f'{needed} not found: pip install "comics-forensics[onnx]"', EXIT_ARGUMENTS
        )
    # After the arguments are known to be sound: these imports take seconds
    from comics.inference.onnx.export import DifferenceError, export_model

    output = Path(options.weights).parent if options.output is None else options.output
    try:
        files = export_model(options.weights, output, options.tolerance, report=_say)
    except (FileNotFoundError, KeyError, ValueError) as error:
        return stop(options, error, EXIT_ARGUMENTS)
    except DifferenceError as error:
        return stop(options, error, EXIT_OUTPUT)
    except OSError as error:
        return stop(options, f"the output cannot be written: {error}", EXIT_OUTPUT)
    for file in files:
        _say(f"{file.path}: {file.size / 1e6:.1f} MB, largest difference {file.difference:.1e}")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)
