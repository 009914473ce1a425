"""From a configuration to a trained model: data, model, optimiser, trainer, evaluation."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

import comics
from comics.config import CfgNode
from comics.config.changed_defaults import RESIDUAL_ATTENTION, with_values_of
from comics.config.files import parse_config
from comics.data.catalog import annotation_digests, datasets_root
from comics.data.loader import TrainLoader
from comics.engine import distributed
from comics.engine.averaging import WeightAverage
from comics.engine.checkpoint import CheckpointError, CheckpointFolder, hold_run
from comics.engine.compilation import compile_features, uncompiled
from comics.engine.logs import MetricsLog
from comics.engine.measure import RESULTS_FOLDER, Measurement
from comics.engine.optim import optimizer_from_config, scheduler_from_config
from comics.engine.randomness import seed_everything
from comics.engine.tasks import (
    Task,
    check_trainable,
    epoch_schedule,
    overridden_keys,
    task_of,
)
from comics.engine.trainer import Trainer, TrainingResult
from comics.errors import error_text
from comics.files import write_text
from comics.modeling.build import FAST_LAYOUT, allow_tf32, build_model
from comics.modeling.life_cycle import TrainingLifeCycle
from comics.modeling.weights import load_state, read_weights, save_weights

logger = logging.getLogger(__name__)

DETECTRON2_CHECKPOINT = "last_checkpoint"  # file in the folder of a run of that runtime
CONFIG_FILE = "config.yaml"
MODEL_SUFFIX = ".safetensors"
ATTENTION_WEIGHTS = ("frequency.", "detector.frequency.")  # of a detector, and of a joined model
AMP_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# Loads weights of another program, or of a variant, into a fresh model: (model, path) -> any
WeightsLoader = Callable[[nn.Module, str], object]


class SetupError(ValueError):
    """A run that cannot start: a wrong configuration, a missing file, no such device."""


@dataclass(frozen=True)
class RunReport:
    """How a run of ``run_training`` ended.

    Attributes:
        result: of the trainer.
        unreadable: paths of the images that were replaced (training) or skipped (validation).
    """

    result: TrainingResult
    unreadable: list[str]


def run_training(
    cfg: CfgNode, *, resume: bool = False, load_foreign_weights: WeightsLoader | None = None
) -> RunReport:
    """Train the configured model; writes into ``cfg.OUTPUT_DIR``.

    ``config.yaml``, ``metrics.jsonl``, ``checkpoint_<iteration>.pt``, ``model_best.safetensors``
    (by ``TEST.BEST_METRIC`` on ``DATASETS.VAL``) and ``model_final.safetensors``, or
    ``model_last.safetensors`` if a signal stops the run. On the CPU, with the same number of
    threads and processes, a resumed run is bit for bit the uninterrupted one; CUDA's kernels do
    not promise that.

    Args:
        cfg: the configuration.
        resume: continue from the last checkpoint in ``OUTPUT_DIR``, from the start if it has none.
        load_foreign_weights: reads ``MODEL.WEIGHTS`` of any origin; without it they must be a
            .safetensors file of this very model.

    Raises:
        SetupError: before the first iteration, if the run cannot start.
        NonFiniteError, CheckpointError: as ``Trainer.run``.
        LostProcessError: if another process of the run is gone.
        DatasetError: if too many images turn out to be unreadable.
    """
    with ExitStack() as stack:
        with setup_errors():
            device = stack.enter_context(distributed.process_group(cfg.MODEL.DEVICE))
            stack.enter_context(distributed.lost_processes_named())
            if distributed.is_main():
                stack.enter_context(hold_run(cfg.OUTPUT_DIR, [RESULTS_FOLDER]))
            run = _assemble(cfg, device, resume, load_foreign_weights)
        try:
            result = run.trainer.run()
        finally:
            if run.trainer.metrics_log is not None:
                run.trainer.metrics_log.close()
        broken = distributed.gather(sorted(run.loader.broken))
        unreadable = {path for paths in broken for path in paths} | run.skipped
    return RunReport(result, sorted(unreadable))


def run_evaluation(
    cfg: CfgNode, *, load_foreign_weights: WeightsLoader | None = None
) -> dict[str, Measurement]:
    """Measure ``MODEL.WEIGHTS`` on each of ``DATASETS.TEST``; results go to ``OUTPUT_DIR``.

    Returns:
        Entry -> measurement; its figures are on the main process only.

    Raises:
        SetupError: if there are no weights, or a set or file cannot be used.
    """
    with ExitStack() as stack:
        with setup_errors():
            device = stack.enter_context(distributed.process_group(cfg.MODEL.DEVICE))
            stack.enter_context(distributed.lost_processes_named())
            if not cfg.MODEL.WEIGHTS:
                raise ValueError("MODEL.WEIGHTS names no model file to evaluate")
            cfg = with_attention_of_weights(cfg)
            task = task_of(cfg)
            sets = task.measured_sets(cfg, cfg.DATASETS.TEST)
            model = build_model(cfg)
            foreign = load_foreign_weights if task.reads_foreign_weights else None
            load_initial_weights(model, cfg.MODEL.WEIGHTS, foreign, must_fit=True)
        allow_tf32(False)
        model.to(device).to(memory_format=FAST_LAYOUT).eval()
        return {one.entry: task.measure(cfg, model, [one], device) for one in sets}


def load_initial_weights(
    model: nn.Module,
    path: str,
    load_foreign_weights: WeightsLoader | None,
    *,
    must_fit: bool = False,
) -> None:
    """Load a model file of ours (.safetensors), or a foreign one, by the callable if there is one.

    Args:
        model: fresh from the configuration.
        path: of the file.
        load_foreign_weights: loads what fits of a file of any origin, and reports the rest.
        must_fit: a .safetensors file must hold exactly this model, not a variant of it.

    Raises:
        FileNotFoundError, ValueError: if the file is absent, broken, or does not fit.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"MODEL.WEIGHTS: there is no file {path}")
    if path.endswith(MODEL_SUFFIX) and (must_fit or load_foreign_weights is None):
        load_state(model, read_weights(path).state, path)
    elif load_foreign_weights is not None:
        load_foreign_weights(model, path)
    else:
        raise ValueError(f"MODEL.WEIGHTS {path} is not a .safetensors file of this project")


def with_attention_of_weights(cfg: CfgNode) -> CfgNode:
    """``cfg``, whose attention multiplies alone, or not, as in the model file ``MODEL.WEIGHTS``.

    Unless ``cfg`` names another value than the default: names and shapes of weights do not tell.
    A file that is absent, not ours or without attention changes nothing.
    """
    path = cfg.MODEL.WEIGHTS
    if not path.endswith(MODEL_SUFFIX) or not Path(path).is_file():
        return cfg
    file = read_weights(path)
    if not any(name.startswith(ATTENTION_WEIGHTS) for name in file.state):
        return cfg
    stored = parse_config(file.metadata.get("config", ""), path)
    return with_values_of(cfg, stored, path, [RESIDUAL_ATTENTION])


@dataclass(frozen=True)
class _Run:
    trainer: Trainer
    loader: TrainLoader
    skipped: set[str]  # images that validations could not read; grows


@contextmanager
def setup_errors() -> Iterator[None]:
    """Turn what can go wrong before the first iteration into ``SetupError``."""
    try:
        yield
    except (OSError, KeyError, ValueError, ImportError, CheckpointError) as error:
        raise SetupError(error_text(error)) from error


def _assemble(
    cfg: CfgNode, device: torch.device, resume: bool, load_foreign_weights: WeightsLoader | None
) -> _Run:
    check_trainable(cfg)
    task, folder = task_of(cfg), Path(cfg.OUTPUT_DIR)
    cfg = task.settled(cfg)
    sets = task.measured_sets(cfg, cfg.DATASETS.VAL)
    if sets:
        check_best_metric(cfg, task)
    checkpoints = CheckpointFolder(folder, cfg.SOLVER.KEEP_CHECKPOINTS)
    state = _state_to_resume(checkpoints, resume)
    if state is None:
        cfg = with_attention_of_weights(cfg)
    else:
        cfg = _resumed_config(cfg, state["config"])
    start = 0 if state is None else state["iteration"]
    model = _training_model(cfg, task, device, state is None, load_foreign_weights)
    average = WeightAverage(model, cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY else None
    if cfg.SOLVER.COMPILE:  # not before it has been copied
        compile_features(model, device)
    loader = task.train_loader(cfg, model, start)
    skipped: set[str] = set()
    trainer = _trainer(cfg, model, average, device, loader, checkpoints)
    if sets:
        trainer.evaluate = _validation(cfg, task, sets, device, skipped)
    if distributed.is_main():
        _write_config(cfg, folder)
        size = 0 if state is None else state["log_size"]
        trainer.metrics_log = MetricsLog(
            folder, size=size, iteration=start, tensorboard=cfg.LOG.TENSORBOARD
        )
    if state is not None:
        trainer.load_state_dict(state)
        logger.info("resumed after iteration %d", start)
    return _Run(trainer, loader, skipped)


def check_best_metric(cfg: CfgNode, task: Task) -> None:
    """Raise ``ValueError`` for a ``TEST.BEST_METRIC`` of a kind that is not measured."""
    kinds = task.figure_kinds(cfg)
    if cfg.TEST.BEST_METRIC.split("/")[0] not in kinds:
        raise ValueError(
            f"TEST.BEST_METRIC {cfg.TEST.BEST_METRIC!r} is not measured with "
            f"{cfg.MODEL.META_ARCHITECTURE} and MODEL.MASK_ON {cfg.MODEL.MASK_ON}: it must start "
            f"with one of {kinds}, e.g. 'bbox/AP' or 'face/AUC'"
        )


def _state_to_resume(checkpoints: CheckpointFolder, resume: bool) -> dict[str, Any] | None:
    """The main process's choice of checkpoint, for every process; None to start from scratch."""
    state = None
    if distributed.is_main():
        if (checkpoints.folder / DETECTRON2_CHECKPOINT).exists():
            raise FileExistsError(
                f"{checkpoints.folder} holds a run of Detectron2's runtime: continue it with "
                "--runtime detectron2 --resume, or choose another OUTPUT_DIR"
            )
        if not resume and checkpoints.iterations():
            raise FileExistsError(
                f"{checkpoints.folder} already holds checkpoints: continue that run with --resume, "
                "or choose another OUTPUT_DIR"
            )
        if resume and checkpoints.iterations():
            state = checkpoints.load_last()
        elif resume:
            logger.warning("no checkpoint in %s: starting from scratch", checkpoints.folder)
    return distributed.broadcast(state)


def _resumed_config(cfg: CfgNode, text: str) -> CfgNode:
    """``cfg`` as the run with the configuration ``text`` goes on; warns of what has changed."""
    stored = parse_config(text, "the checkpoint")
    cfg = with_values_of(cfg, stored, "the checkpoint")
    if distributed.is_main():
        _warn_of_changes(cfg, stored)
    return cfg


def _warn_of_changes(cfg: CfgNode, stored: Mapping[str, Any]) -> None:
    then, now = _leaves(stored), _leaves(cfg)
    changed = [
        f"{key}: {then.get(key, 'absent')!r} -> {now.get(key, 'absent')!r}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]
    if changed:
        logger.warning(
            "the configuration has changed since the checkpoint (its optimiser settings stay as "
            "they were): %s",
            "; ".join(changed),
        )


def _leaves(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, Mapping):
            leaves |= _leaves(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves


def _training_model(
    cfg: CfgNode,
    task: Task,
    device: torch.device,
    from_scratch: bool,
    load_foreign_weights: WeightsLoader | None,
) -> TrainingLifeCycle:
    """The model, the same on every process; then each process draws its own random numbers."""
    seed_everything(cfg.SEED)
    # A checkpoint brings all weights: the files that the run started from may be gone
    made = task.initial_model(cfg) if from_scratch else build_model(cfg)
    model = cast(TrainingLifeCycle, made)
    if from_scratch and cfg.MODEL.WEIGHTS:
        foreign = load_foreign_weights if task.reads_foreign_weights else None
        load_initial_weights(model, cfg.MODEL.WEIGHTS, foreign)
    allow_tf32(cfg.SOLVER.TF32)
    layout = FAST_LAYOUT if cfg.SOLVER.CHANNELS_LAST else torch.contiguous_format
    model.to(device).to(memory_format=layout).train()
    model.prepare_training()
    seed_everything(cfg.SEED + distributed.rank())
    return model


def _trainer(
    cfg: CfgNode,
    model: TrainingLifeCycle,
    average: WeightAverage | None,
    device: torch.device,
    loader: TrainLoader,
    checkpoints: CheckpointFolder,
) -> Trainer:
    optimizer = optimizer_from_config(cfg, model)
    timed = epoch_schedule(cfg, loader.iterations_per_epoch)
    for sentence in overridden_keys(cfg, timed):
        logger.warning(sentence)
    clip = cfg.SOLVER.CLIP_GRADIENTS
    return Trainer(
        model=model,
        optimizer=optimizer,
        scheduler=scheduler_from_config(timed, optimizer),
        batches=loader,
        checkpoints=checkpoints,
        metrics_log=None,
        device=device,
        max_iterations=timed.SOLVER.MAX_ITER,
        iterations_per_epoch=loader.iterations_per_epoch,
        accumulate=cfg.SOLVER.ACCUMULATE,
        clip_norm=clip.CLIP_VALUE if clip.ENABLED else None,
        amp_dtype=amp_dtype(cfg),
        find_unused=cfg.SOLVER.FIND_UNUSED_PARAMETERS,
        log_period=cfg.LOG.PERIOD,
        checkpoint_period=cfg.SOLVER.CHECKPOINT_PERIOD,
        eval_period=timed.TEST.EVAL_PERIOD,
        best_metric=cfg.TEST.BEST_METRIC,
        export=_exporter(
            cfg, model if average is None else cast(TrainingLifeCycle, average.module)
        ),
        average=average,
        seed=cfg.SEED,
        config_text=cfg.dump(),
    )


def amp_dtype(cfg: CfgNode) -> torch.dtype | None:
    """The type of mixed precision, from ``SOLVER.AMP``; None for none.

    Raises:
        ValueError: for an unknown precision.
    """
    amp = cfg.SOLVER.AMP
    if amp.PRECISION not in AMP_TYPES:
        raise ValueError(
            f"SOLVER.AMP.PRECISION must be one of {list(AMP_TYPES)}, got {amp.PRECISION!r}"
        )
    return AMP_TYPES[amp.PRECISION] if amp.ENABLED else None


def _exporter(cfg: CfgNode, model: TrainingLifeCycle) -> Callable[[str, Mapping[str, str]], None]:
    entries = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.VAL]
    origin = {
        "version": comics.__version__,
        "data_sha256": json.dumps(annotation_digests(entries, datasets_root(cfg))),
    }

    def export(name: str, metadata: Mapping[str, str]) -> None:
        """Write the model file of that name to the output folder."""
        path = Path(cfg.OUTPUT_DIR) / f"{name}.safetensors"
        state = model.inference_state_dict()
        try:
            save_weights(path, state, cfg, {**metadata, **origin})
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"could not write {path}: {error}") from error
        logger.info("wrote %s", path)

    return export


def _validation(
    cfg: CfgNode, task: Task, sets: list[Any], device: torch.device, skipped: set[str]
) -> Callable[[nn.Module], dict[str, float]]:
    def validate(model: nn.Module) -> dict[str, float]:
        with uncompiled():
            measurement = task.measure(cfg, model, sets, device)
        skipped.update(measurement.skipped)
        return measurement.figures

    return validate


def _write_config(cfg: CfgNode, folder: Path) -> None:
    write_text(folder / CONFIG_FILE, cfg.dump())
