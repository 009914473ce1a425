"""Files of a timm network that holds the model's, and more: half of a network is none."""

import pytest
import timm
import torch

from comics.config import load_config
from comics.integrations.key_maps.timm_features import surplus_layers
from comics.integrations.weights import load_foreign_weights
from comics.modeling.build import build_model

OVERRIDES = {
    "detector": [
        "MODEL.META_ARCHITECTURE", "FCOS", "MODEL.BACKBONE.NAME", "timm/resnet18",
        "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FCOS.NUM_CLS_CONVS", "1",
        "MODEL.FCOS.NUM_BOX_CONVS", "1", "MODEL.BACKBONE.FREEZE_AT", "0",
    ],
    "face": [
        "MODEL.META_ARCHITECTURE", "FaceMethod", "MODEL.FACE.METHOD", "CrossEntropy",
        "MODEL.FACE.ENCODER", "resnet18",
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["detector", "face"])
def test_a_deeper_timm_network_is_refused(tmp_path, kind):
    """ResNet-34 has every tensor of ResNet-18, in the same shapes, and more blocks."""
    torch.save(timm.create_model("resnet34", pretrained=False).state_dict(), tmp_path / "34.pth")
    model = build_model(load_config(overrides=OVERRIDES[kind]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"34\.pth.*unexpected: \S+layer1\.2\."):
        load_foreign_weights(model, tmp_path / "34.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("own", "unknown", "surplus"),
    [
        (["layer1.0.conv1.weight"], ["layer1.1.conv1.weight", "fc.weight"],
         ["layer1.1.conv1.weight"]),
        (["stages_0.blocks.0.norm.bias"],
         ["stages.0.blocks.1.norm.bias", "stages.1.blocks.0.norm.bias", "head.fc.bias"],
         ["stages.0.blocks.1.norm.bias"]),
        (["model.blocks.0.norm.bias"], ["blocks.1.norm.bias", "norm.bias", "pos_embed"],
         ["blocks.1.norm.bias"]),
        (["layers.0.blocks.0.norm.bias"],
         ["layers.0.blocks.0.attn_mask", "layers.0.blocks.0.norm.index"], []),
    ],
)  # fmt: skip
def test_layers_that_only_a_deeper_network_has(own, unknown, surplus):
    assert surplus_layers(unknown, own) == surplus
