"""An encoder that learns from scratch on a CPU, for demonstrations, comparisons and tests.

Shape letters: N crops; C channels; S side of a crop.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from comics.modeling.faces.encoder import Encoder
from comics.modeling.weights import load_state
from comics.ops.srm import SRM_FILTERS, SRM_RADIUS
from comics.registry import ENCODERS

STEM_CHANNELS = 24
STAGES = ((24, 1), (48, 2), (128, 2))  # channels and stride of each residual block
RGB = 3  # channels of colour; a method may put others behind them
HALF_RANGE = 127.5  # of pixels: normalised ones lie in [-1, 1]
RESIDUAL_LIMIT = 3.0  # grey levels, as docs/methods.md#comics-fea; residuals are divided by it


@ENCODERS.register()
class SmallResNet(Encoder):
    """Three residual blocks (He et al. 2015), stride 8 in all: a map of S/8 cells a side, C = 128.

    Made for a few hundred steps on small crops: it sees the SRM residuals of the image beside its
    colours (traces of forgery are weak and high-pass, which takes long to be learnt from nothing),
    and its map is finer than those of deep encoders, whose stride of 32 leaves two or three cells
    a side. About 0.3 million parameters. Source: decision.
    """

    filters: Tensor

    num_features = STAGES[-1][0]
    pixel_mean = (HALF_RANGE,) * 3
    pixel_std = (HALF_RANGE,) * 3

    def __init__(self) -> None:
        super().__init__()
        filters = torch.tensor([rows for rows, _ in SRM_FILTERS], dtype=torch.float32)[:, None]
        divisors = torch.tensor([divisor for _, divisor in SRM_FILTERS], dtype=torch.float32)
        self.register_buffer("filters", filters / divisors.view(-1, 1, 1, 1), persistent=False)
        layers: list[nn.Module] = [
            nn.Conv2d(6, STEM_CHANNELS, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(STEM_CHANNELS),
            nn.ReLU(inplace=True),
        ]
        inputs = STEM_CHANNELS
        for channels, stride in STAGES:
            layers.append(BasicBlock(inputs, channels, stride, _shortcut(inputs, channels, stride)))
            inputs = channels
        self.layers = nn.Sequential(*layers)

    def forward_map(self, x: Tensor) -> Tensor:
        """Feature map [N, C, S/8, S/8] of normalised crops [N, 3, S, S]."""
        return self.layers(torch.cat([x, self._residual(x)], dim=1))

    def _residual(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1]: the brightness under each filter, truncated."""
        # Shapes alone are computed on "meta", which has no autocast
        exact = nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
        with torch.no_grad(), exact:
            brightness = (x[:, :RGB].float() * HALF_RANGE).mean(dim=1, keepdim=True)
            padded = functional.pad(brightness, (SRM_RADIUS,) * 4, mode="reflect")
            residual = functional.conv2d(padded, self.filters)
            return (residual / RESIDUAL_LIMIT).clamp(-1, 1).to(x.dtype)

    def load_weights(self, state: Mapping[str, Tensor], source: str) -> None:
        """Load a state dict of this encoder; raises ``ValueError`` as ``Encoder.load_weights``."""
        load_state(self, state, source)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if inputs == outputs and stride == 1:
        return None
    convolution = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
