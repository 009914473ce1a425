"""What ``tools/train_net.py --runtime detectron2`` does: one process or several, train or measure.

Several processes are started by Detectron2's ``launch`` (``Processes``), or by torchrun.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import active_children
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from types import FrameType

import torch
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.utils import comm
from torch import multiprocessing

from comics.config.changed_defaults import with_values_of
from comics.config.files import parse_config
from comics.data.records import DatasetError
from comics.engine import distributed
from comics.engine.checkpoint import CheckpointError, CheckpointFolder, hold_run
from comics.engine.logs import setup_logging
from comics.engine.measure import RESULTS_FOLDER, measured_sets
from comics.engine.signals import STOP_SIGNALS
from comics.engine.step import NonFiniteError
from comics.engine.tasks import DETECTION, check_trainable
from comics.engine.train import (
    CONFIG_FILE,
    DETECTRON2_CHECKPOINT,
    SetupError,
    check_best_metric,
    setup_errors,
    with_attention_of_weights,
)
from comics.files import write_text
from comics.integrations.detectron2.checkpoint import load_weights
from comics.integrations.detectron2.config import dump_config
from comics.integrations.detectron2.data import register_datasets
from comics.integrations.detectron2.evaluator import FACE_TASK
from comics.integrations.detectron2.train import ComicsTrainer, build_fast_model, measure

logger = logging.getLogger(__name__)

# What a process may end with; by name, because an exception does not survive the way between them
FAULTS = {
    fault.__name__: fault
    for fault in (SetupError, NonFiniteError, CheckpointError, DatasetError, OSError)
}


@dataclass(frozen=True)
class Processes:
    """How many processes ``launch`` starts, and where they meet.

    Attributes:
        per_machine: processes of this machine: one for each of its GPUs, or on the CPU.
        machines: machines of the run.
        rank: position of this machine among them.
        url: of machine 0, "tcp://host:port"; "auto" on one machine.
    """

    per_machine: int = 1
    machines: int = 1
    rank: int = 0
    url: str = "auto"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        stop_signal: the signal that stopped the training before its end, or 0.
        unreadable: paths of the images that were replaced (training) or skipped (measuring).
    """

    stop_signal: int = 0
    unreadable: list[str] = field(default_factory=list)


def run(
    cfg: CfgNode,
    *,
    resume: bool = False,
    eval_only: bool = False,
    processes: Processes | None = None,
) -> Outcome:
    """Train the configured model, or measure ``MODEL.WEIGHTS`` on ``DATASETS.TEST``.

    Raises:
        SetupError: before the first iteration, if the run cannot start.
        NonFiniteError, CheckpointError, DatasetError, OSError: if it fails.
    """
    processes = processes or Processes()
    if processes.per_machine * processes.machines == 1:
        return _work(cfg, resume, eval_only)
    with setup_errors():
        if "WORLD_SIZE" in os.environ:
            raise ValueError("torchrun has started the processes already: leave --num-gpus out")
        if cfg.MODEL.DEVICE != "cpu" and processes.per_machine > torch.cuda.device_count():
            raise ValueError(
                f"--num-gpus {processes.per_machine}: this machine shows "
                f"{torch.cuda.device_count()} CUDA devices; with MODEL.DEVICE cpu it is a number "
                "of processes"
            )
        if cfg.MODEL.DEVICE == "cpu" and torch.cuda.is_available():
            raise ValueError(
                "Detectron2's launch joins processes by NCCL where there is a GPU: for the CPU, "
                "hide it by CUDA_VISIBLE_DEVICES="
            )
    return _launch(cfg, resume, eval_only, processes)


def _launch(cfg: CfgNode, resume: bool, eval_only: bool, processes: Processes) -> Outcome:
    reports = multiprocessing.get_context("spawn").SimpleQueue()
    try:
        with _forwarded_signals():
            launch(
                _launched,
                processes.per_machine,
                num_machines=processes.machines,
                machine_rank=processes.rank,
                dist_url=processes.url,
                args=(cfg, resume, eval_only, reports),
                timeout=distributed.PATIENCE,
            )
    except multiprocessing.ProcessRaisedException as error:
        if reports.empty():
            raise
        name, text = reports.get()
        raise FAULTS[name](text) from error
    except multiprocessing.ProcessExitedException as error:
        raise OSError(f"a process of the run has died: {error}") from error
    return Outcome(*reports.get())


@contextmanager
def _forwarded_signals() -> Iterator[None]:
    """Pass a stop signal on to the processes of the run, and wait for what they make of it."""

    def forward(signum: int, _frame: FrameType | None) -> None:
        for process in active_children():
            if process.pid is not None:
                os.kill(process.pid, signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {signum: signal.signal(signum, forward) for signum in STOP_SIGNALS}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _launched(cfg: CfgNode, resume: bool, eval_only: bool, reports: SimpleQueue) -> None:
    """What each process does; machine by machine, the first one reports."""
    setup_logging(cfg.OUTPUT_DIR, main_process=comm.is_main_process())
    try:
        outcome = _work(cfg, resume, eval_only)
    except tuple(FAULTS.values()) as error:
        name = next(name for name, kind in FAULTS.items() if isinstance(error, kind))
        reports.put((name, str(error)))
        raise
    if comm.get_local_rank() == 0:
        reports.put((outcome.stop_signal, outcome.unreadable))


def _work(cfg: CfgNode, resume: bool, eval_only: bool) -> Outcome:
    """A process's whole run."""
    _share_handlers()
    with _joined(cfg) as settled:
        return _evaluate(settled) if eval_only else _train(settled, resume)


@contextmanager
def _joined(cfg: CfgNode) -> Iterator[CfgNode]:
    """Join the processes that torchrun started, if it did; yields the configuration of them all."""
    started_by_torchrun = "WORLD_SIZE" in os.environ and not comm.get_world_size() > 1
    with distributed.process_group(cfg.MODEL.DEVICE) as device:
        if started_by_torchrun and distributed.world_size() > 1:
            comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SEED = distributed.broadcast(cfg.SEED)
        if device.type == "cuda" and distributed.world_size() > 1:
            cfg.MODEL.DEVICE = f"cuda:{comm.get_local_rank()}"
        cfg.freeze()
        yield cfg


def _train(cfg: CfgNode, resume: bool) -> Outcome:
    with ExitStack() as stack:
        with setup_errors():
            if distributed.is_main():
                stack.enter_context(hold_run(cfg.OUTPUT_DIR, [RESULTS_FOLDER]))
        return _train_alone(cfg, resume)


def _train_alone(cfg: CfgNode, resume: bool) -> Outcome:
    with setup_errors():
        check_trainable(cfg)
        if len(cfg.DATASETS.VAL) and not cfg.TEST.BEST_METRIC.startswith(f"{FACE_TASK}/"):
            check_best_metric(cfg, DETECTION)
        measured_sets(cfg, cfg.DATASETS.VAL)
        _check_folder(cfg.OUTPUT_DIR, resume)
        cfg = _as_it_began(cfg) if resume else with_attention_of_weights(cfg)
        trainer = ComicsTrainer(cfg, resume=resume)
        if distributed.is_main():
            _write_config(cfg)
    signum = trainer.train()
    return Outcome(signum, trainer.unreadable)


def _evaluate(cfg: CfgNode) -> Outcome:
    with setup_errors():
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("MODEL.WEIGHTS names no model file to evaluate")
        cfg = with_attention_of_weights(cfg)
        measured_sets(cfg, cfg.DATASETS.TEST)
        register_datasets(cfg, cfg.DATASETS.TEST)
        model = build_fast_model(cfg)
        load_weights(model, cfg.MODEL.WEIGHTS, must_fit=True)
    _, skipped = measure(cfg, model.eval(), cfg.DATASETS.TEST)
    return Outcome(0, sorted(set(skipped)))


def _as_it_began(cfg: CfgNode) -> CfgNode:
    """``cfg`` with the former defaults that the run in ``OUTPUT_DIR`` began with."""
    path = Path(cfg.OUTPUT_DIR) / CONFIG_FILE
    if not path.is_file():
        return cfg
    return with_values_of(cfg, parse_config(path.read_bytes(), str(path)), str(path))


def _check_folder(folder: str, resume: bool) -> None:
    """Raise for a folder that holds a run which would be overwritten or cannot be continued."""
    if CheckpointFolder(folder, keep=1).iterations():
        raise FileExistsError(
            f"{folder} holds a run of the native runtime: continue it with --runtime native "
            "--resume, or choose another OUTPUT_DIR"
        )
    found = (Path(folder) / DETECTRON2_CHECKPOINT).exists()
    if found and not resume:
        raise FileExistsError(
            f"{folder} already holds checkpoints: continue that run with --resume, or choose "
            "another OUTPUT_DIR"
        )
    if resume and not found:
        logger.warning("no checkpoint in %s: starting from scratch", folder)


def _write_config(cfg: CfgNode) -> None:
    write_text(Path(cfg.OUTPUT_DIR) / CONFIG_FILE, dump_config(cfg))


def _share_handlers() -> None:
    """Send Detectron2's messages where the project's go."""
    ours = logging.getLogger("comics")
    for name in ("detectron2", "fvcore"):
        theirs = logging.getLogger(name)
        theirs.handlers = list(ours.handlers)
        theirs.setLevel(ours.getEffectiveLevel())
        theirs.propagate = False
