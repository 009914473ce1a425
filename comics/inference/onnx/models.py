"""Models whose networks run in ONNX Runtime, with the interfaces of those that run in PyTorch.

Shape letters: B images; H, W their height and width; N crops; S side of a crop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.inference.onnx.files import OnnxFile
from comics.inference.onnx.sessions import Session
from comics.modeling.backbone import Pyramid
from comics.modeling.build import build_detector
from comics.modeling.comics import Comics
from comics.modeling.detectors.base import Detector, check_images
from comics.modeling.detectors.candidates import Candidates
from comics.registry import BACKBONE_SOURCES, FACE_METHODS
from comics.structures import Faces

STATED = "exported"  # MODEL.BACKBONE.NAME "exported/<the pyramid as JSON>"


class StatedPyramid(Pyramid):
    """The shapes of a pyramid whose network is in a graph; it computes nothing.

    Args:
        strides, out_channels, size_divisibility: see ``Pyramid``.
    """

    def __init__(
        self, strides: Mapping[str, int], out_channels: int, size_divisibility: int
    ) -> None:
        super().__init__()
        self.strides = dict(strides)
        self.out_channels = out_channels
        self.size_divisibility = size_divisibility


@BACKBONE_SOURCES.register()
def exported(cfg: CfgNode) -> StatedPyramid:
    """The pyramid that ``MODEL.BACKBONE.NAME`` states."""
    return StatedPyramid(**json.loads(cfg.MODEL.BACKBONE.NAME.removeprefix(f"{STATED}/")))


def describe_pyramid(pyramid: Pyramid) -> dict[str, Any]:
    """The arguments of a ``StatedPyramid`` of the same shapes; JSON."""
    return {
        "strides": pyramid.strides,
        "out_channels": pyramid.out_channels,
        "size_divisibility": pyramid.size_divisibility,
    }


class OnnxDetector(nn.Module):
    """A detector whose dense part is a graph; the selection is the detector's own.

    Images of one size go through the graph together, and are padded as if there were no others:
    that alone may tell its results from PyTorch's, which pads a batch to its largest image.

    Args:
        session: of the dense part.
        selection: the detector, with the weights of its ``selection_parts``.
    """

    def __init__(self, session: Session, selection: Detector) -> None:
        super().__init__()
        self.session = session
        self.selection = selection.eval()

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Faces] | None = None,
        output_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[Faces]:
        """As ``Detector.forward`` in evaluation mode; on the CPU.

        Raises:
            ValueError: for a malformed image.
        """
        found = self.candidates(images)
        wanted = output_sizes or [one.image_size for one in found]
        return [one.drawn(size) for one, size in zip(found, wanted, strict=True)]

    @torch.no_grad()
    def candidates(self, images: Sequence[Tensor]) -> list[Candidates]:
        """As ``Detector.candidates``; on the CPU.

        Raises:
            ValueError: for a malformed image.
        """
        check_images(images)
        groups: dict[tuple[int, int], list[int]] = {}
        for position, image in enumerate(images):
            groups.setdefault((image.shape[1], image.shape[2]), []).append(position)
        found: dict[int, Candidates] = {}
        for size, positions in groups.items():
            batch = torch.stack([images[position].float() for position in positions])
            dense = dict(zip(self.session.outputs, self.session.run(batch), strict=True))
            selected = self.selection.checked_select(dense, [size] * len(positions))
            found.update(zip(positions, selected, strict=True))
        return [found[position] for position in range(len(images))]


class OnnxFaceMethod(nn.Module):
    """A face method that says logits, and no more: it has no gradients for heat maps.

    Args:
        session: of the whole method.
        crop_size: S in pixels.
    """

    pixel_mean: Tensor

    def __init__(self, session: Session, crop_size: int) -> None:
        super().__init__()
        self.session = session
        self.crop_size = crop_size
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1))  # tells device and type of crops

    def forward(self, crops: Tensor) -> Tensor:
        """Logits [N] of RGB crops [N, 3, h, w] on the 0-255 scale; P(fake) is their sigmoid."""
        if len(crops) == 0:
            return crops.new_zeros(0, dtype=torch.float32)
        return self.session.run(crops.float())[0]


def make_detector(file: OnnxFile, name: str) -> OnnxDetector:
    """The detector of a file.

    Args:
        file: whose graph is the detector's dense part.
        name: of the architecture.

    Raises:
        FileNotFoundError, ValueError: if its weights do not fit its configuration, or files of
            further graphs are absent or of another export.
    """
    model = build_detector(_without_backbone(file), name)
    selection = model.detector if isinstance(model, Comics) else model
    state = file.selection_weights()
    expected = selection_state(selection)
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in expected.items()}:
        raise ValueError(f"{file.path}: its selection weights do not fit its configuration")
    selection.load_state_dict(state, strict=False)
    # Weights of a network that was built all the same are the graph's own, and take memory
    selection.backbone = StatedPyramid(**describe_pyramid(selection.backbone))
    for head in selection.pooled_heads:
        # An attribute of the instance: calling the head runs its graph
        selection.get_submodule(head).forward = _runner(file.part(head))
    return OnnxDetector(file.session, selection)


def _without_backbone(file: OnnxFile) -> CfgNode:
    """The file's configuration; where it states its pyramid, for a detector without the network."""
    pyramid = file.json("pyramid")
    if not pyramid:  # of a version that did not state it
        return file.cfg
    if set(pyramid) != {"strides", "out_channels", "size_divisibility"}:
        raise ValueError(f"{file.path}: what it says of its pyramid is unusable: {pyramid}")
    cfg = file.cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.NAME = f"{STATED}/{json.dumps(pyramid)}"
    cfg.freeze()
    return cfg


def selection_state(detector: Detector) -> dict[str, Tensor]:
    """The weights that ``select`` uses, without those of pooled heads, by name."""
    parts = tuple(
        f"{part}." for part in detector.selection_parts if part not in detector.pooled_heads
    )
    return {name: value for name, value in detector.state_dict().items() if name.startswith(parts)}


def face_crop_size(cfg: CfgNode) -> int:
    """S of the face method that a configuration describes."""
    return cfg.MODEL.FACE.CROP_SIZE or FACE_METHODS.get(cfg.MODEL.FACE.METHOD).crop_size


def _runner(session: Session) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """A head's ``forward``: one tensor, or a tuple of them."""

    def forward(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = session.run(*inputs)
        return found if len(found) > 1 else found[0]

    return forward
