"""What of a model becomes an ONNX graph, and how.

A detector's graph is its dense part, see ``comics.modeling.detectors.base``; what depends on the
faces that are found stays in Python, the same code as without ONNX. Heads that see features pooled
from boxes, and face methods, are graphs of their own.

Shape letters: B images; H, W their height and width; P boxes; N crops; S side of a crop.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx
import torch
from onnx import compose
from timm.layers import AvgPool2dSame, Conv2dSame, ScaledStdConv2dSame, StdConv2dSame
from timm.layers import padding as timm_padding
from timm.layers.pool2d_same import MaxPool2dSame
from torch import Tensor, nn
from torch.nn import functional

from comics.modeling.comics import Comics
from comics.modeling.detectors.base import Detector, ImageBatch
from comics.modeling.faces.base import FaceMethod

OPSET = 20  # the first whose grid sampling and resizing all say what PyTorch's do
IMAGES, CROPS, LOGITS = "images", "crops", "logits"
PADDED = ("padded", "residuals")  # between the stages of a detector
PADDING_LAYERS = (
    Conv2dSame,
    StdConv2dSame,
    ScaledStdConv2dSame,
    AvgPool2dSame,
    MaxPool2dSame,
)
# Pictures that a graph is traced with: unequal sides, and every level larger than one cell
TRACED_SIZE = (300, 430)
TRACED_BATCH = 2
# (B, (H, W)) that it is checked with. Not much smaller: group norms of maps of one or two cells
# enlarge the rounding of either runtime
CHECKED_BATCHES = ((1, (270, 390)), (2, (403, 300)))
CHECKED_BOXES = (1, 5)  # P
CHECKED_CROPS = ((1, 0), (3, 32))  # (N, pixels more than the crop size)
LARGEST_PIXEL = 255.0


@dataclass(frozen=True)
class Stage:
    """A module that is traced on its own.

    Attributes:
        module: of tensors, to a tuple of tensors; in evaluation mode, on the CPU.
        inputs: name -> an example.
        dynamic: name -> the dimensions that are not fixed, in the order of ``inputs``.
        outputs: their names.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """What becomes one ONNX file.

    Attributes:
        module: the whole, of tensors, to a tuple of tensors; in evaluation mode, on the CPU.
        stages: what it is made of: the outputs of each are the inputs of the next.
        checks: sets of inputs of other sizes, to compare runtimes with.
    """

    module: nn.Module
    stages: tuple[Stage, ...]
    checks: tuple[dict[str, Tensor], ...]


class PaddedGraph(nn.Module):
    """Images of one size to what the network sees, cut into blocks of the sides it divides by.

    It is traced apart from ``MapsGraph``, which so knows its sides to be multiples: the sides of
    its maps are then simple expressions, while those of a padded image of any size nest from layer
    to layer, until the exporter spends hours on comparing them.
    """

    def __init__(self, model: Detector | Comics) -> None:
        super().__init__()
        self.detector = model.detector if isinstance(model, Comics) else model
        self.frequency = model.frequency if isinstance(model, Comics) else None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """RGB images [B, 3, H, W] float32, 0-255, to [B, 3, H' / D, D, W' / D, D]: the normalised
        images, padded to H' and W', and of a COMICS model also their residuals.
        """
        side = self.detector.size_divisibility
        rows, columns = (-length % side for length in images.shape[-2:])
        padded = functional.pad(self.detector.normalise(images), (0, columns, 0, rows))
        found = [padded]
        if self.frequency is not None:
            size = (padded.shape[-2], padded.shape[-1])
            found.append(self.frequency.residuals(images, size))
        return tuple(one.unflatten(3, (-1, side)).unflatten(2, (-1, side)) for one in found)


class MapsGraph(nn.Module):
    """What ``PaddedGraph`` gives to all that the detector's ``select`` needs."""

    def __init__(self, model: Detector | Comics) -> None:
        super().__init__()
        self.detector = model.detector if isinstance(model, Comics) else model
        self.frequency = model.frequency if isinstance(model, Comics) else None

    def maps(self, padded: Tensor, residuals: Tensor | None = None) -> dict[str, Tensor]:
        """``Detector.dense`` of what ``PaddedGraph`` gives, weighted by the attention."""
        images = padded.flatten(4).flatten(2, 3)
        features = self.detector.extract_features(ImageBatch(images, sizes=[]))
        if self.frequency is not None:
            assert residuals is not None  # which PaddedGraph gives with them
            features = self.frequency.weigh(features, residuals.flatten(4).flatten(2, 3))
        return self.detector.dense(features)

    def forward(self, padded: Tensor, residuals: Tensor | None = None) -> tuple[Tensor, ...]:
        """The values of ``maps``, in order."""
        return tuple(self.maps(padded, residuals).values())


class DenseGraph(nn.Module):
    """Images of one size to all that the detector's ``select`` needs: both stages."""

    def __init__(self, padded: PaddedGraph, maps: MapsGraph) -> None:
        super().__init__()
        self.padded, self.maps = padded, maps

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The maps of RGB images [B, 3, H, W] float32, 0-255."""
        return self.maps(*self.padded(images))


class HeadGraph(nn.Module):
    """A head of pooled features, whose result is a tuple."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the head returns."""
        found = self.head(*inputs)
        return found if isinstance(found, tuple) else (found,)


class FaceGraph(nn.Module):
    """Crops to logits of P(fake)."""

    def __init__(self, method: FaceMethod) -> None:
        super().__init__()
        self.method = method

    def forward(self, crops: Tensor) -> tuple[Tensor]:
        """RGB crops [N, 3, S, S] float32, 0-255, to [N] float32."""
        return (self.method.map_logits(self.method.feature_map(crops)).float(),)


def detector_graphs(model: Detector | Comics) -> dict[str, Graph]:
    """The graphs of a detector: "" the dense part, and those of its pooled heads by name.

    Raises:
        ValueError: if the detector does not separate its dense part from the selection.
    """
    detector = model.detector if isinstance(model, Comics) else model
    name = type(detector).__name__
    if type(detector).infer is not Detector.infer:
        raise ValueError(
            f"{name} has an infer() of its own; to be exported it needs dense(), select()"
        )
    generator = torch.Generator().manual_seed(0)
    try:
        graphs = {"": _dense_graph(model, generator)}
    except NotImplementedError:
        raise ValueError(f"{name} has no dense(): it cannot be exported") from None
    for head in detector.pooled_heads:
        graphs[head] = _head_graph(detector, head, generator)
    return graphs


def _dense_graph(model: Detector | Comics, generator: torch.Generator) -> Graph:
    padded, maps = PaddedGraph(model), MapsGraph(model)
    example = _images(generator, TRACED_BATCH, TRACED_SIZE)
    with torch.no_grad():
        seen = dict(zip(PADDED, padded(example), strict=False))
        names = tuple(maps.maps(*seen.values()))
    stages = (
        Stage(padded, {IMAGES: example}, {IMAGES: (0, 2, 3)}, tuple(seen)),
        Stage(maps, seen, dict.fromkeys(seen, (0, 2, 4)), names),
    )
    checks = [_images(generator, count, size) for count, size in CHECKED_BATCHES]
    return Graph(DenseGraph(padded, maps), stages, tuple({IMAGES: check} for check in checks))


def face_graph(method: FaceMethod) -> Graph:
    """The graph of a face method, for crops of any size.

    A network that pads by the size of what it sees (TensorFlow's way) is for crops of its own size
    only: the sides of its maps nest from layer to layer, see ``PaddedGraph``.
    """
    generator = torch.Generator().manual_seed(0)
    side = method.crop_size
    fixed = pads_by_size(method)
    width = side if fixed else side + 1  # H and W are not tied
    dynamic = (0,) if fixed else (0, 2, 3)
    module = FaceGraph(method)
    example = {CROPS: _images(generator, TRACED_BATCH, (side, width))}
    checks = [(count, 0 if fixed else more) for count, more in CHECKED_CROPS]
    return Graph(
        module,
        (Stage(module, example, {CROPS: dynamic}, (LOGITS,)),),
        tuple(
            {CROPS: _images(generator, count, (side + more, side + more))} for count, more in checks
        ),
    )


def pads_by_size(module: nn.Module) -> bool:
    """Whether a network holds timm's layers whose padding depends on the size of their input."""
    return any(isinstance(part, PADDING_LAYERS) for part in module.modules())


def _head_graph(detector: Detector, name: str, generator: torch.Generator) -> Graph:
    def inputs(count: int) -> dict[str, Tensor]:
        examples = detector.pooled_example(name, count, generator)
        return {f"input_{position}": example for position, example in enumerate(examples)}

    module = HeadGraph(detector.get_submodule(name))
    traced = inputs(TRACED_BATCH)
    with torch.no_grad():
        outputs = len(module(*traced.values()))
    names = tuple(f"output_{position}" for position in range(outputs))
    return Graph(
        module,
        (Stage(module, traced, dict.fromkeys(traced, (0,)), names),),
        tuple(inputs(count) for count in CHECKED_BOXES),
    )


def trace(graph: Graph, report: Callable[[str], None] = lambda line: None) -> onnx.ModelProto:
    """The ONNX model of a graph; the same graph gives the same bytes.

    Args:
        graph: to be traced, stage by stage.
        report: takes a line of text before each stage.

    Raises:
        ValueError: if PyTorch's exporter does not know an operation of the model.
    """
    model = None
    for position, stage in enumerate(graph.stages):
        report(f"tracing {position + 1} of {len(graph.stages)}")
        traced = _trace_stage(stage)
        if model is None:
            model = traced
            continue
        earlier = graph.stages[position - 1]
        # Names within the stages may be the same
        first = compose.add_prefix(
            model,
            f"stage{position}_",
            rename_inputs=False,
            rename_outputs=False,
        )
        links = list(zip(earlier.outputs, stage.inputs, strict=True))
        model = compose.merge_models(first, traced, io_map=links)
    return model


def _trace_stage(stage: Stage) -> onnx.ModelProto:
    free = torch.export.Dim.DYNAMIC
    dynamic = [dict.fromkeys(dims, free) for dims in stage.dynamic.values()]
    try:
        with torch.no_grad(), _quiet(), _whole_number_padding():
            program = torch.onnx.export(
                stage.module,
                tuple(stage.inputs.values()),
                dynamo=True,
                dynamic_shapes=_as_arguments(stage.module, dynamic),
                input_names=list(stage.inputs),
                output_names=list(stage.outputs),
                opset_version=OPSET,
                verbose=False,
                external_data=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"PyTorch cannot export this model to ONNX: {reason[0]}") from error
    return _without_traces(program.model_proto)


def _as_arguments(module: nn.Module, dims: list[dict]) -> tuple:
    """One entry per argument of ``forward``; those of ``*inputs`` are one."""
    return (tuple(dims),) if isinstance(module, HeadGraph) else tuple(dims)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the paths and lines of source that the exporter notes at every node."""
    graph = model.graph
    del graph.metadata_props[:]
    for entry in (*graph.node, *graph.value_info, *graph.input, *graph.output):
        del entry.metadata_props[:]
        entry.doc_string = ""
    return model


def _images(generator: torch.Generator, count: int, size: Sequence[int]) -> Tensor:
    """Random [count, 3, H, W] float32 in [0, 255]."""
    return torch.rand(count, 3, *size, generator=generator) * LARGEST_PIXEL


def _same_padding(length: int, kernel_size: int, stride: int, dilation: int) -> int:
    """TensorFlow's padding, both ends together, of a side."""
    steps = -(-length // stride) - 1
    return max(steps * stride + (kernel_size - 1) * dilation + 1 - length, 0)


@contextlib.contextmanager
def _whole_number_padding() -> Iterator[None]:
    """timm's padding without its division of floats, which the exporter cannot simplify: with
    sides that are multiples of the stride the padding is a constant.
    """
    original = timm_padding.get_same_padding
    timm_padding.get_same_padding = _same_padding
    try:
        yield
    finally:
        timm_padding.get_same_padding = original


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's progress and advice, with which a user can do nothing."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
