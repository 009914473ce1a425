"""ResNets of Caffe2's Detectron, in which Detectron2 ships MSRA's: names of blobs, not modules."""

from __future__ import annotations

from comics.integrations.key_maps.rules import Rule

# Ends of the names of a norm's blobs, and what they are
NORM_PARTS = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
# Convolutions of a residual block, and ours
BRANCHES = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}

RULES = (
    Rule(r"conv1_w", r"stem.conv.weight"),
    *(Rule(rf"res_conv1_bn_{end}", rf"stem.norm.{part}") for end, part in NORM_PARTS.items()),
    *(
        Rule(rf"res(\d)_(\d+)_branch{branch}_w", rf"res\1.\2.{layer}.conv.weight")
        for branch, layer in BRANCHES.items()
    ),
    *(
        Rule(rf"res(\d)_(\d+)_branch{branch}_bn_{end}", rf"res\1.\2.{layer}.norm.{part}")
        for branch, layer in BRANCHES.items()
        for end, part in NORM_PARTS.items()
    ),
)
