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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.modeling.comics import Comics
from comics.modeling.detectors.base import Detector, ImageBatch
from comics.modeling.faces.base import FaceMethod

OPSET = 20  # the first whose grid sampling and resizing all say what PyTorch's do
IMAGES, CROPS, LOGITS = "images", "crops", "logits"
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
    """A module to be traced.

    Attributes:
        module: of tensors, to a tuple of tensors; in evaluation mode, on the CPU.
        inputs: name -> an example.
        dynamic: name -> the dimensions that are not fixed, in the order of ``inputs``.
        outputs: their names.
        checks: sets of inputs of other sizes, to compare runtimes with.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    checks: tuple[dict[str, Tensor], ...]


class DenseGraph(nn.Module):
    """Images of one size to all that the detector's ``select`` needs.

    Normalisation, padding and, of a COMICS model, the frequency attention are inside.
    """

    def __init__(self, model: Detector | Comics) -> None:
        super().__init__()
        is_comics = isinstance(model, Comics)
        self.detector = model.detector if is_comics else model
        self.frequency = model.frequency if is_comics else None

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """``Detector.dense`` of RGB images [B, 3, H, W] float32, 0-255."""
        rows, columns = (-side % self.detector.size_divisibility for side in images.shape[-2:])
        padded = functional.pad(self.detector.normalise(images), (0, columns, 0, rows))
        features = self.detector.extract_features(ImageBatch(padded, sizes=[]))
        if self.frequency is not None:
            features = self.frequency(features, images, tuple(padded.shape[-2:]))
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
    dense = DenseGraph(model)
    name = type(dense.detector).__name__
    if type(dense.detector).infer is not Detector.infer:
        raise ValueError(
            f"{name} has an infer() of its own; to be exported it needs dense(), select()"
        )
    generator = torch.Generator().manual_seed(0)
    checks = [_images(generator, count, size) for count, size in CHECKED_BATCHES]
    try:
        with torch.no_grad():
            names = tuple(dense.maps(checks[0]))
    except NotImplementedError:
        raise ValueError(f"{name} has no dense(): it cannot be exported") from None
    example = _images(generator, TRACED_BATCH, TRACED_SIZE)
    graphs = {
        "": Graph(
            dense,
            {IMAGES: example},
            {IMAGES: (0, 2, 3)},
            names,
            tuple({IMAGES: check} for check in checks),
        )
    }
    for head in dense.detector.pooled_heads:
        graphs[head] = _head_graph(dense.detector, head, generator)
    return graphs


def face_graph(method: FaceMethod) -> Graph:
    """The graph of a face method."""
    generator = torch.Generator().manual_seed(0)
    side = method.crop_size
    return Graph(
        FaceGraph(method),
        {CROPS: _images(generator, TRACED_BATCH, (side, side + 1))},  # H and W are not tied
        {CROPS: (0, 2, 3)},
        (LOGITS,),
        tuple(
            {CROPS: _images(generator, count, (side + more, side + more))}
            for count, more in CHECKED_CROPS
        ),
    )


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
        {key: (0,) for key in traced},
        tuple(f"output_{position}" for position in range(outputs)),
        tuple(inputs(count) for count in CHECKED_BOXES),
    )


def trace(graph: Graph) -> onnx.ModelProto:
    """The ONNX model of a graph; the same graph gives the same bytes.

    Raises:
        ValueError: if PyTorch's exporter does not know an operation of the model.
    """
    free = torch.export.Dim.DYNAMIC
    dynamic = [dict.fromkeys(dims, free) for dims in graph.dynamic.values()]
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                graph.module,
                tuple(graph.inputs.values()),
                dynamo=True,
                dynamic_shapes=_as_arguments(graph.module, dynamic),
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's progress and its advice to programmers say nothing to who exports."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
