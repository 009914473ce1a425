"""Training and evaluation on Detectron2's ``DefaultTrainer``.

What is the native runtime's: order of images and augmentation, the model files
(model_best.safetensors, model_final.safetensors), the treatment of signals, of unreadable images
and of losses that are not finite. What is Detectron2's: the loop with its hooks, checkpoints
(model_0000123.pth, last_checkpoint), metrics.json, the optimiser for "SGD", the schedule.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer, TrainerBase, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import comics
from comics.engine import distributed
from comics.engine.measure import mean_figures
from comics.engine.optim import optimizer_from_config
from comics.engine.randomness import random_state, seed_everything, set_random_state, undisturbed
from comics.engine.signals import StopRequest
from comics.engine.train import amp_dtype
from comics.engine.trainer import MODEL_FINAL, MODEL_LAST
from comics.integrations.detectron2.checkpoint import (
    ComicsCheckpointer,
    has_detectron2_names,
    load_weights,
)
from comics.integrations.detectron2.config import CLIP_TOGETHER, is_native, to_comics_config
from comics.integrations.detectron2.data import (
    ComicsDatasetMapper,
    Inputs,
    build_test_inputs,
    build_train_inputs,
    register_datasets,
)
from comics.integrations.detectron2.evaluator import ComicsEvaluator
from comics.integrations.detectron2.hooks import AfterOptimizerStep, ExportBest, export_metadata
from comics.integrations.detectron2.step import StepTrainer
from comics.modeling.build import FAST_LAYOUT
from comics.modeling.weights import save_weights

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
OUR_SAMPLER = "TrainingSampler"  # DATALOADER.SAMPLER_TRAIN that means our own loader


class ComicsTrainer(DefaultTrainer):
    """``DefaultTrainer`` for our models, and for Detectron2's on our data.

    The order differs from ``DefaultTrainer``'s: weights first, then what training adds to the
    model (the key encoder is a copy), then the optimiser and DDP, which must see it.

    Args:
        cfg: settled (``config.settle``).
        resume: go on from ``OUTPUT_DIR``'s last checkpoint, if there is one.

    Raises:
        KeyError, ValueError, OSError: if the run cannot start.
    """

    def __init__(self, cfg: CfgNode, *, resume: bool = False) -> None:
        TrainerBase.__init__(self)
        self.cfg = cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        # Those of DATASETS.TEST need not be on this machine
        register_datasets(cfg, [*cfg.DATASETS.TRAIN, *cfg.DATASETS.VAL])
        resume = resume and ComicsCheckpointer(nn.Module(), cfg.OUTPUT_DIR).has_checkpoint()
        seed_everything(cfg.SEED)
        self.plain_model = self.build_model(cfg)
        if not resume:  # a checkpoint brings all weights
            load_weights(self.plain_model, cfg.MODEL.WEIGHTS)
        prepare = getattr(self.plain_model.train(), "prepare_training", None)
        if prepare is not None:
            prepare()
        seed_everything(cfg.SEED + distributed.rank())
        clip = cfg.SOLVER.CLIP_GRADIENTS
        together = clip.ENABLED and clip.CLIP_TYPE == CLIP_TOGETHER
        optimizer = self.build_optimizer(cfg, self.plain_model)
        self._trainer = StepTrainer(
            distribute(self.plain_model),
            None,
            optimizer,
            device=torch.device(cfg.MODEL.DEVICE),
            accumulate=cfg.SOLVER.ACCUMULATE,
            clip_norm=clip.CLIP_VALUE if together else None,
            amp_dtype=amp_dtype(cfg),
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = ComicsCheckpointer(
            self.plain_model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.skipped: set[str] = set()  # images that validations could not read
        self._stop = StopRequest()
        self._writers: list[EventWriter] = []  # on the main process only
        self._resumed = resume
        self.register_hooks(self.build_hooks())
        self.resume_or_load(resume)

    # ---------------------------------------------------------------------------------- the run

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint, if asked to and there is one, and open the data."""
        if resume and self.checkpointer.has_checkpoint():
            self.checkpointer.load(self.checkpointer.get_checkpoint_file())
            self.start_iter = self.iter + 1
            logger.info("resumed after iteration %d", self.start_iter)
        self.data_loader = self.build_train_loader(self.cfg, self.start_iter)

    def train(self) -> int:
        """Train to the end, or until a signal asks for a stop; returns that signal, or 0.

        Raises:
            NonFiniteError: see ``StepTrainer``; nothing is saved.
        """
        self.iter = self.start_iter
        with EventStorage(self.start_iter) as self.storage, self._stop:
            self.before_train()
            try:
                signum = self._loop()
            except BaseException:
                self._close_writers()
                raise
            if signum:
                self._close_writers()
                self.checkpointer.save(f"model_{self.iter:07d}")
                logger.warning("stopped by signal %d after iteration %d", signum, self.iter + 1)
                self.export(MODEL_LAST)
                return signum
            self.iter = self.max_iter
            self.after_train()
            self.export(MODEL_FINAL)
        return 0

    def _loop(self) -> int:
        for iteration in range(self.start_iter, self.max_iter):
            self.iter = iteration
            self.before_step()
            self.run_step()
            self.after_step()
            flag = torch.tensor([self._stop.signum], device=self._trainer.device)
            (signum,) = distributed.max_over_ranks(flag)
            if signum and self.iter + 1 < self.max_iter:
                return signum
        return 0

    def _close_writers(self) -> None:
        """Of a run that ends early: Detectron2's hook would, but its printer fails if it is asked
        twice for one iteration.
        """
        for writer in self._writers:
            if not isinstance(writer, CommonMetricPrinter):
                writer.write()
            writer.close()

    def state_dict(self) -> dict[str, Any]:
        """As ``DefaultTrainer``, with the main process's random generators."""
        return {**super().state_dict(), "random": random_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        super().load_state_dict(state_dict)
        if distributed.is_main():
            set_random_state(state_dict["random"])
        else:  # a stream of its own, not the one that the run began with
            seed_everything(self.cfg.SEED + distributed.rank() + state_dict["iteration"])

    def export(self, name: str, metadata: Mapping[str, str] | None = None) -> None:
        """Write the model file ``<name>.safetensors``, on the main process."""
        if not distributed.is_main():
            return
        state = getattr(self.plain_model, "inference_state_dict", self.plain_model.state_dict)()
        cfg = to_comics_config(self.cfg) if is_native(self.cfg) else self.cfg
        done = min(self.iter + 1, self.max_iter)
        known = {**export_metadata(done), "version": comics.__version__}
        path = Path(self.cfg.OUTPUT_DIR) / f"{name}.safetensors"
        save_weights(path, state, cfg, {**known, **(metadata or {})})
        logger.info("wrote %s", path)

    @property
    def unreadable(self) -> list[str]:
        """Paths of the images that no process could read."""
        broken = getattr(getattr(self.data_loader, "loader", None), "broken", {})
        paths = {path for part in distributed.gather(sorted(broken)) for path in part}
        return sorted(paths | self.skipped)

    # ---------------------------------------------------------------------------------- parts

    def build_hooks(self) -> list[hooks.HookBase | None]:
        """Detectron2's, with validation on ``DATASETS.VAL`` and the best model file."""
        cfg, found = self.cfg, [hooks.IterationTimer(), hooks.LRScheduler()]
        found.append(AfterOptimizerStep(self.plain_model))
        if distributed.is_main():
            found.append(
                hooks.PeriodicCheckpointer(
                    self.checkpointer,
                    cfg.SOLVER.CHECKPOINT_PERIOD,
                    max_to_keep=max(cfg.SOLVER.KEEP_CHECKPOINTS, 1),
                )
            )
        if len(cfg.DATASETS.VAL):
            found.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._validate))
            if distributed.is_main():
                best = (cfg.TEST.BEST_METRIC, self.export, cfg.OUTPUT_DIR)
                found.append(ExportBest(*best, resume=self._resumed))
        if distributed.is_main():
            self._writers = self.build_writers()
            found.append(hooks.PeriodicWriter(self._writers, period=cfg.LOG.PERIOD))
        return found

    def _validate(self) -> dict[str, Any]:
        with undisturbed(), self._stop.at_once():
            results, skipped = measure(self.cfg, self.plain_model, self.cfg.DATASETS.VAL)
        self.skipped.update(skipped)
        return results

    def build_writers(self) -> list[EventWriter]:
        """Console, metrics.json, and TensorBoard's events where it is installed.

        Detectron2's users expect events without asking; with ``LOG.TENSORBOARD`` they must be.

        Raises:
            ImportError: for ``LOG.TENSORBOARD`` without TensorBoard.
        """
        folder = self.cfg.OUTPUT_DIR
        Path(folder).mkdir(parents=True, exist_ok=True)
        writers = [
            CommonMetricPrinter(self.max_iter, window_size=self.cfg.LOG.PERIOD),
            JSONWriter(str(Path(folder) / METRICS_FILE), window_size=self.cfg.LOG.PERIOD),
        ]
        wanted = self.cfg.LOG.TENSORBOARD or find_spec("tensorboard") is not None
        return writers + ([TensorboardXWriter(folder)] if wanted else [])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """See ``build_fast_model``."""
        return build_fast_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Detectron2's SGD, or the one that ``SOLVER.OPTIMIZER`` names."""
        clip = cfg.SOLVER.CLIP_GRADIENTS
        if clip.ENABLED and clip.CLIP_TYPE == CLIP_TOGETHER:  # the step does it
            cfg = cfg.clone()
            cfg.defrost()
            cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
        if cfg.SOLVER.OPTIMIZER == "SGD":
            return build_optimizer(cfg, model)
        return maybe_add_gradient_clipping(cfg, optimizer_from_config(cfg, model))

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iteration: int = 0) -> Any:
        """Ours, from an iteration on; with another ``DATALOADER.SAMPLER_TRAIN``, Detectron2's."""
        if cfg.DATALOADER.SAMPLER_TRAIN == OUR_SAMPLER:
            return build_train_inputs(cfg, start_iteration)
        return build_detection_train_loader(cfg, mapper=ComicsDatasetMapper(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Inputs:
        """Ours."""
        return build_test_inputs(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> ComicsEvaluator:
        """Ours."""
        return ComicsEvaluator.from_config(cfg, dataset_name)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """Figures on ``DATASETS.TEST``, see ``measure``; with evaluators, Detectron2's own way."""
        if evaluators is not None:
            return super().test(cfg, model, evaluators)
        return measure(cfg, model, cfg.DATASETS.TEST)[0]


def build_fast_model(cfg: CfgNode) -> nn.Module:
    """Detectron2's ``build_model``, our models in the memory layout of the native runtime."""
    model = build_model(cfg)
    return model if has_detectron2_names(model) else model.to(memory_format=FAST_LAYOUT)


def measure(
    cfg: CfgNode, model: nn.Module, entries: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Figures of a model on registered sets, on every process together.

    Args:
        cfg: INPUT, TEST, DATALOADER, DATASETS.ROOT, OUTPUT_DIR and MODEL.MASK_ON are read.
        model: takes Detectron2's inputs.
        entries: as in ``DATASETS``, or names in the catalogs; they are entered there.

    Returns:
        Task -> name -> figure (the mean over the sets; with several sets also set -> the same),
        empty but on the main process; and the paths of images that could not be read.
    """
    register_datasets(cfg, entries)
    found, skipped = {}, []
    for position, entry in enumerate(entries):
        inputs = build_test_inputs(cfg, entry)
        prefix = f"{position}_" if len(entries) > 1 else ""
        evaluator = ComicsEvaluator.from_config(cfg, entry, prefix)
        results = inference_on_dataset(model, inputs, evaluator)
        missed = [
            path for part in distributed.gather(sorted(inputs.loader.skipped)) for path in part
        ]
        if missed and distributed.is_main():
            logger.warning(
                "%s: %d images could not be read, and count as empty", entry, len(missed)
            )
        skipped += missed
        if distributed.is_main():
            found[entry] = results
    if len(found) < 2:
        return next(iter(found.values()), {}), skipped
    parts = list(found.values())
    means = {task: mean_figures([part[task] for part in parts]) for task in parts[0]}
    return {**found, **means}, skipped


def distribute(model: nn.Module) -> nn.Module:
    """The model, with gradients averaged over the processes when there are several.

    As ``comics.engine.step.distribute``; Detectron2's ``create_ddp_model`` is for CUDA only.
    """
    if distributed.world_size() == 1:
        return model
    return DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)
