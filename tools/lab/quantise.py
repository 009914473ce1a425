#!/usr/bin/env python
"""An ONNX model of `comics export` in int8, by post-training quantisation: what does that cost?

Weights (a scale for each output channel) and activations of the convolutions become 8-bit numbers;
their ranges are taken from --count photos, for the face method from the faces that the model
finds there. The files of the model are written to OUTPUT, with a line in their metadata that says
what was done: each names the model file that it stems from, and the program refuses parts of
different files. Whatever is not a convolution stays in float32, and so do graphs and nodes that
--exclude names.

This is an experiment: see docs/benchmarks.md#runtimes for what it earns.

Example:
  tools/lab/quantise.py --model exported/model.onnx --photos photos --output int8 --count 64
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MOST_FACES = 200  # that the face method's ranges are taken from
FACES_AT_ONCE = 8
PICTURES = (".jpg", ".jpeg", ".png")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FILE")
    parser.add_argument("--photos", type=Path, required=True, help="folder, searched through")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=64, help="of photos (64)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--exclude", nargs="+", default=[], metavar="TEXT",
        help="nodes whose name holds this stay in float32",
    )  # fmt: skip
    parser.add_argument(
        "--keep", nargs="+", default=[], metavar="NAME",
        help="graphs that stay in float32: main, face, ...",
    )  # fmt: skip
    parser.add_argument("--method", default="minmax", choices=("minmax", "percentile", "entropy"))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    from comics.files import file_sha256
    from comics.inference.load import load_predictor
    from comics.inference.onnx.files import part_path

    predictor = load_predictor(options.model, "cpu", "onnx")
    inputs = collect(predictor, options)
    options.output.mkdir(parents=True, exist_ok=True)
    target = options.output / options.model.name
    parts = {}
    for name in ("face",):
        source, written = part_path(options.model, name), part_path(target, name)
        quantise(source, written, inputs[name], name, options)
        parts[name] = file_sha256(written)
    quantise(options.model, target, inputs["main"], "main", options, parts)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    return 0


def collect(predictor, options: argparse.Namespace) -> dict[str, list[np.ndarray]]:
    """What the graphs see of the photos: "main" [1, 3, h, w] each, "face" [N, 3, S, S] each."""
    import torch

    from comics.data.images import image_to_tensor, read_image
    from comics.data.transforms import resize_image

    paths = sorted(p for p in options.photos.rglob("*") if p.suffix.lower() in PICTURES)
    chosen = np.random.default_rng(options.seed).permutation(len(paths))[: options.count]
    images, crops = [], []
    for number in chosen:
        picture = read_image(paths[number])
        size = predictor.model_size(picture.shape[:2])
        images.append(image_to_tensor(resize_image(picture, size)).float()[None].numpy())
        (faces,) = predictor.predict([picture])
        if len(faces) and sum(map(len, crops)) < MOST_FACES:
            crops.append(predictor.model.crops([image_to_tensor(picture)], [faces.boxes]))
    every = torch.cat(crops)
    return {"main": images, "face": [part.numpy() for part in every.split(FACES_AT_ONCE)]}


def quantise(
    source: Path,
    target: Path,
    inputs: list[np.ndarray],
    name: str,
    options: argparse.Namespace,
    parts: dict[str, str] | None = None,
) -> None:
    """Write one graph in int8, with its metadata."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat
    from onnxruntime.quantization import quantize_static as quantise_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    original = onnx.load(source)
    properties = {one.key: one.value for one in original.metadata_props}
    (entry,) = original.graph.input

    class Inputs(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            value = next(self.left, None)
            return None if value is None else {entry.name: value}

    if name in options.keep:
        onnx.save(original, target)
    else:
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            names = [node.name for node in onnx.load(prepared).graph.node]
            method = {
                "minmax": CalibrationMethod.MinMax,
                "percentile": CalibrationMethod.Percentile,
                "entropy": CalibrationMethod.Entropy,
            }[options.method]
            quantise_static(
                prepared,
                target,
                Inputs(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,  # sums of pairs must not overflow where there is no VNNI
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=[n for n in names if any(part in n for part in options.exclude)],
                calibrate_method=method,
            )
    changed = onnx.load(target)
    del changed.metadata_props[:]
    if parts is not None:
        properties["parts"] = json.dumps(parts)
    properties["quantised"] = f"int8, {options.method} over {len(inputs)} inputs"
    onnx.helper.set_model_props(changed, properties)
    onnx.save(changed, target)


if __name__ == "__main__":
    sys.exit(main())
