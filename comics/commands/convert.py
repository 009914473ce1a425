"""``comics convert``: a model file of weights from elsewhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from comics.commands.stopping import stop

if TYPE_CHECKING:
    from comics.integrations.checkpoint_files import Checkpoint
    from comics.integrations.matching import LoadReport

DESCRIPTION = """\
Make a model file of weights from elsewhere, for the model that a configuration describes.

SOURCE may be AdelaiDet's FCOS, BlendMask, CondInst, MEInst or SOLOv2 (.pth); Detectron2's
Mask R-CNN, or one of its ImageNet ResNets (.pkl: MSRA's and torchvision's); a torchvision ResNet
classifier; any timm model, for a timm backbone or a face method's encoder; or a model file of this
project of another variant: with or without COMICS, or another number of classes. Its format is
recognised by the names in it, and no file can run code.

What the source lacks, and heads for another number of classes, keep initial values drawn with SEED;
every such name is printed, and every name of the source that found no place. A source of another
architecture (another backbone, heads of another detector) is refused. A setting that does not
suit the weights (INPUT.FORMAT, MODEL.PIXEL_MEAN, MODEL.PIXEL_STD, MODEL.RESNETS.STRIDE_IN_1X1) is
warned of.

Exit code: 0 done; 2 a file is absent, broken or of another architecture, or, with --strict,
something found no counterpart; 1 the output cannot be written.

Examples:
  {prog} R-50.pkl --list --config-file configs/BlendMask/R_50_1x.yaml \\
      --set INPUT.FORMAT BGR
  {prog} BlendMask_R_50_1x.pth blendmask.safetensors \\
      --config-file configs/COMICS-BlendMask/R_50_1x.yaml
"""
EXIT_OUTPUT, EXIT_ARGUMENTS = 1, 2


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION.replace("{prog}", parser.prog)
    parser.add_argument("source", metavar="SOURCE", help="weights: .pth, .pkl, .safetensors, ...")
    parser.add_argument("output", metavar="OUTPUT", nargs="?", help=".safetensors to write")
    parser.add_argument("--config-file", metavar="FILE", help="YAML; default: comics.config")
    parser.add_argument(
        "--set",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="a setting of the configuration; may be given again",
    )
    parser.add_argument(
        "--list", action="store_true", help="print what would happen to each tensor, write nothing"
    )
    parser.add_argument(
        "--strict", action="store_true", help="fail unless every tensor finds its counterpart"
    )
    parser.add_argument(
        "--backbone-only", action="store_true", help="take a detector's backbone, whatever its head"
    )


def run_convert(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    fault = _check_output(options)
    if fault:
        return stop(options, fault, EXIT_ARGUMENTS)
    # After the arguments are known to be sound: these imports take seconds
    from safetensors import SafetensorError

    from comics.config import load_config
    from comics.engine.randomness import seed_everything
    from comics.integrations.weights import plan_loading, read_checkpoint_file
    from comics.modeling.build import build_model
    from comics.modeling.weights import save_weights

    try:
        cfg = load_config(options.config_file, [word for pair in options.set for word in pair])
        checkpoint = read_checkpoint_file(options.source)
        seed_everything(cfg.SEED)
        model = build_model(cfg)
        state, report = plan_loading(model, checkpoint, backbone_only=options.backbone_only)
    except (OSError, KeyError, ValueError) as error:
        return stop(options, error, EXIT_ARGUMENTS)
    _print_report(options.program, options.source, report, everything=options.list)
    if options.strict and not report.complete:
        return stop(options, f"{options.source} does not fit exactly (--strict)", EXIT_ARGUMENTS)
    if options.list:
        return 0
    model.load_state_dict(state, strict=False)
    try:
        whole = getattr(model, "inference_state_dict", model.state_dict)()
        save_weights(options.output, whole, cfg, _origin(checkpoint, report.source_format))
    except (OSError, SafetensorError) as error:
        return stop(options, f"{options.output} cannot be written: {error}", EXIT_OUTPUT)
    print(f"{options.output}: {cfg.MODEL.META_ARCHITECTURE}, {len(state)} tensors from the source")
    return 0


def _check_output(options: argparse.Namespace) -> str | None:
    """What is wrong with OUTPUT; None if nothing is."""
    if options.list:
        return None
    if options.output is None:
        return "name an OUTPUT to write, or ask for --list"
    output = Path(options.output)
    if output.suffix != ".safetensors":
        return f"OUTPUT {output} must end in .safetensors"
    if output.exists() and Path(options.source).exists() and output.samefile(options.source):
        return f"OUTPUT {output} is the source itself"
    return None


def _print_report(program: str, source: str, report: LoadReport, *, everything: bool) -> None:
    print(f"{source}: recognised as {report.source_format}")
    kinds = {
        "match": report.loaded if everything else [],
        "of another shape in the source, freshly initialised": [
            report.reshaped(name) for name in report.misshapen
        ],
        "not in the source, freshly initialised": report.missing,
        "of the source, unmatched": report.unexpected,
    }
    for text, names in kinds.items():
        if names:
            print("\n  ".join([f"{len(names)} {text}:", *names]))
    for warning in report.warnings:
        print(f"{program}: warning: {warning}", file=sys.stderr)


def _origin(checkpoint: Checkpoint, source_format: str) -> dict[str, str]:
    import comics
    from comics.files import file_sha256

    return {
        "version": comics.__version__,
        "source": Path(checkpoint.path).name,
        "source_sha256": file_sha256(checkpoint.path),
        "source_format": source_format,
        "source_author": checkpoint.author,
    }
