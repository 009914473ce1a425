"""What of a model becomes an ONNX graph, and how.

A detector's graph is its dense part, see ``comics.modeling.detectors.base``; what depends on the
faces that are found stays in Python, the same code as without ONNX. Heads that see features pooled
from boxes, and face methods, are graphs of their own.

Shape letters: B images; H, W their height and width; P boxes; N crops; S side of a crop.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import timm.layers.padding
import torch
from timm.layers import AvgPool2dSame, Conv2dSame, ScaledStdConv2dSame, StdConv2dSame
from timm.layers.pool2d_same import MaxPool2dSame
from torch import Tensor, nn
from torch.nn import functional
from torch.onnx import symbolic_helper

from comics.modeling.comics import Comics
from comics.modeling.detectors.base import Detector, ImageBatch
from comics.modeling.faces.base import FaceMethod

OPSET = 20  # the first whose grid sampling and resizing all say what PyTorch's do
IMAGES, CROPS, LOGITS = "images", "crops", "logits"
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
class Graph:
    """What becomes one ONNX file.

    Attributes:
        module: of tensors, to a tuple of tensors; in evaluation mode, on the CPU.
        inputs: name -> an example.
        dynamic: name -> the names of the dimensions that are not fixed, by their position.
        outputs: their names.
        checks: sets of inputs of other sizes, to compare runtimes with.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, str]]
    outputs: tuple[str, ...]
    checks: tuple[dict[str, Tensor], ...]


class DenseGraph(nn.Module):
    """Images of one size to all that the detector's ``select`` needs."""

    def __init__(self, model: Detector | Comics) -> None:
        super().__init__()
        self.detector = model.detector if isinstance(model, Comics) else model
        self.frequency = model.frequency if isinstance(model, Comics) else None

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """``Detector.dense`` of RGB images [B, 3, H, W] float32, 0-255, by name."""
        side = self.detector.size_divisibility
        rows, columns = (-length % side for length in images.shape[-2:])
        padded = functional.pad(self.detector.normalise(images), (0, columns, 0, rows))
        features = self.detector.extract_features(ImageBatch(padded, sizes=[]))
        if self.frequency is not None:
            size = (padded.shape[-2], padded.shape[-1])
            features = self.frequency(features, images, size)
        return self.detector.dense(features)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The values of ``maps``, in order."""
        return tuple(self.maps(images).values())


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
    module = DenseGraph(model)
    example = _images(generator, TRACED_BATCH, TRACED_SIZE)
    with torch.no_grad():
        names = tuple(module.maps(example))
    checks = [_images(generator, count, size) for count, size in CHECKED_BATCHES]
    return Graph(
        module,
        {IMAGES: example},
        {IMAGES: {0: "batch", 2: "height", 3: "width"}},
        names,
        tuple({IMAGES: check} for check in checks),
    )


def face_graph(method: FaceMethod) -> Graph:
    """The graph of a face method, for crops of any size.

    A network that pads by the size of what it sees (TensorFlow's way) is for crops of its own size
    only: the exporter takes that padding for a constant.
    """
    generator = torch.Generator().manual_seed(0)
    side = method.crop_size
    fixed = pads_by_size(method)
    dynamic = {0: "crops"} if fixed else {0: "crops", 2: "height", 3: "width"}
    checks = [(count, 0 if fixed else more) for count, more in CHECKED_CROPS]
    return Graph(
        FaceGraph(method),
        {CROPS: _images(generator, TRACED_BATCH, (side, side))},
        {CROPS: dynamic},
        (LOGITS,),
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
    return Graph(
        module,
        traced,
        {name: {0: "boxes"} for name in traced},
        tuple(f"output_{position}" for position in range(outputs)),
        tuple(inputs(count) for count in CHECKED_BOXES),
    )


def trace(graph: Graph) -> onnx.ModelProto:
    """The ONNX model of a graph; the same graph gives the same bytes.

    PyTorch's exporter that records one run is used, since its newer one proves with symbols what
    sizes are legal: a hundred times as long for the shipped model. A size that a record would
    take for a constant shows in the comparison of ``checks``. One is wanted: how much timm's layers
    pad is the same for all sizes that a detector sees, multiples of its stride, so that runtimes
    make it part of the convolution that follows, a copy of the map less.

    Raises:
        ValueError: if PyTorch's exporter does not know an operation of the model.
    """
    buffer = io.BytesIO()
    graph.module.eval()  # the exporter gives every part the wrapper's mode when it ends
    try:
        with torch.no_grad(), _quiet(), _further_operators(), _constant_padding():
            torch.onnx.export(
                graph.module,
                tuple(graph.inputs.values()),
                buffer,
                dynamo=False,
                dynamic_axes=graph.dynamic,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                opset_version=OPSET,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"PyTorch cannot export this model to ONNX: {reason[0]}") from error
    return onnx.load_from_string(buffer.getvalue())


def _images(generator: torch.Generator, count: int, size: Sequence[int]) -> Tensor:
    """Random [count, 3, H, W] float32 in [0, 255]."""
    return torch.rand(count, 3, *size, generator=generator) * LARGEST_PIXEL


@contextlib.contextmanager
def _further_operators() -> Iterator[None]:
    """Teach PyTorch's exporter two operators that ONNX has and it does not know."""
    further = {
        "aten::_upsample_bilinear2d_aa": _antialiased_resize,
        "torchvision::deform_conv2d": _deformable_convolution,
    }
    for name, symbolic in further.items():
        torch.onnx.register_custom_op_symbolic(name, symbolic, OPSET)
    try:
        yield
    finally:
        for name in further:
            torch.onnx.unregister_custom_op_symbolic(name, OPSET)


@contextlib.contextmanager
def _constant_padding() -> Iterator[None]:
    """The padding of timm's layers as a number, not as arithmetic on the size of their input."""
    module = timm.layers.padding
    original = module.get_same_padding

    def constant(size: Any, kernel: int, stride: int, dilation: int) -> int:
        cells = math.ceil(int(size) / stride)
        return max((cells - 1) * stride + (kernel - 1) * dilation + 1 - int(size), 0)

    module.get_same_padding = constant
    try:
        yield
    finally:
        module.get_same_padding = original


def _antialiased_resize(
    graph: Any, images: Any, size: Any, align_corners: Any, *scales: Any
) -> Any:
    """PyTorch's antialiased resize as two products with matrices of weights, which are made there.

    ONNX's Resize can say the same, but not every runtime does what it says.
    """
    height, width = (symbolic_helper._unsqueeze_helper(graph, side, [0])
                     for side in symbolic_helper._unpack_list(size))  # fmt: skip
    rows = _resize_weights(graph, graph.op("Shape", images, start_i=2, end_i=3), height)
    columns = _resize_weights(graph, graph.op("Shape", images, start_i=3, end_i=4), width)
    resized_rows = graph.op("MatMul", rows, images)
    return graph.op("MatMul", resized_rows, graph.op("Transpose", columns, perm_i=[1, 0]))


def _resize_weights(graph: Any, old: Any, new: Any) -> Any:
    """[new, old] weights along an axis, from both lengths, [1] each: triangles, of sum 1.

    A triangle reaches as far as a new cell is wide, in old ones, or one old cell.
    """

    def constant(value: float) -> Any:
        return graph.op("Constant", value_t=torch.tensor(value, dtype=torch.float32))

    def centres(length: Any, axis: int) -> Any:
        scalar = symbolic_helper._squeeze_helper(graph, length, [0])
        numbers = graph.op("Range", constant(0.0), scalar, constant(1.0))
        middles = graph.op("Add", numbers, constant(0.5))
        return symbolic_helper._unsqueeze_helper(graph, middles, [axis])

    old, new = (graph.op("Cast", length, to_i=onnx.TensorProto.FLOAT) for length in (old, new))
    scale = graph.op("Div", old, new)
    reach = graph.op("Max", scale, constant(1.0))
    places = graph.op("Mul", centres(new, 1), scale)
    distance = graph.op("Abs", graph.op("Sub", places, centres(old, 0)))
    falling = graph.op("Sub", constant(1.0), graph.op("Div", distance, reach))
    weights = graph.op("Relu", falling)
    axes = graph.op("Constant", value_t=torch.tensor([1]))
    return graph.op("Div", weights, graph.op("ReduceSum", weights, axes, keepdims_i=1))


def _deformable_convolution(
    graph: Any, x: Any, weight: Any, offset: Any, mask: Any, bias: Any, *numbers: Any
) -> Any:
    """ONNX's DeformConv; ``numbers``: as of torchvision's operator, in its order."""
    *whole, use_mask = (symbolic_helper._get_const(number, "i", "number") for number in numbers)
    stride, padding, dilation = (whole[start : start + 2] for start in (0, 2, 4))
    inputs = [x, weight, offset, bias, *([mask] if use_mask else [])]
    return graph.op(
        "DeformConv", *inputs, strides_i=stride, pads_i=[*padding, *padding],
        dilations_i=dilation, group_i=whole[6], offset_group_i=whole[7],
    )  # fmt: skip


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's advice, with which a user can do nothing."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
