"""torchvision's ResNet classifiers, in two steps: stages, then the parts of a block."""

from __future__ import annotations

from comics.integrations.key_maps.rules import Rule

STAGES = (
    Rule(r"conv1\.(weight)", r"stem.conv.\1"),
    Rule(r"bn1\.(.+)", r"stem.norm.\1"),
    Rule(r"layer1\.(\d+)\.(.+)", r"res2.\1.\2"),
    Rule(r"layer2\.(\d+)\.(.+)", r"res3.\1.\2"),
    Rule(r"layer3\.(\d+)\.(.+)", r"res4.\1.\2"),
    Rule(r"layer4\.(\d+)\.(.+)", r"res5.\1.\2"),
)
BLOCKS = (
    Rule(r"(res\d\.\d+\.conv\d)\.(weight)", r"\1.conv.\2"),
    Rule(r"(res\d\.\d+)\.bn(\d)\.(.+)", r"\1.conv\2.norm.\3"),
    Rule(r"(res\d\.\d+)\.downsample\.0\.(weight)", r"\1.shortcut.conv.\2"),
    Rule(r"(res\d\.\d+)\.downsample\.1\.(.+)", r"\1.shortcut.norm.\2"),
    Rule(r"(stem\..+)", r"\1"),
)
CLASSIFIER = ("fc.weight", "fc.bias")
