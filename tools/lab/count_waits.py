#!/usr/bin/env python
"""How often the host would wait for a GPU, counted without one.

Python runs ahead of a GPU until it asks for a number that is computed there, or for a size that
depends on one; then the GPU runs dry. ``Waits`` counts such questions on any device: on the CPU
they cost nothing, but they are the same questions.

Examples:
  tools/lab/count_waits.py                       every detector, plain and as its COMICS variant
  tools/lab/count_waits.py --size 256 BlendMask COMICSMaskRCNN
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import boxes

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

# Narrow networks wait as often as wide ones
NARROW = [
    "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16",
    "MODEL.RESNETS.STEM_OUT_CHANNELS", "16", "MODEL.RESNETS.WIDTH_PER_GROUP", "16",
    "MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.FPN.OUT_CHANNELS", "32",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "64", "MODEL.ROI_MASK_HEAD.CONV_DIM", "32",
    "MODEL.BASIS_MODULE.CONVS_DIM", "16", "MODEL.SOLOV2.INSTANCE_CHANNELS", "32",
    "MODEL.COMICS.PROPOSAL.MATCH_IOU", "0.1",
]  # fmt: skip
# Operations whose result, or the size of it, the host must know before it goes on
WAITING = {
    "_local_scalar_dense", "item", "is_nonzero", "equal",  # also int, float, bool
    "nonzero", "nonzero_numpy", "argwhere", "masked_select", "bincount",
    "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive",
    "nms",  # torchvision's
}  # fmt: skip
# Reading (..., bool masks): how many are set decides on the size of the result
MASKED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
# Methods that copy to the host; operators do not see them where tensors are there already
TO_HOST = ("tolist", "cpu")
# A copy from the host that waits; ``comics.ops.transfers.on_device`` does not
FROM_HOST = ("tensor", "new_tensor")


class Waits(TorchDispatchMode):
    """A context that counts; ``places`` says which lines of the package asked, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()
        self._methods = _Methods(self._note)
        # On a CPU torchvision suppresses many boxes class by class, on a GPU all at once
        self._as_on_a_gpu = patch.object(
            boxes, "_batched_nms_vanilla", boxes._batched_nms_coordinate_trick
        )

    def __enter__(self) -> Waits:
        """Start to count."""
        self._as_on_a_gpu.start()
        self._methods.__enter__()
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Count no longer."""
        super().__exit__(kind, error, trace)
        self._methods.__exit__(kind, error, trace)
        self._as_on_a_gpu.stop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence = (), kwargs: dict | None = None
    ) -> Any:
        """Note what waits, then do it."""
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[-1]
        sized = name == "repeat_interleave" and kwargs.get("output_size") is None
        found = name == "where" and len(args) == 1
        if name in WAITING or sized or found:
            self._note(name)
        elif name in MASKED and not _fills(name, args):
            for index in args[1]:
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    self._note(f"{name} of a mask")
        return func(*args, **kwargs)

    @property
    def total(self) -> int:
        """Waits so far."""
        return sum(self.places.values())

    def _note(self, name: str) -> None:
        self.places[f"{name} at {_place()}"] += 1


class _Methods(TorchFunctionMode):
    """Notes copies between host and device that no operator shows on the CPU."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence = (), kwargs: dict | None = None
    ) -> Any:
        """Note what waits, then do it."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in TO_HOST or _moves_to_host(name, args):
            self.note(name)
        elif name == "new_tensor" or (name == "tensor" and kwargs.get("device") is not None):
            self.note(f"{name} from the host")
        return func(*args, **kwargs)


def _moves_to_host(name: str, args: Sequence) -> bool:
    """``.to("cpu")``; a device variable may be a GPU's, whatever it is here."""
    return name == "to" and len(args) > 1 and isinstance(args[1], str) and args[1] == "cpu"


def _fills(name: str, args: Sequence) -> bool:
    """Writing one value wherever a mask is set: no size depends on it."""
    if name in ("index", "_unsafe_index"):
        return False
    return args[2].numel() == 1 and len([i for i in args[1] if i is not None]) == 1


def _place() -> str:
    """The innermost line of this package; "backward" where there is none."""
    for frame in reversed(traceback.extract_stack()):
        if "/comics/" in frame.filename:
            return f"{frame.filename.rpartition('/comics/')[2]}:{frame.lineno}"
    return "backward or elsewhere"


# --- the models ----------------------------------------------------------------------------------


def count_step(model: nn.Module, images: list[Tensor], targets: list) -> Waits:
    """Of a training step: forward, backward, and what follows an optimiser's step."""
    keys = {"key_images": images} if getattr(model, "needs_key_images", False) else {}
    with Waits() as waits:
        losses = model.train()(images, targets, **keys).losses
        torch.stack(list(losses.values())).sum().backward()
        model.after_optimizer_step()
    model.zero_grad()
    return waits


def count_inference(model: nn.Module, images: list[Tensor]) -> Waits:
    """Of a forward pass in evaluation mode, masks drawn."""
    with Waits() as waits, torch.inference_mode():
        model.eval()(images)
    return waits


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="names of detectors; default: all")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures, pixels")
    parser.add_argument("--places", action="store_true", help="say which lines wait")
    return parser


def main(words: list[str] | None = None) -> None:
    """Print a table."""
    from gpu_check import make_detector, published, scenes

    options = build_parser().parse_args(words)
    configs = published()
    images, targets = scenes(options.size, 2)
    print(
        "| | training step | after a warm-up | forward pass, nothing found |\n|---|---:|---:|---:|"
    )
    for name in options.models or configs:
        model = make_detector(configs[name], *NARROW)
        first, second = (count_step(model, images, targets) for _ in range(2))
        nothing = count_inference(model, [torch.zeros_like(image) for image in images])
        print(f"| {name} | {first.total} | {second.total} | {nothing.total} |", flush=True)
        if options.places:
            for place, count in second.places.most_common():
                print(f"  {count:4} {place}")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "tools" / "lab")]
    main()
