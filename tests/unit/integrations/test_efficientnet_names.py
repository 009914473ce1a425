"""EfficientNets in EfficientNet-PyTorch's names, into backbones and encoders of timm's."""

import importlib.util
import re
from itertools import accumulate
from pathlib import Path

import pytest
import timm
import torch

from comics.config import load_config
from comics.integrations import formats
from comics.integrations.key_maps.efficientnet_pytorch import to_timm
from comics.integrations.weights import load_foreign_weights
from comics.modeling.build import build_model, load_model

ROOT = Path(__file__).resolve().parents[3]
# Blocks of the seven stages (Tan and Le 2019, arXiv:1905.11946, table 1; B1: depth 1.1, rounded up)
BLOCKS = {
    "efficientnet_b0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet_b1": (2, 3, 3, 4, 4, 5, 2),
}
WHOLE = ["efficientnet_b0", "tf_efficientnet_lite0"]
DETECTOR = [
    "MODEL.META_ARCHITECTURE", "COMICSBlendMask", "MODEL.FPN.OUT_CHANNELS", "32",
    "MODEL.FCOS.NUM_CLS_CONVS", "1", "MODEL.FCOS.NUM_BOX_CONVS", "1",
    "MODEL.BASIS_MODULE.CONVS_DIM", "16", "MODEL.BASIS_MODULE.NUM_CONVS", "1",
    "MODEL.BLENDMASK.ATTN_SIZE", "4", "MODEL.BACKBONE.FREEZE_AT", "0",
]  # fmt: skip
FACE = ["MODEL.META_ARCHITECTURE", "FaceMethod", "MODEL.FACE.METHOD", "CrossEntropy"]
BODY = {"detector": "detector.backbone.bottom_up.model.", "face": "encoder.model."}

# Layers of a block: timm's name, theirs. A block whose input is not expanded (the first stage's)
# lacks the first convolution with its norm; timm numbers the others from one all the same.
SQUEEZE = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
EXPANDED = SQUEEZE | {
    "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
    "conv_pwl": "_project_conv", "bn3": "_bn2",
}  # fmt: skip
PLAIN = SQUEEZE | {
    "conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2",
}  # fmt: skip
OUTSIDE = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1",
           "classifier": "_fc"}  # fmt: skip


def their_name(name: str, blocks: tuple[int, ...]) -> str:
    """EfficientNet-PyTorch's name of a tensor of timm's EfficientNet."""
    layer, kind = name.rsplit(".", 1)
    inside = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(.+)", layer)
    if inside is None:
        return f"{OUTSIDE[layer]}.{kind}"
    stage, position = int(inside[1]), int(inside[2])
    number = [0, *accumulate(blocks)][stage] + position
    return f"_blocks.{number}.{(PLAIN if stage == 0 else EXPANDED)[inside[3]]}.{kind}"


def foreign(network: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The whole network in timm's names and in theirs; no two tensors have equal values."""
    generator = torch.Generator().manual_seed(1)
    theirs = timm.create_model(network, pretrained=False).state_dict()
    state = {
        name: torch.rand(tensor.shape, generator=generator) + 0.5
        if tensor.is_floating_point()
        else tensor
        for name, tensor in theirs.items()
    }
    return state, {their_name(name, BLOCKS[network]): t for name, t in state.items()}


def build(kind: str, network: str):
    torch.manual_seed(0)
    if kind == "detector":
        overrides = [*DETECTOR, "MODEL.BACKBONE.NAME", f"timm/{network}"]
    else:
        overrides = [*FACE, "MODEL.FACE.ENCODER", network]
    return build_model(load_config(overrides=overrides)).eval()


def test_these_are_the_published_names():
    """Of efficientnet-b0's file, as listed by programs that read it."""
    _, state = foreign("efficientnet_b0")
    assert len(state) == 213 + 49 * 3  # parameters; statistics and counters of 49 norms
    for name, shape in (
        ("_conv_stem.weight", (32, 3, 3, 3)),
        ("_bn0.running_mean", (32,)),
        ("_blocks.0._depthwise_conv.weight", (32, 1, 3, 3)),
        ("_blocks.0._se_reduce.weight", (8, 32, 1, 1)),
        ("_blocks.0._se_expand.bias", (32,)),
        ("_blocks.0._project_conv.weight", (16, 32, 1, 1)),
        ("_blocks.1._expand_conv.weight", (96, 16, 1, 1)),
        ("_blocks.15._project_conv.weight", (320, 1152, 1, 1)),
        ("_conv_head.weight", (1280, 320, 1, 1)),
        ("_bn1.weight", (1280,)),
        ("_fc.weight", (1000, 1280)),
    ):
        assert state[name].shape == shape
    assert "_blocks.0._expand_conv.weight" not in state


@pytest.mark.parametrize("network", WHOLE)
@pytest.mark.parametrize("kind", ["detector", "face"])
def test_every_tensor_lands_in_its_place(tmp_path, kind, network):
    state, theirs = foreign(network)
    torch.save(theirs, tmp_path / "theirs.pth")
    model = build(kind, network)
    report = load_foreign_weights(model, tmp_path / "theirs.pth")
    assert report.source_format == formats.EFFICIENTNET_PYTORCH
    own = {n.removeprefix(BODY[kind]): t for n, t in model.state_dict().items() if BODY[kind] in n}
    assert {"blocks.0.0.bn1.running_var", "blocks.6.0.conv_pwl.weight"} <= own.keys()
    for name, tensor in own.items():
        assert torch.equal(tensor, state[name]), name
    assert not any(name.startswith(BODY[kind]) for name in report.missing)
    # What is over, in timm's names: the classifier, and for a detector what follows the blocks
    assert report.unexpected == sorted(state.keys() - own.keys())
    layers = {name.rsplit(".", 1)[0] for name in report.unexpected}
    head = {"conv_head", "bn2"} if kind == "detector" else set()
    assert layers == {"classifier"} | head


def test_unknown_names_are_reported(tmp_path):
    state, theirs = foreign("tf_efficientnet_lite0")
    strangers = {"_swish.weight", "_blocks.2._gate.weight", "teacher._conv_stem.weight"}
    renamed, unknown = to_timm(theirs | dict.fromkeys(strangers, torch.ones(1)), state.keys())
    assert renamed.keys() == state.keys()
    assert unknown == sorted(strangers)
    torch.save(theirs | dict.fromkeys(strangers, torch.ones(1)), tmp_path / "more.pth")
    report = load_foreign_weights(build("face", "tf_efficientnet_lite0"), tmp_path / "more.pth")
    assert report.unexpected == sorted({"classifier.bias", "classifier.weight"} | strangers)


def test_surplus_blocks_are_reported_not_guessed(tmp_path):
    """A copy of the last block after it: it belongs nowhere."""
    _, theirs = foreign("tf_efficientnet_lite0")
    surplus = {
        name.replace("_blocks.15.", "_blocks.16."): tensor
        for name, tensor in theirs.items()
        if name.startswith("_blocks.15.")
    }
    torch.save(theirs | surplus, tmp_path / "deeper.pth")
    report = load_foreign_weights(build("face", "tf_efficientnet_lite0"), tmp_path / "deeper.pth")
    assert report.unexpected == sorted({"classifier.bias", "classifier.weight"} | surplus.keys())


@pytest.mark.parametrize("kind", ["detector", "face"])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("efficientnet_b1", "efficientnet_b0"),  # deeper
        ("efficientnet_b0", "efficientnet_b1"),  # shallower
        ("efficientnet_b0", "tf_efficientnet_lite0"),  # with squeeze and excitation
        ("tf_efficientnet_lite0", "efficientnet_b0"),  # without
    ],
)
def test_another_efficientnet_is_refused(tmp_path, kind, source, target):
    _, theirs = foreign(source)
    torch.save(theirs, tmp_path / "other.pth")
    model = build(kind, target)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"other\.pth: it is of another architecture"):
        load_foreign_weights(model, tmp_path / "other.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_network_of_another_family_is_refused(tmp_path):
    _, theirs = foreign("tf_efficientnet_lite0")
    torch.save(theirs, tmp_path / "lite0.pth")
    with pytest.raises(ValueError, match=r"lite0\.pth: it is of another architecture"):
        load_foreign_weights(build("face", "resnet18"), tmp_path / "lite0.pth")


def test_the_tool_converts_them(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("convert", ROOT / "tools" / "convert_weights.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    state, theirs = foreign("tf_efficientnet_lite0")
    source, output = tmp_path / "lite0.pth", tmp_path / "face.safetensors"
    torch.save({"state_dict": theirs}, source)
    pairs = [*FACE, "MODEL.FACE.ENCODER", "tf_efficientnet_lite0"]
    chosen = [w for pair in zip(pairs[::2], pairs[1::2], strict=True) for w in ("--set", *pair)]
    assert tool.main([str(source), str(output), *chosen]) == 0
    assert "recognised as efficientnet-pytorch" in capsys.readouterr().out
    own = load_model(output)[0].encoder.model.state_dict()
    assert own.keys() == {name for name in state if not name.startswith("classifier.")}
    assert all(torch.equal(tensor, state[name]) for name, tensor in own.items())
