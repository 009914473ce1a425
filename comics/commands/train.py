"""``comics train``: train a detector or a face method, or evaluate one."""

from __future__ import annotations

import argparse
import logging
import os
from typing import TYPE_CHECKING

from comics.commands.stopping import stop

if TYPE_CHECKING:
    from comics.config import CfgNode
    from comics.integrations.runtime import Choice

DESCRIPTION = """\
Train a detector or a face method, or evaluate one.

OUTPUT_DIR gets config.yaml, log.txt, metrics.jsonl, checkpoint_<iteration>.pt,
model_best.safetensors (by TEST.BEST_METRIC on DATASETS.VAL) and model_final.safetensors. SIGTERM or
Ctrl-C finishes the step and writes a checkpoint and model_last.safetensors; --resume goes on from
the last checkpoint. --eval-only measures MODEL.WEIGHTS on DATASETS.TEST. Several processes, on
one machine or many, are started by torchrun.

--runtime detectron2 does the same on Detectron2's DefaultTrainer, for our models and its own:
checkpoints are then model_<iteration>.pth and last_checkpoint, and the metrics metrics.json.
Processes are started by --num-gpus (Detectron2's launch) or by torchrun. --runtime auto takes it
where it is installed and works, except for single-face methods.

Exit code: 0 done; 1 the run failed (a loss that is not finite, a full disk, too many unreadable
images, ...; earlier checkpoints are intact); 2 it could not start (configuration, missing file,
...); 3 done, but some images could not be read (each is reported); 143 stopped by SIGTERM, 130 by
Ctrl-C.
Under torchrun, which has exit codes of its own, these are the codes of each process.

Examples:
  {prog} --config-file configs/Quickstart/comics_r18.yaml
  {prog} --config-file output/run/config.yaml --resume
  {prog} --config-file output/run/config.yaml --eval-only \\
      --weights output/run/model_best.safetensors
  torchrun --nproc-per-node 4 {prog} --config-file configs/COMICS-BlendMask/R_50_1x.yaml
  {prog} --runtime detectron2 --num-gpus 4 \\
      --config-file configs/COMICS-BlendMask/R_50_1x.yaml
"""
EXIT_FAILED, EXIT_SETUP, EXIT_UNREADABLE, EXIT_SIGNAL = 1, 2, 3, 128

logger = logging.getLogger("comics.train_net")


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION.replace("{prog}", parser.prog)
    parser.add_argument("--config-file", metavar="FILE", help="YAML; default: comics.config")
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
    launch = parser.add_argument_group("Detectron2's launch (--runtime detectron2)")
    launch.add_argument(
        "--num-gpus", type=int, default=1, help="processes of this machine, one for each GPU"
    )
    launch.add_argument("--num-machines", type=int, default=1, help="machines of the run")
    launch.add_argument("--machine-rank", type=int, default=0, help="this one's number, from 0")
    launch.add_argument(
        "--dist-url", default="auto", metavar="URL", help="of machine 0, tcp://host:port"
    )
    parser.add_argument(
        "overrides", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="configuration, last"
    )


def run_train(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    # After the arguments are known to be sound: these imports take seconds
    import torch

    from comics.data.records import DatasetError
    from comics.engine.checkpoint import CheckpointError
    from comics.engine.distributed import LostProcessError
    from comics.engine.logs import setup_logging
    from comics.engine.step import NonFiniteError
    from comics.engine.train import SetupError
    from comics.integrations.runtime import DETECTRON2

    try:
        choice, cfg = _configure(options)
        setup_logging(cfg.OUTPUT_DIR, main_process=os.environ.get("RANK", "0") == "0")
    except (OSError, KeyError, ValueError) as error:
        return stop(options, error, EXIT_SETUP)
    logger.info("runtime: %s, PyTorch %s", choice.runtime, torch.__version__)
    if choice.warning:
        logger.warning(choice.warning)
    try:
        if choice.runtime == DETECTRON2:
            return _detectron2(cfg, options)
        return _evaluate(cfg) if options.eval_only else _train(cfg, options.resume)
    except SetupError as error:
        logger.error("cannot start: %s", error)
        return EXIT_SETUP
    except (NonFiniteError, CheckpointError, DatasetError, LostProcessError, OSError) as error:
        logger.error("%s", error)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_SIGNAL + 2


def _configure(options: argparse.Namespace) -> tuple[Choice, CfgNode]:
    """The runtime and its configuration.

    Raises:
        KeyError, ValueError, OSError: for a runtime or a configuration that cannot be used.
    """
    from comics.config import load_config
    from comics.integrations.runtime import (
        DETECTRON2,
        architecture_of,
        choose_runtime,
        read_yaml,
    )

    weights = ["MODEL.WEIGHTS", options.weights] if options.weights else []
    overrides = [*weights, *options.overrides]
    architecture = architecture_of(read_yaml(options.config_file), overrides)
    choice = choose_runtime(options.runtime, architecture)
    if choice.runtime == DETECTRON2:
        from comics.integrations.detectron2 import load_config
    elif options.num_gpus * options.num_machines > 1:
        raise ValueError("--num-gpus is for --runtime detectron2; start processes by torchrun")
    return choice, load_config(options.config_file, overrides)


def _detectron2(cfg: CfgNode, options: argparse.Namespace) -> int:
    from comics.integrations.detectron2.run import Processes, run

    processes = Processes(
        options.num_gpus, options.num_machines, options.machine_rank, options.dist_url
    )
    outcome = run(cfg, resume=options.resume, eval_only=options.eval_only, processes=processes)
    if outcome.stop_signal:
        return EXIT_SIGNAL + outcome.stop_signal
    return _unreadable(outcome.unreadable)


def _train(cfg: CfgNode, resume: bool) -> int:
    from comics.engine.train import run_training
    from comics.integrations.weights import load_foreign_weights

    report = run_training(cfg, resume=resume, load_foreign_weights=load_foreign_weights)
    if report.result.stop_signal is not None:
        return EXIT_SIGNAL + report.result.stop_signal
    return _unreadable(report.unreadable)


def _evaluate(cfg: CfgNode) -> int:
    from comics.engine.train import run_evaluation
    from comics.integrations.weights import load_foreign_weights

    found = run_evaluation(cfg, load_foreign_weights=load_foreign_weights)
    return _unreadable([path for one in found.values() for path in one.skipped])


def _unreadable(paths: list[str]) -> int:
    if paths:
        logger.warning("%d images could not be read: %s", len(paths), ", ".join(paths))
    return EXIT_UNREADABLE if paths else 0
