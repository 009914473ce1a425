"""Weights of every known layout, into models of ours; what does not fit is refused or reported."""

import pickle
import re

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import resnet50

from comics.config import load_config
from comics.engine.train import load_initial_weights
from comics.integrations import formats
from comics.integrations.weights import load_foreign_weights
from comics.modeling.build import build_model
from comics.modeling.weights import save_weights

NARROW = [
    "MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.WIDTH_PER_GROUP", "8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.FPN.OUT_CHANNELS", "32",
    "MODEL.FCOS.NUM_CLS_CONVS", "1", "MODEL.FCOS.NUM_BOX_CONVS", "1",
    "MODEL.BASIS_MODULE.CONVS_DIM", "16", "MODEL.BASIS_MODULE.NUM_CONVS", "1",
    "MODEL.BLENDMASK.ATTN_SIZE", "4",
]  # fmt: skip
FOUR_STAGES = [
    "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']",
    "MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']", "MODEL.FPN.TOP_BLOCK", "pool",
]  # fmt: skip
OF_DETECTOR = {
    "MaskRCNN": [
        *FOUR_STAGES, "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16",
        "MODEL.ROI_MASK_HEAD.NUM_CONV", "1", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN",
    ],
    "SOLOv2": [
        *FOUR_STAGES, "MODEL.SOLOV2.INSTANCE_CHANNELS", "32", "MODEL.SOLOV2.MASK_CHANNELS", "32",
        "MODEL.SOLOV2.NUM_INSTANCE_CONVS", "1", "MODEL.SOLOV2.NUM_KERNELS", "32",
        "MODEL.SOLOV2.NUM_MASKS", "32",
    ],
}  # fmt: skip


def config(architecture: str, *overrides: str):
    own = OF_DETECTOR.get(architecture.removeprefix("COMICS"), [])
    return load_config(
        overrides=[*NARROW, *own, "MODEL.META_ARCHITECTURE", architecture, *overrides]
    )


def tiny(architecture: str, *overrides: str, seed: int = 0):
    torch.manual_seed(seed)
    return build_model(config(architecture, *overrides)).eval()


def scrambled(model, seed: int = 1):
    """The model, every tensor of it random, so that no two are equal."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one: dict, other: dict, names=None) -> None:
    for name in names or one.keys() | other.keys():
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, msg=name)


# -- our names as others write them ---------------------------------------------------------------


def to_detectron2(name: str) -> str:
    """Detectron2's name of a tensor of our ResNet with FPN; Mask R-CNN's and FCOS's heads."""
    name = name.replace("bottom_up.stem.conv.", "bottom_up.stem.conv1.")
    name = name.replace("bottom_up.stem.norm.", "bottom_up.stem.conv1.norm.")
    name = re.sub(r"(bottom_up\.res.*\.(?:conv\d|shortcut))\.conv\.", r"\1.", name)
    name = re.sub(r"backbone\.(lateral|output)\.p(\d)\.conv\.", r"backbone.fpn_\1\2.", name)
    name = name.replace("backbone.top.", "backbone.top_block.")
    heads = {
        "proposal_network.head.conv.0.0.": "proposal_generator.rpn_head.conv.",
        "proposal_network.head.cls_logits.": "proposal_generator.rpn_head.objectness_logits.",
        "proposal_network.head.bbox_pred.": "proposal_generator.rpn_head.anchor_deltas.",
        "box_head.layers.1.": "roi_heads.box_head.fc1.",
        "box_head.layers.3.": "roi_heads.box_head.fc2.",
        "box_head.class_logits.": "roi_heads.box_predictor.cls_score.",
        "box_head.box_deltas.": "roi_heads.box_predictor.bbox_pred.",
        "mask_head.convs.0.0.": "roi_heads.mask_head.mask_fcn1.",
        "mask_head.predictor.conv5_mask.": "roi_heads.mask_head.deconv.",
        "mask_head.predictor.mask_fcn_logits.": "roi_heads.mask_head.predictor.",
        "head.class_logits.": "proposal_generator.fcos_head.cls_logits.",
        "head.box_distances.": "proposal_generator.fcos_head.bbox_pred.",
        "head.quality.": "proposal_generator.fcos_head.ctrness.",
        "head.class_tower.0.conv.": "proposal_generator.fcos_head.cls_tower.0.",
        "head.class_tower.0.norm.": "proposal_generator.fcos_head.cls_tower.1.",
        "head.box_tower.0.conv.": "proposal_generator.fcos_head.bbox_tower.0.",
        "head.box_tower.0.norm.": "proposal_generator.fcos_head.bbox_tower.1.",
    }
    for ours, theirs in heads.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return re.sub(r"head\.scales\.(\d)$", r"proposal_generator.fcos_head.scales.\1.scale", name)


def to_caffe2(name: str) -> str:
    """Caffe2's name of a tensor of our ResNet, given without "backbone.bottom_up."."""
    name = name.replace("stem.conv.weight", "conv1_w").replace("stem.norm", "res_conv1_bn")
    for ours, theirs in (("shortcut", "1"), ("conv1", "2a"), ("conv2", "2b"), ("conv3", "2c")):
        name = name.replace(f".{ours}.conv.weight", f"_branch{theirs}_w")
        name = name.replace(f".{ours}.norm", f"_branch{theirs}_bn")
    name = re.sub(r"^res(\d)\.(\d+)", r"res\1_\2", name)
    for ours, theirs in (
        (".weight", "_s"), (".bias", "_b"), (".running_mean", "_rm"), (".running_var", "_riv"),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return name


def bottom_up(model) -> dict[str, torch.Tensor]:
    return {name: t for name, t in snapshot(model.backbone.bottom_up).items()}


def write_pickle(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return str(path)


def arrays(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in state.items()}


# -- recognition -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names, expected",
    [
        (["detector.backbone.lateral.p3.conv.weight"], formats.COMICS),
        (["backbone.bottom_up.stem.conv.weight"], formats.COMICS),
        (["backbone.bottom_up.model.conv1.weight"], formats.COMICS),
        (["backbone.bottom_up.stem.conv1.weight", "ins_head.cate_pred.bias"], formats.ADELAIDET),
        (["backbone.bottom_up.stem.conv1.weight", "mask_branch.x"], formats.ADELAIDET),
        (["backbone.fpn_lateral2.bias", "roi_heads.box_head.fc1.bias"], formats.DETECTRON2),
        (["stem.conv1.weight", "res2.0.conv1.norm.bias"], formats.DETECTRON2_BACKBONE),
        (["conv1_w", "fc1000_b"], formats.CAFFE2_BACKBONE),
        (["conv1.weight", "layer1.0.conv1.weight"], formats.TORCHVISION_RESNET),
        (["stages.0.blocks.0.gamma"], formats.OTHER),
        ([], formats.OTHER),
    ],
)
def test_formats_are_recognised_by_their_names(names, expected):
    assert formats.recognise(names) == expected
    assert formats.recognise(dict.fromkeys(names)) == expected


@pytest.mark.parametrize("name", ["fcos", "blendmask", "condinst", "meinst", "solov2"])
def test_published_names_of_adelaidet_are_recognised(adelaidet, name):
    names = adelaidet.model(name)["full_r50_keys"]
    assert formats.recognise(names) == formats.ADELAIDET


# -- backbones: equal features -------------------------------------------------------------------


def randomise_norms(model) -> None:
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)


@torch.no_grad()
def test_torchvision_resnet50_gives_equal_features(tmp_path):
    torch.manual_seed(1)
    theirs = resnet50().eval()
    randomise_norms(theirs)
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    wide = ["MODEL.RESNETS.STEM_OUT_CHANNELS", "64", "MODEL.RESNETS.WIDTH_PER_GROUP", "64",
            "MODEL.RESNETS.RES2_OUT_CHANNELS", "256"]  # fmt: skip
    model = tiny("COMICSBlendMask", *wide)
    report = load_foreign_weights(model, tmp_path / "resnet50.pth")
    assert report.source_format == formats.TORCHVISION_RESNET
    assert report.warnings == []
    theirs, network = theirs.double(), model.detector.backbone.bottom_up.double()
    image = torch.randn(1, 3, 48, 64, dtype=torch.float64)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    features = network(image)
    for stage, layer in zip(features, (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4),
                            strict=True):  # fmt: skip
        x = layer(x)
        torch.testing.assert_close(features[stage], x, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "convnext_atto"])
def test_timm_backbones_give_equal_features(tmp_path, name):
    torch.manual_seed(1)
    theirs = timm.create_model(name, pretrained=False).eval()
    randomise_norms(theirs)
    path = tmp_path / "weights.safetensors"
    save_file(theirs.state_dict(), path)
    overrides = ["MODEL.BACKBONE.NAME", f"timm/{name}", "MODEL.BACKBONE.FREEZE_AT", "0"]
    model = tiny("COMICSBlendMask", *overrides)
    report = load_foreign_weights(model, path)
    assert any(re.search(r"(fc|classifier)\.weight$", key) for key in report.unexpected)
    assert not any(".bottom_up." in key for key in report.missing)
    image = torch.randn(1, 3, 64, 64)
    features = model.detector.backbone.bottom_up(image)
    expected = theirs.forward_intermediates(image, intermediates_only=True)
    by_size = {tuple(one.shape[-2:]): one for one in expected}
    for one in features.values():
        torch.testing.assert_close(one, by_size[tuple(one.shape[-2:])], rtol=1e-4, atol=1e-4)


FACE = ["MODEL.FACE.METHOD", "CrossEntropy", "MODEL.FACE.ENCODER", "resnet18"]


def test_timm_weights_for_a_face_method(tmp_path):
    torch.manual_seed(1)
    theirs = timm.create_model("resnet18", pretrained=False).eval()
    randomise_norms(theirs)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "resnet18.pth")
    model = tiny("FaceMethod", *FACE)
    report = load_foreign_weights(model, tmp_path / "resnet18.pth")
    assert report.unexpected == ["fc.bias", "fc.weight"]
    assert not any(name.startswith("encoder.") for name in report.missing)
    crops = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found, wanted = model.encoder.forward_map(crops), theirs.forward_features(crops)
    torch.testing.assert_close(found, wanted)


def test_an_incomplete_timm_file_is_refused(tmp_path):
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    del state["layer3.0.conv2.weight"]
    torch.save(state, tmp_path / "cut.pth")
    model = tiny("FaceMethod", *FACE)
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"cut\.pth.*missing: encoder.model.layer3.0.conv2.weight"):
        load_foreign_weights(model, tmp_path / "cut.pth")
    assert_same(before, snapshot(model))


# -- Detectron2 -----------------------------------------------------------------------------------

BGR = ["INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]",
       "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]", "MODEL.RESNETS.STRIDE_IN_1X1", "True"]  # fmt: skip


@pytest.mark.parametrize("wrapped", [True, False])
def test_caffe2_backbone(tmp_path, wrapped):
    source = scrambled(tiny("FCOS", *BGR))
    blobs = {
        to_caffe2(name): tensor
        for name, tensor in bottom_up(source).items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    assert {"conv1_w", "res_conv1_bn_s", "res2_0_branch2a_w", "res5_0_branch1_bn_b"} <= set(blobs)
    extra = {"fc1000_w": torch.ones(4, 2), "conv1_w_momentum": torch.ones(1)}
    content = arrays(blobs | extra)
    path = write_pickle(tmp_path / "R-50.pkl", {"blobs": content} if wrapped else content)
    model = tiny("FCOS", *BGR, seed=3)
    report = load_foreign_weights(model, path)
    assert report.source_format == formats.CAFFE2_BACKBONE
    assert report.unexpected == ["fc1000_w"]
    assert report.warnings == []
    loaded, wanted = bottom_up(model), bottom_up(source)
    for name, tensor in loaded.items():
        if name.endswith("running_mean"):
            assert not tensor.any(), name
        elif name.endswith("running_var"):
            assert (tensor == 1).all(), name
        else:
            assert torch.equal(tensor, wanted[name]), name


def test_torchvision_flavour_of_detectron2(tmp_path):
    source = scrambled(tiny("FCOS"))
    state = {
        to_detectron2(f"backbone.bottom_up.{name}").removeprefix("backbone.bottom_up."): tensor
        for name, tensor in bottom_up(source).items()
    }
    assert {"stem.conv1.weight", "res2.0.conv1.norm.weight", "res2.0.shortcut.weight"} <= set(state)
    content = {"model": arrays(state | {"stem.fc.weight": torch.ones(2)}),
               "__author__": "torchvision", "matching_heuristics": True}  # fmt: skip
    path = write_pickle(tmp_path / "R-50.pkl", content, protocol=4)
    model = tiny("COMICSBlendMask", seed=3)
    report = load_foreign_weights(model, path)
    assert report.source_format == formats.DETECTRON2_BACKBONE
    assert report.unexpected == ["stem.fc.weight"]
    assert report.warnings == []
    assert_same(bottom_up(model.detector), bottom_up(source))
    warned = load_foreign_weights(tiny("FCOS", *BGR), path).warnings
    assert [line.split()[0] for line in warned] == [
        "INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1",
    ]  # fmt: skip


def coco_mask_rcnn(source) -> dict[str, torch.Tensor]:
    """A model-zoo file of Mask R-CNN with that model's weights, and heads for 80 classes."""
    state = {to_detectron2(name): tensor for name, tensor in snapshot(source).items()}
    assert not any(name.startswith(("box_head", "mask_head", "prop")) for name in state
                   if not name.startswith("proposal_generator"))  # fmt: skip
    rows = {"cls_score": 81, "bbox_pred": 320, "mask_head.predictor": 80}
    for name, tensor in state.items():
        for part, count in rows.items():
            if f"{part}." in name:
                state[name] = torch.ones(count, *tensor.shape[1:])
    return state


def test_mask_rcnn_of_the_model_zoo(tmp_path):
    source = scrambled(tiny("MaskRCNN", *BGR))
    content = {"model": arrays(coco_mask_rcnn(source) | {"pixel_mean": torch.zeros(3, 1, 1)}),
               "__author__": "Detectron2 Model Zoo"}  # fmt: skip
    path = write_pickle(tmp_path / "model_final_a54504.pkl", content, protocol=4)
    model = tiny("COMICSMaskRCNN", *BGR, seed=3)
    before = snapshot(model)
    report = load_foreign_weights(model, path)
    assert report.source_format == formats.DETECTRON2
    heads = {"box_head.class_logits", "box_head.box_deltas", "mask_head.predictor.mask_fcn_logits"}
    assert set(report.misshapen) == {f"detector.{head}.{kind}" for head in heads
                                     for kind in ("weight", "bias")}  # fmt: skip
    assert report.unexpected == []
    assert all(name.startswith("frequency.") for name in report.missing)
    assert report.warnings == []
    after = snapshot(model)
    assert_same(before, after, [*report.misshapen, *report.missing])
    wanted = {f"detector.{name}": tensor for name, tensor in snapshot(source).items()}
    assert_same(wanted, after, report.loaded)


# -- AdelaiDet ------------------------------------------------------------------------------------


def coco_fcos(source) -> dict[str, torch.Tensor]:
    state = {to_detectron2(name): tensor for name, tensor in snapshot(source).items()}
    for name in ("weight", "bias"):
        key = f"proposal_generator.fcos_head.cls_logits.{name}"
        state[key] = torch.ones(80, *state[key].shape[1:])
    return state


@pytest.mark.parametrize("legacy", [False, True])
def test_class_heads_of_coco_are_freshly_initialised_and_named(tmp_path, caplog, legacy):
    source = scrambled(tiny("FCOS"))
    path = tmp_path / "FCOS_R_50_1x.pth"
    content = {"model": coco_fcos(source), "iteration": 90000, "optimizer": {"state": {}}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    model = tiny("FCOS", seed=3)
    before = snapshot(model)
    with caplog.at_level("INFO"):
        report = load_foreign_weights(model, path)
    assert report.source_format == formats.ADELAIDET
    assert report.misshapen == ["head.class_logits.bias", "head.class_logits.weight"]
    assert (report.missing, report.unexpected) == ([], [])
    assert_same(before, snapshot(model), report.misshapen)
    assert_same(snapshot(source), snapshot(model), report.loaded)
    assert "head.class_logits.weight (model [2, 32, 3, 3], file [80, 32, 3, 3])" in caplog.text
    assert "INPUT.FORMAT is 'RGB', these weights want 'BGR'" in caplog.text
    assert "MODEL.PIXEL_STD is [58.395, 57.12, 57.375], these weights want [1.0," in caplog.text
    assert "MODEL.RESNETS.STRIDE_IN_1X1 is False, these weights want True" in caplog.text


def test_unmatched_keys_are_listed_and_a_common_prefix_is_dropped(tmp_path):
    source = scrambled(tiny("FCOS"))
    state = {to_detectron2(name): tensor for name, tensor in snapshot(source).items()}
    state |= {"mystery.weight": torch.ones(1)}
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "p.pth")
    report = load_foreign_weights(tiny("FCOS", seed=3), tmp_path / "p.pth")
    assert report.unexpected == ["mystery.weight"]
    assert report.missing == []


# -- variants of our own models ---------------------------------------------------------------


def test_a_detector_file_starts_its_comics_variant_and_back(tmp_path):
    plain, whole = tmp_path / "plain.safetensors", tmp_path / "whole.safetensors"
    detector = scrambled(tiny("BlendMask"))
    save_weights(plain, detector.state_dict(), config("BlendMask"), {})
    model = tiny("COMICSBlendMask", seed=3)
    load_initial_weights(model, str(plain), load_foreign_weights)
    assert_same(snapshot(detector), snapshot(model.detector))

    scrambled(model, seed=4)
    save_weights(whole, model.state_dict(), config("COMICSBlendMask"), {})
    back = tiny("BlendMask", seed=5)
    report = load_foreign_weights(back, whole)
    assert_same(snapshot(model.detector), snapshot(back))
    assert report.missing == []
    assert report.unexpected
    assert all(name.startswith("frequency.") for name in report.unexpected)


def test_the_same_model_and_plain_tensors_of_it(tmp_path):
    source = scrambled(tiny("COMICSBlendMask"))
    path = tmp_path / "bare.safetensors"
    save_file({n: t.contiguous() for n, t in source.state_dict().items()}, path)
    model = tiny("COMICSBlendMask", seed=3)
    report = load_foreign_weights(model, path)
    assert report.complete
    assert report.lines() == []
    assert_same(snapshot(source), snapshot(model))


def test_settings_of_our_own_files_are_compared(tmp_path):
    path = tmp_path / "bgr.safetensors"
    save_weights(path, tiny("FCOS").state_dict(), config("FCOS", *BGR), {})
    warned = load_foreign_weights(tiny("FCOS"), path).warnings
    assert warned[0] == "INPUT.FORMAT is 'RGB', these weights want 'BGR'"
    assert len(warned) == 4


def test_an_evaluation_wants_the_very_model(tmp_path):
    path = tmp_path / "plain.safetensors"
    save_weights(path, tiny("BlendMask").state_dict(), config("BlendMask"), {})
    with pytest.raises(ValueError, match="does not fit this model"):
        load_initial_weights(
            tiny("COMICSBlendMask"), str(path), load_foreign_weights, must_fit=True
        )


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source, target, message",
    [
        ("FCOS", "BlendMask", "the model has attention, basis_module, the file has head"),
        ("SOLOv2", "FCOS", "the model has head, the file has instance_head, mask_head"),
        ("BlendMask", "COMICSMaskRCNN", "the model has box_head"),
        ("MaskRCNN", "COMICSBlendMask", "the model has attention"),
    ],
)
def test_heads_of_another_detector(tmp_path, source, target, message):
    save_weights(tmp_path / "a.safetensors", tiny(source).state_dict(), config(source), {})
    model = tiny(target, seed=3)
    before = snapshot(model)
    with pytest.raises(ValueError, match=rf"a\.safetensors: it is of another arch.*{message}"):
        load_foreign_weights(model, tmp_path / "a.safetensors")
    assert_same(before, snapshot(model))


def test_a_model_without_masks_takes_what_it_needs(tmp_path):
    source = scrambled(tiny("BlendMask"))
    save_weights(tmp_path / "a.safetensors", source.state_dict(), config("BlendMask"), {})
    model = tiny("FCOS", seed=3)
    report = load_foreign_weights(model, tmp_path / "a.safetensors")
    assert report.missing == []
    assert {name.split(".")[0] for name in report.unexpected} == {"attention", "basis_module"}


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            ["MODEL.RESNETS.DEPTH", "101"],
            r"its backbone.bottom_up differs: unexpected:.*and \d+ mo",
        ),
        (["MODEL.RESNETS.STEM_OUT_CHANNELS", "16"], "of another shape: backbone.bottom_up.res2"),
        (["MODEL.FPN.OUT_CHANNELS", "64"], r"other widths: .*\(model \[32, .*file \[64, "),
    ],
)
def test_other_depths_and_widths(tmp_path, overrides, message):
    torch.save(tiny("FCOS", *overrides).state_dict(), tmp_path / "a.pth")
    model = tiny("FCOS", seed=3)
    before = snapshot(model)
    with pytest.raises(ValueError, match=rf"a\.pth: it is of another architecture.*{message}"):
        load_foreign_weights(model, tmp_path / "a.pth")
    assert_same(before, snapshot(model))


def test_unknown_names_and_joined_models(tmp_path):
    torch.save({"a.weight": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: none of its 1 tensors is known to this model"):
        load_foreign_weights(tiny("FCOS"), tmp_path / "a.pth")
    joined = tiny("FaceForensics", *FACE, "MODEL.FACE.DETECTOR", "FCOS")
    with pytest.raises(ValueError, match="combine_weights.py"):
        load_foreign_weights(joined, tmp_path / "a.pth")


class Harmful:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize("kind", ["cut zip", "flipped bit", "cut pickle", "code", "cut tensors"])
def test_damaged_and_harmful_files(tmp_path, capsys, kind):
    model = tiny("FCOS", seed=3)
    state = snapshot(model)
    path = tmp_path / ("a.safetensors" if kind == "cut tensors" else "a.pth")
    if kind == "cut tensors":
        save_file(state, path)
    elif "pickle" in kind or kind == "code":
        extra = {"x": Harmful()} if kind == "code" else {}
        write_pickle(path, {"model": arrays(state) | extra})
    else:
        torch.save(state, path)
    content = bytearray(path.read_bytes())
    if kind == "flipped bit":
        content[len(content) // 2] ^= 4
    elif kind != "code":
        del content[len(content) // 2 :]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.(pth|safetensors)"):
        load_foreign_weights(model, path)
    assert_same(state, snapshot(model))
    assert "must not run" not in capsys.readouterr().out
