#!/usr/bin/env python
"""Peak memory of a run over a GIF of few bytes and many pixels, without a model.

A GIF of --side x --side pixels and --frames frames, of which each changes one pixel, is written and
gone through, with annotated media. What is printed is the memory beside any model's own.

Example:
  tools/lab/gif_memory.py --output gif --side 12000 --frames 50
"""

from __future__ import annotations

import argparse
import resource
import struct
from dataclasses import replace
from pathlib import Path

import torch

from comics.data.images import DEFAULT_MAX_PIXELS
from comics.runs.inputs import expand_inputs
from comics.runs.options import RunOptions
from comics.runs.run import run_inference
from comics.structures import Faces


class NoFaces:
    """A predictor that finds nothing, so that what is measured is reading and writing."""

    max_pixels = DEFAULT_MAX_PIXELS
    provenance: dict[str, object] = {}

    def predict(self, images: list) -> list[Faces]:
        """No face in any of them."""
        return [
            replace(Faces.empty(image.shape[:2], with_masks=False), fake_probability=torch.zeros(0))
            for image in images
        ]

    def model_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """As it is."""
        return size


def tiny_gif(side: int, frames: int) -> bytes:
    """A black picture and ``frames`` changes of its first pixel, a tenth of a second each."""
    frame = b"\x21\xf9\x04\x04\x0a\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
    frame += b"\x02\x02\x44\x01\0"
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + frame * frames + b";"


def peak_mib() -> int:
    """Of this process so far (Linux counts KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for the file and the run"
    )
    parser.add_argument("--side", type=int, default=12_000, help="pixels (12000)")
    parser.add_argument("--frames", type=int, default=50, help="number (50)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "tiny.gif"
    path.write_bytes(tiny_gif(options.side, options.frames))
    before = peak_mib()
    run = RunOptions(output=options.output / "run", overwrite=True)
    run_inference(NoFaces(), expand_inputs([path]), run)
    print(f"{path.stat().st_size} bytes: {before} MiB before, {peak_mib()} MiB at most")


if __name__ == "__main__":
    main()
