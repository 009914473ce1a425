"""``comics evaluate``: measure results files, predictions or a model file."""

from __future__ import annotations

import argparse
from pathlib import Path

from comics.commands.stopping import stop

DESCRIPTION = """\
Measure: AP and oLRP of boxes and masks, AUC of faces, robustness, calibration, tables.

  results of any tool, in COCO's format, against a ground truth:
    {prog} --ground-truth test.json --results results.json --report out
  the outputs of comics scale (a folder or address) over the ground truth's images:
    {prog} --ground-truth test.json --results s3://results/test --report out
  a model file on data sets (registered names or annotation files; default DATASETS.TEST):
    {prog} --weights model.safetensors --dataset test_dev.json --report out
    {prog} --weights model.safetensors --dataset test_dev.json --robustness jpeg h264
  fit the temperature of P(fake) on validation data (default DATASETS.VAL), and store it:
    {prog} --weights model.safetensors --dataset val.json --calibrate
  P(fake) per face or frame, as CSV (label, fake_probability, dataset, method, video, frame, ...):
    {prog} --predictions predictions.csv --by method --report out
  a paper's table, row by row and column by column, trained and tested here (docs/protocols.md):
    {prog} --protocol protocols/DCL_table_1 --sets FF++=ffpp/manifest.csv --report out
  a table of several reports (made with --method, --trained-on, --tested-on):
    {prog} --tables a/figures.json b/figures.json --metrics AUC EER

--report writes report.html (one file, no network), report.md, figures.csv and figures.json.
--protocol trains what is not in --report yet, an interrupted run goes on, and tests what has not
been tested; everything that a table would lack is named before the first step.

Exit code: 0 done; 2 unusable arguments or input; 3 done, but some inputs failed or some images
could not be read (each is named); 1 the outputs cannot be written; 130 a training of --protocol was
stopped.

Example:
  {prog} --ground-truth test.json --results ours.json theirs.json --report out
"""
EXIT_OUTPUT, EXIT_ARGUMENTS, EXIT_PARTIAL, EXIT_STOPPED = 1, 2, 3, 130
MODES = ("bbox", "segm", "segm_bboxarea")
IDENTITY = {"method": "method", "train": "trained_on", "test": "tested_on"}


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION.replace("{prog}", parser.prog)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--results",
        nargs="+",
        metavar="FILE",
        help="COCO results files, or outputs of comics scale",
    )
    what.add_argument("--weights", metavar="FILE", help="model file (.safetensors)")
    what.add_argument("--predictions", metavar="CSV", help="P(fake) per face or frame")
    what.add_argument("--protocol", metavar="FILE", help="of rows to train and columns to test")
    what.add_argument("--tables", nargs="+", metavar="JSON", help="figures.json of reports")
    parser.add_argument("--ground-truth", metavar="FILE", help="COCO annotations of --results")
    parser.add_argument("--dataset", nargs="+", metavar="ENTRY", help="what --weights is run on")
    parser.add_argument("--iou-types", nargs="+", choices=MODES, help="default: bbox segm")
    parser.add_argument(
        "--id-zero-unmatched",
        action="store_true",
        help="count the face with annotation id 0 as pycocotools does: never matched",
    )
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="write a report there")
    parser.add_argument("--title", help="heading of the report")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="images, for galleries")
    parser.add_argument("--robustness", nargs="*", metavar="NAME", help="corruptions; none: all")
    parser.add_argument("--severities", nargs="+", type=int, default=[1, 3, 5], metavar="1-5")
    parser.add_argument("--calibrate", action="store_true", help="fit and store a temperature")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument(
        "--sets", nargs="+", default=[], metavar="NAME=CSV", help="manifests, of --protocol"
    )
    parser.add_argument(
        "--plan", action="store_true", help="of --protocol: check everything, and start nothing"
    )
    parser.add_argument("--by", nargs="+", default=[], metavar="COLUMN", help="of --predictions")
    parser.add_argument("--metrics", nargs="+", default=["AUC", "EER"], help="of --tables")
    for name in ("method", "trained-on", "tested-on"):
        parser.add_argument(f"--{name}", metavar="NAME", help="for a table of several reports")
    parser.add_argument(
        "options", nargs="*", metavar="KEY VALUE", help="of the model's configuration, after --"
    )


def run_evaluate(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    identity = {
        name: value
        for name, key in IDENTITY.items()
        if (value := getattr(options, key)) is not None
    }
    if 0 < len(identity) < len(IDENTITY):
        return stop(
            options, "--method, --trained-on and --tested-on belong together", EXIT_ARGUMENTS
        )
    # After the arguments are known to be sound: these imports take seconds
    from comics.commands.evaluation import OutputError
    from comics.commands.protocol import Stopped

    try:
        clean = _evaluate(options, identity)
    except Stopped as error:
        return stop(options, error, EXIT_STOPPED)
    except OutputError as error:
        return stop(options, f"the outputs cannot be written: {error}", EXIT_OUTPUT)
    except (OSError, ValueError, KeyError) as error:
        return stop(options, error, EXIT_ARGUMENTS)
    return 0 if clean else EXIT_PARTIAL


def _evaluate(options: argparse.Namespace, identity: dict[str, str]) -> bool:
    """What the options ask for; whether all of it could be done.

    Raises:
        ValueError: for options that belong together.
    """
    from comics.commands import evaluation as command
    from comics.commands import protocol

    if options.protocol:
        if options.report is None:
            raise ValueError("--protocol needs --report")
        return protocol.run_protocol(
            options.protocol,
            options.report,
            sets=protocol.set_places(options.sets),
            options=options.options,
            device=options.device,
            plan_only=options.plan,
        )
    if options.tables:
        return command.print_tables(options.tables, options.metrics, options.report)
    if options.predictions:
        return command.evaluate_predictions(
            options.predictions, options.by, options.report, options.title, identity
        )
    if options.results:
        if options.ground_truth is None:
            raise ValueError("--results needs --ground-truth")
        return command.evaluate_results(
            options.ground_truth,
            options.results,
            options.iou_types or ["bbox", "segm"],
            id_zero_unmatched=options.id_zero_unmatched,
            report=options.report,
            title=options.title,
            images=options.images,
            identity=identity,
        )
    return command.evaluate_weights(
        options.weights,
        options.dataset,
        options.options,
        iou_types=options.iou_types,
        device=options.device,
        report=options.report,
        title=options.title,
        robustness=options.robustness,
        severities=options.severities,
        fit_calibration=options.calibrate,
        identity=identity,
    )
