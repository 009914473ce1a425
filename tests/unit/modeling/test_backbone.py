"""ResNets, timm models and the pyramid over them."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

from comics.config import load_config
from comics.integrations.weights import convert_torchvision_resnet, load_matching
from comics.modeling.backbone import FPN, TimmBackbone, build_backbone
from comics.modeling.detectors.cells import conv3x3_at_cells
from comics.modeling.layers import ConvNorm, DeformableConvNorm, make_norm
from comics.modeling.resnet import ResNet

SMALL = [
    "MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32",
    "MODEL.RESNETS.WIDTH_PER_GROUP", "8", "MODEL.FPN.OUT_CHANNELS", "32",
]  # fmt: skip
IMAGE = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def build(*overrides):
    return build_backbone(load_config(overrides=[*SMALL, *overrides]))


def randomise_norms(model):
    generator = torch.Generator().manual_seed(1)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "norm.bias")):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
        elif name.endswith(("running_var", "norm.weight")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)


def test_frozen_norm_is_folded_without_changing_values_or_gradients():
    block = ConvNorm(6, 8, 3, stride=2, norm="FrozenBN", bias=True).double()
    randomise_norms(block)
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64, requires_grad=True)
    folded = block(x)
    gradients = torch.autograd.grad(folded.square().sum(), (x, block.conv.weight))
    plain = block.norm(block.conv(x))
    expected = torch.autograd.grad(plain.square().sum(), (x, block.conv.weight))
    torch.testing.assert_close(folded, plain)
    torch.testing.assert_close(gradients, expected)


def test_convolution_at_cells_equals_the_dense_one_in_values_and_gradients():
    conv = nn.Conv2d(3, 5, 3, padding=1).double()
    maps = [
        torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True),
        torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True),
    ]
    level = torch.tensor([1, 0, 0, 1, 0, 0])
    image = torch.tensor([0, 1, 0, 1, 1, 1])
    cell = torch.tensor([11, 0, 41, 5, 20, 20])
    leaves = (*maps, conv.weight, conv.bias)
    sparse = conv3x3_at_cells(conv, maps, level, image, cell)
    gradients = torch.autograd.grad(sparse.square().sum(), leaves)
    dense = [conv(m).flatten(2) for m in maps]
    expected = torch.stack([dense[k][b, :, c] for k, b, c in zip(level, image, cell, strict=True)])
    torch.testing.assert_close(sparse, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), leaves))


def test_convolution_at_no_cell_leaves_a_zero_gradient():
    conv = nn.Conv2d(3, 5, 3, padding=1)
    none = torch.zeros(0, dtype=torch.int64)
    conv3x3_at_cells(conv, [torch.randn(1, 3, 4, 4)], none, none, none).sum().backward()
    assert torch.equal(conv.weight.grad, torch.zeros_like(conv.weight))


@pytest.mark.parametrize(("depth", "name"), [(18, "resnet18"), (50, "resnet50")])
def test_resnet_equals_torchvisions_with_its_weights(depth, name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    randomise_norms(theirs)
    narrow = {18: {"res2_channels": 64}, 50: {}}[depth]
    ours = ResNet(depth, **narrow).eval()
    converted, unmatched = convert_torchvision_resnet(theirs.state_dict(), prefix="")
    assert unmatched == []
    report = load_matching(ours, converted)
    assert (report.missing, report.unexpected, report.misshapen) == ([], [], [])
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(IMAGE))))
        for stage, layer in zip(("res2", "res3", "res4", "res5"), range(1, 5), strict=True):
            x = getattr(theirs, f"layer{layer}")(x)
            found = ours(IMAGE)[stage]
            torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-3 * x.abs().max().item())


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
def test_every_depth_and_norm_gives_the_four_strides(depth, norm):
    channels = 32
    with torch.device("meta"):
        model = ResNet(
            depth,
            stem_channels=32,
            res2_channels=channels,
            width_per_group=channels,
            norm=norm,
            freeze_at=0,
        )
        stages = model(torch.empty(1, 3, 64, 96))
    for index, name in enumerate(("res2", "res3", "res4", "res5")):
        stride = 4 << index
        assert stages[name].shape == (1, channels << index, 64 // stride, 96 // stride)


def test_freezing_fixes_parameters_and_batch_norms_of_the_first_stages():
    model = ResNet(
        18, stem_channels=8, res2_channels=8, width_per_group=8, norm="BN", freeze_at=2
    ).train()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in model.named_parameters() if n.startswith(("stem.", "res2."))}
    assert isinstance(model.stem.norm, FrozenBatchNorm2d)
    assert isinstance(model.res3[0].conv1.norm, nn.BatchNorm2d)
    before = {n: b.clone() for n, b in model.named_buffers()}
    model(IMAGE)
    changed = {n for n, b in model.named_buffers() if not torch.equal(b, before[n])}
    assert changed and all(n.startswith(("res3.", "res4.", "res5.")) for n in changed)


def test_stride_sits_where_it_is_asked_for():
    for in_1x1, strides in ((True, (2, 1)), (False, (1, 2))):
        block = ResNet(50, stride_in_1x1=in_1x1).res3[0]
        assert (block.conv1.conv.stride[0], block.conv2.conv.stride[0]) == strides


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"depth": 19}, "depth"),
        ({"depth": 18}, "RES2_OUT_CHANNELS"),
        ({"depth": 50, "freeze_at": 6}, "freeze_at"),
        ({"depth": 50, "norm": "LN"}, "normalisation"),
    ],
)
def test_impossible_resnets_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**kwargs)


def test_group_norm_needs_channels_that_divide_and_takes_one_cell():
    with pytest.raises(ValueError, match="32"):
        make_norm("GN", 40)
    norm = make_norm("GN", 32)
    nn.init.constant_(norm.bias, 0.5)
    single = norm(torch.randn(1, 32, 1, 1))
    torch.testing.assert_close(single, torch.full((1, 32, 1, 1), 0.5), rtol=0, atol=1e-3)
    x = torch.randn(2, 64, 5, 3)
    expected = functional.group_norm(x, 32)
    torch.testing.assert_close(make_norm("GN", 64)(x), expected)


@pytest.mark.parametrize(
    "name", ["resnet", "build_fcos_resnet_fpn_backbone", "build_resnet_fpn_backbone"]
)
def test_pyramid_levels(name):
    model = build("MODEL.BACKBONE.NAME", name)
    levels = model(IMAGE)
    assert list(levels) == ["p3", "p4", "p5", "p6", "p7"]
    assert [tuple(v.shape[1:]) for v in levels.values()] == [
        (32, 8, 12), (32, 4, 6), (32, 2, 3), (32, 1, 2), (32, 1, 1),
    ]  # fmt: skip
    assert model.strides == {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}
    assert model.size_divisibility == 32


def test_pyramid_equals_its_definition():
    model = build("MODEL.FCOS.TOP_LEVELS", "2").double()
    x = IMAGE.double()
    stages = model.bottom_up(x)
    levels = model(x)
    lateral = {k: model.lateral[f"p{k}"].conv(stages[f"res{k}"]) for k in (3, 4, 5)}
    merged5 = lateral[5]
    merged4 = lateral[4] + merged5.repeat_interleave(2, 2).repeat_interleave(2, 3)
    merged3 = lateral[3] + merged4.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for level, merged in (("p3", merged3), ("p4", merged4), ("p5", merged5)):
        torch.testing.assert_close(levels[level], model.output[level].conv(merged))
    torch.testing.assert_close(levels["p6"], model.top["p6"](levels["p5"]))
    torch.testing.assert_close(levels["p7"], model.top["p7"](levels["p6"].relu()))


def test_pooled_top_level_is_every_second_cell_of_p5():
    pyramid = build("MODEL.FPN.TOP_BLOCK", "pool")
    levels = pyramid(torch.randn(1, 3, 64, 96))
    assert list(pyramid.strides.values()) == [8, 16, 32, 64]
    assert torch.equal(levels["p6"], levels["p5"][..., ::2, ::2])
    with pytest.raises(ValueError, match="TOP_BLOCK"):
        build("MODEL.FPN.TOP_BLOCK", "none")


@pytest.mark.parametrize(("top_levels", "last"), [(0, "p5"), (1, "p6")])
def test_fewer_top_levels(top_levels, last):
    assert list(build("MODEL.FCOS.TOP_LEVELS", str(top_levels)).strides)[-1] == last


def test_pyramid_norm_replaces_the_bias():
    model = build("MODEL.FPN.NORM", "GN")
    names = {n for n, _ in model.lateral.named_parameters()}
    assert names == {
        f"p{k}.{n}" for k in (3, 4, 5) for n in ("conv.weight", "norm.weight", "norm.bias")
    }
    assert model(IMAGE)["p3"].shape == (2, 32, 8, 12)


def test_pyramid_from_res2():
    model = build("MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']")
    assert list(model.strides.values()) == [4, 8, 16, 32, 64, 128]
    assert model(IMAGE)["p2"].shape == (2, 32, 16, 24)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet10t", "convnext_atto"])
def test_timm_models_feed_the_pyramid(name):
    model = build("MODEL.BACKBONE.NAME", f"timm/{name}", "MODEL.BACKBONE.FREEZE_AT", "0")
    levels = model(IMAGE)
    assert [tuple(v.shape[-2:]) for v in levels.values()] == [
        (8, 12),
        (4, 6),
        (2, 3),
        (1, 2),
        (1, 1),
    ]
    sum(level.sum() for level in levels.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_channels_last_timm_models_are_turned():
    model = TimmBackbone("swin_tiny_patch4_window7_224", ("res3", "res4", "res5"))
    model.model = torch.nn.Identity()
    outputs = [
        torch.zeros(1, 224 // s, 224 // s, c) for s, c in ((4, 96), (8, 192), (16, 384), (32, 768))
    ]
    model.model.forward = lambda x: outputs
    stages = model(torch.zeros(1, 3, 224, 224))
    assert {n: tuple(s.shape) for n, s in stages.items()} == {
        "res3": (1, 192, 28, 28), "res4": (1, 384, 14, 14), "res5": (1, 768, 7, 7),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.BACKBONE.NAME", "timm/mobilenetv3_small_050"], "FREEZE_AT"),
        (["MODEL.BACKBONE.NAME", "timm/no_such_model", "MODEL.BACKBONE.FREEZE_AT", "0"], "no_such"),
        (
            ["MODEL.BACKBONE.NAME", "timm/vit_tiny_patch16_224", "MODEL.BACKBONE.FREEZE_AT", "0"],
            r"strides \[16, 16, 16\].*needs \[8, 16, 32\]",
        ),
        (["MODEL.BACKBONE.NAME", "vgg"], "unknown MODEL.BACKBONE.NAME 'vgg'"),
        (["MODEL.FPN.IN_FEATURES", "['res1', 'res3']"], "res1"),
        (["MODEL.FPN.IN_FEATURES", "['res3', 'res5']"], "double"),
        (["MODEL.FCOS.TOP_LEVELS", "3"], "top_levels"),
    ],
)
def test_impossible_backbones_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        build(*overrides)


def test_a_timm_model_that_does_not_pad_is_refused():
    model = TimmBackbone("inception_v3", ("res3", "res4", "res5")).eval()
    with pytest.raises(ValueError, match="stride 8"), torch.no_grad():
        FPN(model, ("res3", "res4", "res5"), out_channels=8)(torch.zeros(1, 3, 96, 96))


def test_high_pass_stem_answers_to_noise_and_not_to_flat_regions_or_ramps():
    torch.manual_seed(0)
    model = ResNet(18, res2_channels=64, norm="BN", freeze_at=0, stem_high_pass=24)
    columns = torch.arange(64.0).expand(1, 3, 64, 64)
    for image in (torch.ones(1, 3, 64, 64), columns, columns.mT):
        answer = model.stem.conv(image)[..., 4:-4, 4:-4].abs().amax(dim=(0, 2, 3))
        assert (answer[:24] < 1e-4).all()
        assert (answer[24:] > 1e-3).all()
    noise = model.stem.conv(torch.randn(1, 3, 64, 64)).std(dim=(0, 2, 3))
    assert (noise[:24] > 0.1).all()


def test_more_high_pass_filters_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=r"STEM_HIGH_PASS must lie in 0\.\.64"):
        ResNet(18, res2_channels=64, stem_high_pass=65)


def test_deformable_blocks_are_where_the_configuration_says():
    def blocks(**settings):
        with torch.device("meta"):
            network = ResNet(50, norm="BN", freeze_at=0, **settings)
        return [
            name for name, part in network.named_modules() if isinstance(part, DeformableConvNorm)
        ]

    stages = (False, False, True, True)
    found = blocks(deform_stages=stages, deform_interval=3)
    assert found == ["res4.0.conv2", "res4.3.conv2", "res5.0.conv2"]
    assert len(blocks(deform_stages=stages)) == 6 + 3
    assert blocks() == []
    for settings in ({"deform_stages": (True,)}, {"deform_interval": 0}):
        with pytest.raises(ValueError, match="DEFORM_ON_PER_STAGE"):
            blocks(**settings)
