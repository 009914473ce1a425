"""Checkpoints in Detectron2's runtime: its own .pth, our .safetensors, and neither runs code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import Backbone
from torch import Tensor, nn

from comics.engine.checkpoint import CheckpointError
from comics.engine.train import load_initial_weights
from comics.integrations.checkpoint_files import read_checkpoint
from comics.integrations.detectron2.rcnn import ComicsRCNN
from comics.integrations.safe_pickle import read_pickle
from comics.integrations.weights import load_foreign_weights
from comics.modeling.comics import Comics
from comics.modeling.detectors.base import Detector
from comics.modeling.face_forensics import FaceForensics
from comics.modeling.life_cycle import TRAINING_ONLY
from comics.modeling.state_names import without_wrappers
from comics.modeling.weights import load_state, read_weights, require_finite, require_fit

DETECTOR_PREFIX = "detector."  # of a detector's names within ``Comics``
CAFFE2_MOMENTUM = "_momentum"  # end of the names of an optimiser's state in Caffe2's files


class ComicsCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer that also reads our model files, and reads pickles safely.

    A .safetensors file must fit the model, but for what only training needs; a .pth or .pkl file
    may fit in part, as in Detectron2, which lists what does not, but must fit at all.
    """

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".safetensors"):
            state = read_weights(filename).state
            own = self.model.state_dict()
            wanted = {k: v for k, v in own.items() if not k.startswith(TRAINING_ONLY)}
            require_fit(wanted, state, filename)
            return {"model": state}
        if filename.endswith(".pkl"):
            loaded = _read_zoo(filename)
        else:
            loaded = self._load_pth(filename)
        loaded["model"] = without_wrappers(loaded["model"])
        tensors = {k: torch.as_tensor(v) for k, v in loaded["model"].items()}
        require_finite(tensors, filename)
        if not _shared(self.model, loaded["model"]):  # a plain detector's file, under COMICS
            within = {DETECTOR_PREFIX + name: v for name, v in loaded["model"].items()}
            if _shared(self.model, within):
                loaded["model"] = within
        if not loaded.get("matching_heuristics") and not _shared(self.model, loaded["model"]):
            raise ValueError(
                f"{filename}: none of its {len(loaded['model'])} tensors is known to "
                f"{type(self.model).__name__}: it is of another architecture"
            )
        return loaded

    def _load_pth(self, filename: str) -> dict[str, Any]:
        try:
            return super()._load_file(filename)
        except Exception as error:  # damage surfaces as many types
            raise CheckpointError(f"{filename} is not a readable checkpoint: {error}") from error


def load_weights(model: nn.Module, path: str, *, must_fit: bool = False) -> None:
    """Load ``MODEL.WEIGHTS`` into a fresh model; "" leaves its random weights.

    Args:
        model: not yet prepared for training.
        path: what the native runtime reads, or a .pth file of Detectron2's trainer; where
            parts of the model are Detectron2's, anything that its checkpointer reads
            ("detectron2://...").
        must_fit: a .safetensors file must hold exactly this model, not a variant of it.

    Raises:
        FileNotFoundError, ValueError: if the file is absent, damaged, or does not fit.
    """
    if not path:
        return
    if "://" not in path and not Path(path).is_file():
        raise FileNotFoundError(f"MODEL.WEIGHTS: there is no file {path}")
    if has_detectron2_names(model):
        ComicsCheckpointer(model).load(path)
    elif isinstance(model, FaceForensics) and path.endswith(".safetensors"):
        load_state(model, read_weights(path).state, path)  # a joined file fits as a whole or not
    elif path.endswith(".pth") and (state := _state_of_trainer(model, path)) is not None:
        load_state(model, state, path)
    else:
        load_initial_weights(model, path, load_foreign_weights, must_fit=must_fit)


def has_detectron2_names(model: nn.Module) -> bool:
    """Whether parts of a model are Detectron2's, and its weights have Detectron2's names."""
    if isinstance(model, ComicsRCNN):
        return True
    detector = getattr(model, "detector", model)  # within Comics or FaceForensics
    backbone = getattr(getattr(detector, "detector", detector), "backbone", None)
    return not isinstance(detector, Detector | Comics) or isinstance(backbone, Backbone)


def _state_of_trainer(model: nn.Module, path: str) -> dict[str, Tensor] | None:
    """The weights in a checkpoint of ``ComicsTrainer`` with this model; None for another file."""
    state = {k: v for k, v in read_checkpoint(path).items() if not k.startswith(TRAINING_ONLY)}
    return state if state.keys() == model.state_dict().keys() else None


def _read_zoo(filename: str) -> dict[str, Any]:
    """A pickle of Detectron2's model zoo, or of Caffe2."""
    content = read_pickle(filename)
    if "model" in content and "__author__" in content:
        return content
    blobs = content.get("blobs", content)
    state = {name: value for name, value in blobs.items() if not name.endswith(CAFFE2_MOMENTUM)}
    return {"model": state, "__author__": "Caffe2", "matching_heuristics": True}


def _shared(model: nn.Module, state: Mapping[str, Any]) -> set[str]:
    return model.state_dict().keys() & state.keys()
