"""Encoders: a face crop to a feature map, and a map to one feature.

Any timm model whose features are a map will do: "efficientnet_b4", "legacy_xception" (the Xception
of the papers), "resnet50", "dpn68", "vgg19", ... An encoder of another origin enters ``ENCODERS``.
Shape letters: N crops; C channels; S side of a crop; h, w of the map.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from comics.modeling.state_names import unwrap_container, without_wrappers
from comics.modeling.weights import require_finite, require_fit
from comics.registry import ENCODERS

TIMM_PART = "model."  # where a TimmEncoder has the timm model
ENCODER_PART = "encoder."  # where a face method's model file has it
PIXEL_SCALE = 255.0  # timm states mean and deviation on the 0-1 scale


class Encoder(nn.Module):
    """What a face method needs of an encoder.

    Attributes:
        num_features: C.
        pixel_mean, pixel_std: three values each on the 0-255 scale, RGB, that its weights expect.
        optional_weights: prefixes of names that a file of its weights may hold beyond its own,
            such as the classifier of the task that it was trained on.
    """

    num_features: int
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    optional_weights: tuple[str, ...] = ()

    def forward_map(self, x: Tensor) -> Tensor:
        """Feature map [N, C, h, w] of normalised crops [N, 3, S, S]."""
        raise NotImplementedError

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Maps of the stages of the network, the finest first; the last is ``forward_map``'s."""
        return [self.forward_map(x)]

    def pool(self, feature_map: Tensor) -> Tensor:
        """One feature [N, C] of a map [N, C, h, w]: the mean over its cells."""
        return feature_map.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features [N, C] of normalised crops."""
        return self.pool(self.forward_map(x))

    def load_weights(self, state: Mapping[str, Tensor], source: str) -> None:
        """Load the encoder's own weights from a state dict of the original model.

        Raises:
            ValueError: listing what is missing, unexpected or of another shape; nothing is loaded.
        """
        raise NotImplementedError

    def map_size(self, size: int) -> tuple[int, int]:
        """(h, w) of the map of square crops of that side, found without computing it."""
        feature_map, _ = _run_on_shapes(self, "forward_map", size)
        return feature_map.shape[-2], feature_map.shape[-1]

    def stage_shapes(self, size: int) -> list[tuple[int, int, int]]:
        """(channels, h, w) of ``forward_stages`` of square crops, found without computing it."""
        stages, _ = _run_on_shapes(self, "forward_stages", size)
        return [(stage.shape[1], stage.shape[2], stage.shape[3]) for stage in stages]


class TimmEncoder(Encoder):
    """A timm model without its classifier, and without layers that its map does not use.

    Weights are random: pretrained ones come from a file.

    Args:
        name: timm's model name.

    Raises:
        ValueError: for a model that timm does not know, or whose features are not a map.
    """

    def __init__(self, name: str) -> None:
        import timm  # takes a second, and an exported model needs none of it

        super().__init__()
        try:
            self.model = timm.create_model(name, pretrained=False, num_classes=0)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"timm cannot make an encoder of {name!r}: {error}") from error
        described = self.model.pretrained_cfg
        self.pixel_mean = tuple(PIXEL_SCALE * value for value in described["mean"])
        self.pixel_std = tuple(PIXEL_SCALE * value for value in described["std"])
        self.num_features = self.model.num_features
        size = described["input_size"][-1]
        features, parameters = _run_on_shapes(self.model, "forward_features", size)
        if features.ndim != 4 or self.num_features not in (features.shape[1], features.shape[3]):
            raise ValueError(
                f"features of timm model {name!r} are {tuple(features.shape)}, not a map of "
                f"{self.num_features} channels"
            )
        self._channels_last = features.shape[1] != self.num_features
        classifier = described.get("classifier") or ()
        classifier = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        unused = _unused_children(self.model, features, parameters)
        for child in unused:
            setattr(self.model, child, nn.Identity())
        self.optional_weights = tuple(f"{prefix}." for prefix in (*classifier, *unused))

    def forward_map(self, x: Tensor) -> Tensor:
        """Feature map [N, C, h, w] of normalised crops [N, 3, S, S]."""
        features = self.model.forward_features(x)
        return features.permute(0, 3, 1, 2) if self._channels_last else features

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """As ``Encoder``; of a model without maps of its stages the last one alone."""
        if not hasattr(self.model, "forward_intermediates"):
            return [self.forward_map(x)]
        features, stages = self.model.forward_intermediates(x)
        return [*stages, features.permute(0, 3, 1, 2) if self._channels_last else features]

    def load_weights(self, state: Mapping[str, Tensor], source: str) -> None:
        """Load a state dict of the timm model, or of this encoder; a classifier is left out.

        Raises:
            ValueError: listing what is missing, unexpected or of another shape; nothing is loaded.
        """
        own = self.model.state_dict()
        if own.keys().isdisjoint(state):  # of an encoder like this one, in another method's file
            state = {name.removeprefix(TIMM_PART): value for name, value in state.items()}
        kept = {
            k: v for k, v in state.items() if k in own or not k.startswith(self.optional_weights)
        }
        require_fit(own, kept, source, "encoder")
        require_finite(kept, source)
        self.model.load_state_dict(kept)


def build_encoder(name: str) -> Encoder:
    """The registered encoder of that name, else timm's model, with random weights.

    Raises:
        ValueError: for a model that is neither, or whose features are not a map.
    """
    return ENCODERS.get(name)() if name in ENCODERS else TimmEncoder(name)


def read_encoder_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, or in a .pth file, read without running its code.

    Of a model file of a face method, the encoder's part: one method may start from another's.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a .pth file holds anything but tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no encoder weights at {path} (MODEL.FACE.ENCODER_WEIGHTS): "
            'docs/methods.md#faces-weights says where they come from; "" starts from random ones'
        )
    if path.suffix == ".safetensors":
        return _encoder_part(without_wrappers(load_file(path)))
    content = torch.load(path, map_location="cpu", weights_only=True)
    content = unwrap_container(content)
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no state dict: tensors by name were expected")
    return _encoder_part(without_wrappers({str(name): value for name, value in content.items()}))


def saw_forgeries(path: str | os.PathLike) -> bool:
    """Whether a file of weights is a face method's own, whose encoder was trained on forgeries.

    Of a file that is not of this project nothing is known.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    with safe_open(path, framework="pt") as file:
        return any(name.startswith(ENCODER_PART) for name in file.keys())  # noqa: SIM118


def _encoder_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What starts with "encoder." if anything does, without that; else everything."""
    own = {k.removeprefix(ENCODER_PART): v for k, v in state.items() if k.startswith(ENCODER_PART)}
    return own or state


class _Method(nn.Module):
    """Lets ``functional_call`` run a method of a module other than ``forward``."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module = module
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.module, self.name)(x)


def _run_on_shapes(module: nn.Module, method: str, size: int) -> tuple[Any, dict[str, Tensor]]:
    """``module.method`` of two crops of that side, on PyTorch's "meta" device: shapes, no values.

    Two, because batch normalisation refuses one value per channel while training.

    Returns:
        The result, and the parameters by name that stood in for the module's.
    """
    parameters = {
        name: parameter.detach().to("meta").requires_grad_()
        for name, parameter in module.named_parameters()
    }
    buffers = {name: buffer.to("meta") for name, buffer in module.named_buffers()}
    state = {f"module.{name}": tensor for name, tensor in {**parameters, **buffers}.items()}
    crops = torch.zeros(2, 3, size, size, device="meta")
    return functional_call(_Method(module, method), state, (crops,)), parameters


def _unused_children(model: nn.Module, output: Tensor, parameters: dict[str, Tensor]) -> list[str]:
    """Children of ``model`` that have parameters, on none of which ``output`` depends."""
    gradients = torch.autograd.grad(output.sum(), tuple(parameters.values()), allow_unused=True)
    used = {name for name, g in zip(parameters, gradients, strict=True) if g is not None}
    return [
        child
        for child, module in model.named_children()
        if any(True for _ in module.parameters())
        and not any(name.startswith(f"{child}.") for name in used)
    ]
