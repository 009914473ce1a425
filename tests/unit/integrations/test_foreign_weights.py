"""Names and shapes of foreign checkpoints."""

import pytest
import torch

from comics.config import load_config
from comics.integrations.weights import (
    convert_adelaidet,
    convert_torchvision_resnet,
    load_matching,
    read_checkpoint,
)
from comics.registry import DETECTORS


@pytest.fixture(params=["fcos", "blendmask", "condinst", "solov2", "meinst", "meinst_dcn"])
def reference(request, adelaidet):
    return request.param, adelaidet.model(request.param)


ARCHITECTURES = {
    "fcos": "FCOS",
    "blendmask": "BlendMask",
    "condinst": "CondInst",
    "solov2": "SOLOv2",
    "meinst": "MEInst",
    "meinst_dcn": "MEInst",
}
# What the published configuration of one of them says otherwise than our defaults
PUBLISHED = {
    "meinst_dcn": ["MODEL.MEInst.USE_DEFORMABLE", "True", "MODEL.MEInst.LAST_DEFORMABLE", "True"],
    "blendmask": ["MODEL.FCOS.USE_SCALE", "False"],
    "solov2": [
        "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']",
        "MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']",
        "MODEL.FPN.TOP_BLOCK", "pool",
    ],
}  # fmt: skip


def published_model(name: str):
    """Full width, two classes, as in AdelaiDet's R_50_1x files; without storage."""
    import comics.modeling.detectors  # noqa: F401

    cfg = load_config(overrides=PUBLISHED.get(name, []))
    with torch.device("meta"):
        return DETECTORS.get(ARCHITECTURES[name]).from_config(cfg)


def test_published_configuration_has_the_same_names_and_shapes(reference):
    name, data = reference
    theirs = {
        key: torch.empty(shape, device="meta") for key, shape in data["full_r50_keys"].items()
    }
    converted, unmatched = convert_adelaidet(theirs)
    assert unmatched == []
    assert len(converted) == len(theirs)
    own = {key: value.shape for key, value in published_model(name).state_dict().items()}
    assert {key: value.shape for key, value in converted.items()} == own


def test_pixel_statistics_are_ignored_and_strangers_reported(reference):
    _, data = reference
    state = data["state_dict"] | {
        "pixel_mean": torch.zeros(3, 1, 1),
        "pixel_std": torch.ones(3, 1, 1),
        "mystery.weight": torch.zeros(1),
    }
    converted, unmatched = convert_adelaidet(state)
    assert unmatched == ["mystery.weight"]
    assert len(converted) == len(data["state_dict"])


def test_towers_with_other_norms():
    head = "proposal_generator.fcos_head"
    without = {f"{head}.cls_tower.{i}.weight": torch.tensor(i) for i in (0, 2, 4)}
    converted, unmatched = convert_adelaidet(without)
    assert unmatched == []
    assert converted == {f"head.class_tower.{i}.conv.weight": torch.tensor(2 * i) for i in range(3)}
    per_level = {f"{head}.bbox_tower.{i}.weight": torch.tensor(i) for i in (0, 3)} | {
        f"{head}.bbox_tower.{i}.{level}.running_mean": torch.tensor(10 * i + level)
        for i in (1, 4)
        for level in range(5)
    }
    converted, unmatched = convert_adelaidet(per_level)
    assert unmatched == []
    assert converted["head.box_tower.1.norm.3.running_mean"] == 43
    assert converted["head.box_tower.1.conv.weight"] == 3


def test_meinst_with_large_kernels():
    """Its code predictor is two pairs of convolutions; the published files have none of it."""
    theirs = "proposal_generator.MEInst_head.mask_pred"
    shapes = {
        "l1": (60, 256, 9, 1),
        "l2": (60, 60, 1, 9),
        "r1": (60, 256, 1, 9),
        "r2": (60, 60, 9, 1),
    }
    state = {
        f"{theirs}.conv_{part}.conv.{kind}": torch.empty(
            shape if kind == "weight" else 60, device="meta"
        )
        for part, shape in shapes.items()
        for kind in ("weight", "bias")
    }
    converted, unmatched = convert_adelaidet(state)
    assert unmatched == []
    cfg = load_config(overrides=["MODEL.MEInst.USE_GCN_IN_MASK", "True"])
    with torch.device("meta"):
        own = DETECTORS.get("MEInst").from_config(cfg).state_dict()
    wanted = {name: value.shape for name, value in own.items() if name.startswith("head.code.")}
    assert {name: value.shape for name, value in converted.items()} == wanted


def test_pyramid_norm_keys():
    state = {
        "backbone.fpn_lateral3.norm.weight": torch.zeros(1),
        "backbone.fpn_output5.norm.bias": torch.zeros(1),
    }
    converted, _ = convert_adelaidet(state)
    assert set(converted) == {"backbone.lateral.p3.norm.weight", "backbone.output.p5.norm.bias"}


def test_another_number_of_classes_is_reported_not_loaded(reference):
    name, data = reference
    model = published_model(name)
    converted, _ = convert_adelaidet(
        {key: torch.empty(shape, device="meta") for key, shape in data["full_r50_keys"].items()}
    )
    (predictor,) = (key for key in converted if key.endswith("class_logits.weight"))
    bias = predictor.replace("weight", "bias")
    converted[predictor] = torch.empty(80, *converted[predictor].shape[1:], device="meta")
    del converted[bias]
    converted["extra.weight"] = torch.empty(1, device="meta")
    report = load_matching(model, converted)
    assert report.misshapen == [predictor]
    assert report.missing == [bias]
    assert report.unexpected == ["extra.weight"]


def test_torchvision_strangers_are_reported():
    state = {
        "conv1.weight": torch.zeros(1),
        "fc.weight": torch.zeros(1),
        "layer1.0.odd.weight": torch.zeros(1),
        "head.weight": torch.zeros(1),
    }
    converted, unmatched = convert_torchvision_resnet(state)
    assert list(converted) == ["backbone.bottom_up.stem.conv.weight"]
    assert unmatched == ["head.weight", "res2.0.odd.weight"]


def test_checkpoints_are_read_without_running_code(tmp_path):
    tensors = {"a": torch.arange(3)}
    for number, content in enumerate((tensors, {"model": tensors, "iteration": 7})):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        assert torch.equal(read_checkpoint(path)["a"], torch.arange(3))


class Harmful:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize("content", [{"model": Harmful()}, [torch.zeros(1)], {"iteration": 1}])
def test_other_files_are_refused(tmp_path, content, capsys):
    path = tmp_path / "bad.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match="bad.pth"):
        read_checkpoint(path)
    assert "must not run" not in capsys.readouterr().out


def test_broken_and_absent_files_are_named(tmp_path):
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"broken\.pth"):
        read_checkpoint(broken)
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        read_checkpoint(tmp_path / "absent.pth")
