"""Convolution with normalisation, and at learnt offsets.

Shape letters: B images; C, O input and output channels; h, w of a map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from torchvision.ops import FrozenBatchNorm2d

from comics.ops.recording import is_recorded

GROUP_NORM_GROUPS = 32  # Wu and He 2018, and every published configuration
NO_NORM = ("", "none")
FROZEN = "FrozenBN"
DEFORMABLE_KINDS = ("DCNv1", "DCNv2")
SAMPLES = 9  # of a deformable 3x3 convolution


class GroupNorm(nn.GroupNorm):
    """Group norm that accepts groups of a single value, which it maps to the bias.

    The coarsest level of a small image has one cell; torch's module refuses it where a group has
    one channel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to the same shape."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class StridedConv(nn.Conv2d):
    """A convolution with a stride, which computes a map of one cell in float32 on the CPU.

    Under autocast to bfloat16, some builds of PyTorch's CPU kernels give garbage gradients there;
    the coarsest level of a small image has one cell, which costs nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, O, ceil(h / stride), ceil(w / stride)]."""
        # The mode before the shape, of which an exported graph would become a special case
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        if tuple(x.shape[-2:]) != (1, 1):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            exact = self._conv_forward(x.float(), self.weight.float(), _float(self.bias))
        return exact.to(torch.get_autocast_dtype("cpu"))


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()


def fill_bias(convolution: nn.Conv2d, value: float) -> None:
    """Set every bias of a convolution that has them."""
    if convolution.bias is not None:
        nn.init.constant_(convolution.bias, value)


def make_norm(name: str, channels: int) -> nn.Module | None:
    """The normalisation called ``name`` for ``channels`` channels; None for "" and "none".

    Raises:
        ValueError: for an unknown name, or channels that 32 groups do not divide ("GN").
    """
    if name in NO_NORM:
        return None
    if name == FROZEN:
        from torchvision.ops import FrozenBatchNorm2d  # see comics.ops.compiled

        return FrozenBatchNorm2d(channels)
    if name == "BN":
        return nn.BatchNorm2d(channels)
    if name == "SyncBN":
        return nn.SyncBatchNorm(channels)
    if name in ("GN", "NaiveGN"):  # AdelaiDet's NaiveGN is the same arithmetic
        if channels % GROUP_NORM_GROUPS:
            raise ValueError(f"GN needs a multiple of {GROUP_NORM_GROUPS} channels, got {channels}")
        return GroupNorm(GROUP_NORM_GROUPS, channels)
    choices = f"{FROZEN}, BN, SyncBN, GN, none"
    raise ValueError(f"unknown normalisation {name!r}; choices: {choices}")


class ConvNorm(nn.Module):
    """Convolution with "same" padding, then a normalisation and a ReLU if asked for.

    A frozen batch norm is a constant scale and shift, so it is folded into the convolution: one
    pass over the activations less, and the same gradients. Scale and shift are computed once, and
    where no gradient is asked for, also the folded weights, from the second time on that these are
    the same; a change of any weight or buffer in place, by loading or by moving is noticed.

    Args:
        in_channels, out_channels, kernel_size, stride, groups: of the convolution (odd kernel).
        norm: a name that ``make_norm`` knows.
        bias: give the convolution a bias of its own.
        activation: end with a ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: str = "",
        bias: bool = False,
        activation: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=bias,
        )
        self.norm = make_norm(norm, out_channels)
        self.is_frozen = norm == FROZEN
        self.activation = activation
        self._affine: tuple[tuple, tuple[Tensor, Tensor]] | None = None  # what it is of, and it
        self._folded_weight: tuple[tuple, Tensor | None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, O, h / stride, w / stride], rounded up."""
        if self.is_frozen:
            out = self._folded(x, cast("FrozenBatchNorm2d", self.norm))
        else:
            out = self.conv(x)
            out = out if self.norm is None else self.norm(out)
        return functional.relu_(out) if self.activation else out

    def _folded(self, x: Tensor, norm: FrozenBatchNorm2d) -> Tensor:
        conv = self.conv
        scale, shift = self._scale_and_shift(norm)
        if conv.bias is not None:
            shift = shift + conv.bias * scale
        weight = self._scaled_weight(scale)
        return functional.conv2d(x, weight, shift, conv.stride, conv.padding, 1, conv.groups)

    def _scale_and_shift(self, norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
        """[O] each: what the norm multiplies with, and what it adds then."""
        key = _state_of(norm.weight, norm.bias, norm.running_mean, norm.running_var)
        if key is None:
            return _affine_of(norm)
        if self._affine is None or self._affine[0] != key:
            with torch.inference_mode(False):  # training may come to use what is kept
                self._affine = (key, _affine_of(norm))
        return self._affine[1]

    def _scaled_weight(self, scale: Tensor) -> Tensor:
        """The convolution's weights times [O]."""
        weight = self.conv.weight
        key = _state_of(weight, scale)
        if key is None:
            return weight * scale[:, None, None, None]
        if torch.is_grad_enabled() and weight.requires_grad:
            self._folded_weight = None
            return weight * scale[:, None, None, None]
        known, folded = self._folded_weight or (None, None)
        if known == key and folded is not None:
            return folded
        with torch.no_grad(), torch.inference_mode(False):
            folded = weight * scale[:, None, None, None]
        # Kept if it is asked for again: the weights of a key encoder move with every step
        self._folded_weight = (key, folded if known == key else None)
        return folded


def _affine_of(norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def _state_of(*tensors: Tensor) -> tuple | None:
    """Differs whenever a value of the tensors may; None where that cannot be told.

    Nor where a graph is recorded: what is kept would be a part of it.
    """
    if is_recorded() or any(tensor.is_inference() for tensor in tensors):
        return None
    return tuple((tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors)


class DeformableConv(nn.Module):
    """3x3 convolution, stride 1, whose nine samples lie at predicted offsets from the grid.

    "DCNv1" is Dai et al. 2017 (arXiv:1703.06211, eq. 2); "DCNv2" also predicts a weight in (0, 1)
    for each sample (Zhu et al. 2019, arXiv:1811.11168, eq. 1). Computed in float32, because
    the kernel knows no bfloat16.

    Args:
        in_channels, out_channels: C and O.
        kind: "DCNv1" or "DCNv2".
        bias: give the convolution a bias.

    Raises:
        ValueError: for another kind.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kind: str = "DCNv1", bias: bool = False
    ) -> None:
        super().__init__()
        self.offset = nn.Conv2d(in_channels, offset_channels(kind), 3, padding=1)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
        self.reset_offsets()

    def reset_offsets(self) -> None:
        """Start from the regular grid: predicted offsets of 0, as both papers do."""
        nn.init.zeros_(self.offset.weight)
        fill_bias(self.offset, 0)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, O, h, w]."""
        return deformed(x, self.offset(x), self.conv)


class DeformableConvNorm(ConvNorm):
    """A 3x3 ``ConvNorm`` whose nine samples lie at predicted offsets, for backbones.

    The convolution has the names of a plain one's, so that pretrained weights fit; offsets start
    at 0 ("DCNv1"), or at 0 with sample weights of 1/2 ("DCNv2"). Computed in float32, as
    ``DeformableConv``.

    Args:
        in_channels, out_channels, stride, groups, norm, activation: see ``ConvNorm``.
        kind: "DCNv1" or "DCNv2".

    Raises:
        ValueError: for another kind.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: str = "",
        activation: bool = False,
        kind: str = "DCNv2",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            3,
            stride=stride,
            groups=groups,
            norm=norm,
            activation=activation,
        )
        self.offset = nn.Conv2d(in_channels, offset_channels(kind), 3, stride=stride, padding=1)
        self.reset_offsets()

    def reset_offsets(self) -> None:
        """Start from the regular grid."""
        nn.init.zeros_(self.offset.weight)
        fill_bias(self.offset, 0)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, O, h / stride, w / stride], rounded up."""
        out = deformed(x, self.offset(x), self.conv)
        out = out if self.norm is None else self.norm(out)
        return functional.relu_(out) if self.activation else out


def offset_channels(kind: str) -> int:
    """Numbers that a 3x3 deformable convolution predicts at each place.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in DEFORMABLE_KINDS:
        raise ValueError(f"a deformable convolution is one of {DEFORMABLE_KINDS}, got {kind!r}")
    return {"DCNv1": 2, "DCNv2": 3}[kind] * SAMPLES  # y, x, and the weight, for each sample


def deformed(x: Tensor, predicted: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 3x3 convolution of [B, C, h, w] whose samples lie at offsets from the grid.

    Args:
        x: input.
        predicted: [B, ``offset_channels``, h', w'], of the output's size.
        conv: its weights, stride and groups.
    """
    from torchvision.ops import deform_conv2d  # see comics.ops.compiled

    predicted = predicted.float()
    offsets, weights = predicted.split((2 * SAMPLES, predicted.shape[1] - 2 * SAMPLES), dim=1)
    out = deform_conv2d(
        x.float(),
        offsets.contiguous(),
        conv.weight.float(),
        None if conv.bias is None else conv.bias.float(),
        stride=(conv.stride[0], conv.stride[1]),
        padding=1,
        mask=weights.sigmoid() if weights.shape[1] else None,
    )
    return out.to(x.dtype)
