#!/usr/bin/env python
"""Train a detector, or evaluate one.

OUTPUT_DIR gets config.yaml, log.txt, metrics.jsonl, checkpoint_<iteration>.pt,
model_best.safetensors (by TEST.BEST_METRIC on DATASETS.VAL) and model_final.safetensors. SIGTERM or
Ctrl-C finishes the step and writes a checkpoint and model_last.safetensors; --resume goes on from
the last checkpoint. --eval-only measures MODEL.WEIGHTS on DATASETS.TEST. Several processes, on
one machine or many, are started by torchrun.

Exit code: 0 done; 1 the run failed (a loss that is not finite, a full disk, too many unreadable
images, ...; earlier checkpoints are intact); 2 it could not start (configuration, missing file,
...); 3 done, but some images could not be read (each is reported); 143 stopped by SIGTERM, 130 by
Ctrl-C.
Under torchrun, which has exit codes of its own, these are the codes of each process.

Examples:
  tools/train_net.py --config-file configs/Quickstart/comics_r18.yaml
  tools/train_net.py --config-file output/run/config.yaml --resume
  tools/train_net.py --config-file output/run/config.yaml --eval-only \\
      --weights output/run/model_best.safetensors
  torchrun --nproc-per-node 4 tools/train_net.py --config-file configs/COMICS-BlendMask/R_50_1x.yaml
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys

EXIT_FAILED, EXIT_SETUP, EXIT_UNREADABLE, EXIT_SIGNAL = 1, 2, 3, 128

logger = logging.getLogger("comics.train_net")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="FILE", help="YAML; default: comics/config.py")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR"
    )
    parser.add_argument("--eval-only", action="store_true", help="measure, do not train")
    parser.add_argument("--weights", metavar="FILE", help="short for MODEL.WEIGHTS FILE")
    parser.add_argument(
        "--runtime",
        choices=("auto", "native", "detectron2"),
        default="auto",
        help="what runs the model (default: auto); the first log line says which",
    )
    parser.add_argument(
        "overrides", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="configuration, last"
    )
    return parser


def choose_runtime(wanted: str) -> str:
    """ "native", or an error: ``detectron2`` cannot run yet.

    Raises:
        ValueError: saying whether Detectron2 is missing or not yet wired.
    """
    if wanted != "detectron2":
        return "native"
    if importlib.util.find_spec("detectron2") is None:
        raise ValueError("--runtime detectron2 needs Detectron2, which is not installed")
    raise ValueError("--runtime detectron2 is not wired yet: use --runtime native")


def load_foreign_weights(model, path: str) -> None:
    """Load a .pth of AdelaiDet, or of a torchvision ResNet, as far as it fits; log what does not.

    Raises:
        ValueError: if nothing of it fits.
    """
    from comics.integrations.weights import (
        convert_adelaidet,
        convert_torchvision_resnet,
        load_matching,
        read_checkpoint,
    )

    detector = getattr(model, "detector", model)
    state = read_checkpoint(path)
    whole = any(name.startswith("backbone.bottom_up.") for name in state)
    converted, unknown = (convert_adelaidet if whole else convert_torchvision_resnet)(state)
    if not converted.keys() & detector.state_dict().keys():
        raise ValueError(f"{path}: none of its {len(state)} tensors is known to this model")
    report = load_matching(detector, converted)
    for text, names in (
        ("keep their initial values", report.missing),
        ("of the file are not in the model", [*unknown, *report.unexpected]),
        ("have another shape and keep their initial values", report.misshapen),
    ):
        if names:
            logger.warning("%s: %d tensors %s: %s", path, len(names), text, ", ".join(names))


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    # After the arguments are known to be sound: these imports take seconds
    import torch

    from comics.config import load_config
    from comics.data.records import DatasetError
    from comics.engine.checkpoint import CheckpointError
    from comics.engine.logs import setup_logging
    from comics.engine.step import NonFiniteError
    from comics.engine.train import SetupError

    try:
        runtime = choose_runtime(options.runtime)
        weights = ["MODEL.WEIGHTS", options.weights] if options.weights else []
        cfg = load_config(options.config_file, [*weights, *options.overrides])
        setup_logging(cfg.OUTPUT_DIR, main_process=os.environ.get("RANK", "0") == "0")
    except (OSError, KeyError, ValueError) as error:
        text = error.args[0] if isinstance(error, KeyError) else error
        print(f"train_net.py: {text}", file=sys.stderr)
        return EXIT_SETUP
    logger.info("runtime: %s, PyTorch %s", runtime, torch.__version__)
    try:
        return _evaluate(cfg) if options.eval_only else _train(cfg, options.resume)
    except SetupError as error:
        logger.error("cannot start: %s", error)
        return EXIT_SETUP
    except (NonFiniteError, CheckpointError, DatasetError, OSError) as error:
        logger.error("%s", error)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_SIGNAL + 2


def _train(cfg, resume: bool) -> int:
    from comics.engine.train import run_training

    report = run_training(cfg, resume=resume, load_foreign_weights=load_foreign_weights)
    if report.result.stop_signal is not None:
        return EXIT_SIGNAL + report.result.stop_signal
    return _unreadable(report.unreadable)


def _evaluate(cfg) -> int:
    from comics.engine.train import run_evaluation

    found = run_evaluation(cfg, load_foreign_weights=load_foreign_weights)
    return _unreadable([path for one in found.values() for path in one.skipped])


def _unreadable(paths: list[str]) -> int:
    if paths:
        logger.warning("%d images could not be read: %s", len(paths), ", ".join(paths))
    return EXIT_UNREADABLE if paths else 0


if __name__ == "__main__":
    sys.exit(main())
