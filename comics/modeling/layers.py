"""Convolution with normalisation, and a convolution evaluated at a few cells only.

Shape letters: B images; C, O input and output channels; h, w of a map; P cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

GROUP_NORM_GROUPS = 32  # Wu and He 2018, and every published configuration
NO_NORM = ("", "none")


class GroupNorm(nn.GroupNorm):
    """Group norm that accepts groups of a single value, which it maps to the bias.

    The coarsest level of a small image has one cell; torch's module refuses it where a group has
    one channel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to the same shape."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def make_norm(name: str, channels: int) -> nn.Module | None:
    """The normalisation called ``name`` for ``channels`` channels; None for "" and "none".

    Raises:
        ValueError: for an unknown name, or channels that 32 groups do not divide ("GN").
    """
    if name in NO_NORM:
        return None
    if name == "FrozenBN":
        return FrozenBatchNorm2d(channels)
    if name == "BN":
        return nn.BatchNorm2d(channels)
    if name == "SyncBN":
        return nn.SyncBatchNorm(channels)
    if name in ("GN", "NaiveGN"):  # AdelaiDet's NaiveGN is the same arithmetic
        if channels % GROUP_NORM_GROUPS:
            raise ValueError(f"GN needs a multiple of {GROUP_NORM_GROUPS} channels, got {channels}")
        return GroupNorm(GROUP_NORM_GROUPS, channels)
    choices = "FrozenBN, BN, SyncBN, GN, none"
    raise ValueError(f"unknown normalisation {name!r}; choices: {choices}")


class ConvNorm(nn.Module):
    """Convolution with "same" padding, then a normalisation and a ReLU if asked for.

    A frozen batch norm is a constant scale and shift, so it is folded into the convolution: one
    pass over the activations less, and the same gradients.

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
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, O, h / stride, w / stride], rounded up."""
        if isinstance(self.norm, FrozenBatchNorm2d):
            out = self._folded(x)
        else:
            out = self.conv(x)
            out = out if self.norm is None else self.norm(out)
        return functional.relu_(out) if self.activation else out

    def _folded(self, x: Tensor) -> Tensor:
        norm, conv = self.norm, self.conv
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if conv.bias is not None:
            shift = shift + conv.bias * scale
        weight = conv.weight * scale[:, None, None, None]
        return functional.conv2d(x, weight, shift, conv.stride, conv.padding, 1, conv.groups)


def conv3x3_at_cells(
    conv: nn.Conv2d, maps: Sequence[Tensor], level: Tensor, image: Tensor, cell: Tensor
) -> Tensor:
    """Output of a 3x3 convolution (stride 1, padding 1) at a few cells of several maps.

    Same arithmetic as ``conv(maps[l])`` read at the cells, without computing the other cells: a
    wide prediction layer is needed only where there is a face.

    Args:
        conv: C to O channels.
        maps: per level [B, C, h_l, w_l].
        level, image, cell: [P] int64; cell = row * w_l + column.

    Returns:
        [P, O].
    """
    patches = []
    order = []
    offsets = torch.arange(3, device=cell.device)
    for index, feature in enumerate(maps):
        chosen = (level == index).nonzero().squeeze(1)
        width = feature.shape[-1]
        rows = (cell[chosen] // width)[:, None, None] + offsets[:, None]
        columns = (cell[chosen] % width)[:, None, None] + offsets
        padded = functional.pad(feature, (1, 1, 1, 1))
        patches.append(padded.permute(0, 2, 3, 1)[image[chosen][:, None, None], rows, columns])
        order.append(chosen)
    back = torch.argsort(torch.cat(order))
    gathered = torch.cat(patches)[back].permute(0, 3, 1, 2).flatten(1)
    return functional.linear(gathered, conv.weight.flatten(1), conv.bias)
