import pytest
import timm
import torch
from safetensors.torch import save_file

from comics.config import load_config
from comics.modeling.faces.build import build_face_method
from comics.modeling.faces.encoder import TimmEncoder, build_encoder, read_encoder_weights
from comics.modeling.weights import save_weights

PAPERS = {  # name -> (channels, cells per side at 299 px)
    "efficientnet_b4": (1792, 10),  # docs/methods.md#dcl-embedding
    "legacy_xception": (2048, 10),
    "resnet50": (2048, 10),
    "dpn68": (832, 10),
    "vgg19": (512, 9),
}


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_encoders_build(name):
    with torch.device("meta"):
        encoder = build_encoder(name)
    assert (encoder.num_features, encoder.map_size(299)) == (
        PAPERS[name][0],
        (PAPERS[name][1],) * 2,
    )
    crops = torch.zeros(2, 3, 299, 299, device="meta")
    feature_map = encoder.forward_map(crops)
    assert feature_map.shape == (2, *([PAPERS[name][0]] + [PAPERS[name][1]] * 2))
    assert encoder.pool(feature_map).shape == (2, PAPERS[name][0])


def test_xception_is_normalised_by_a_half():
    with torch.device("meta"):
        encoder = build_encoder("legacy_xception")
    assert encoder.pixel_mean == (127.5,) * 3 and encoder.pixel_std == (127.5,) * 3


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "test_convnext"])
def test_every_parameter_of_an_encoder_is_used(name):
    encoder = TimmEncoder(name)
    encoder(torch.randn(2, 3, 64, 64)).sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


def test_the_map_is_timm_s_own():
    model = timm.create_model("resnet10t", pretrained=False).eval()
    encoder = TimmEncoder("resnet10t").eval()
    encoder.load_weights(model.state_dict(), "timm")
    crops = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(encoder.forward_map(crops), model.forward_features(crops))
        expected = model.forward_head(model.forward_features(crops), pre_logits=True)
        assert torch.allclose(encoder(crops), expected, atol=1e-6)


def test_building_and_measuring_leave_the_weights_alone():
    torch.manual_seed(0)
    encoder = TimmEncoder("resnet10t")
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False, num_classes=0)
    encoder.map_size(64)
    for key, value in model.state_dict().items():
        assert torch.equal(value, encoder.model.state_dict()[key]), key
    assert all(p.device.type == "cpu" and p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("name", ["no_such_model", "vit_tiny_patch16_224"])
def test_what_is_no_map_is_refused(name):
    with pytest.raises(ValueError, match=name):
        build_encoder(name)


@pytest.mark.parametrize("form", ["safetensors", "plain", "state_dict"])
def test_weights_come_from_a_local_file(form, tmp_path):
    torch.manual_seed(1)
    state = timm.create_model("mobilenetv3_small_050", pretrained=False).state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if form == "plain" else {"state_dict": state, "epoch": 3}, path)
    cfg = load_config(
        overrides=["MODEL.FACE.ENCODER", "mobilenetv3_small_050",
                   "MODEL.FACE.ENCODER_WEIGHTS", str(path)]
    )  # fmt: skip
    torch.manual_seed(2)
    loaded = build_face_method(cfg, load_weights=True).encoder.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in loaded.items())
    fresh = build_face_method(cfg).encoder.model.state_dict()
    assert not torch.equal(fresh["conv_stem.weight"], state["conv_stem.weight"])


def test_weights_that_do_not_fit_are_refused_and_nothing_changes(tmp_path):
    encoder = TimmEncoder("resnet10t")
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    state = dict(encoder.model.state_dict())
    state["extra.weight"] = state.pop("bn1.weight") + 1
    state["bn1.bias"] = torch.zeros(3)
    with pytest.raises(
        ValueError,
        match=r"w\.pth.*missing \['bn1\.weight'\], unexpected "
        r"\['extra\.weight'\], of another shape \['bn1\.bias: file \(3,\), encoder \(64,\)'\]",
    ):
        encoder.load_weights(state, "w.pth")
    assert all(torch.equal(value, before[k]) for k, value in encoder.state_dict().items())


def test_files_that_are_no_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        read_encoder_weights(tmp_path / "none.pth")
    torch.save({"a": 1}, tmp_path / "numbers.pth")
    with pytest.raises(ValueError, match="no state dict"):
        read_encoder_weights(tmp_path / "numbers.pth")


def test_a_weights_file_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save(Evil(), tmp_path / "evil.pth")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        read_encoder_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_pixel_statistics_of_the_configuration_win():
    base = ["MODEL.FACE.ENCODER", "mobilenetv3_small_050"]
    own = build_face_method(load_config(overrides=base))
    assert own.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    given = [*base, "MODEL.FACE.PIXEL_MEAN", "[1.0, 2.0, 3.0]",
             "MODEL.FACE.PIXEL_STD", "[2.0, 2.0, 2.0]"]  # fmt: skip
    method = build_face_method(load_config(overrides=given))
    crops = torch.tensor([3, 4, 5], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert torch.equal(method.preprocess(crops), torch.ones(1, 3, 8, 8))


@pytest.mark.parametrize("encoder", ["SmallResNet", "mobilenetv3_small_050"])
def test_a_face_method_starts_from_the_encoder_of_anothers_model_file(tmp_path, encoder):
    overrides = ["MODEL.FACE.ENCODER", encoder, "MODEL.FACE.METHOD"]
    cfg = load_config(overrides=[*overrides, "CrossEntropy"])
    first = build_face_method(cfg)
    save_weights(tmp_path / "first.safetensors", first.inference_state_dict(), cfg, {})
    weights = ["MODEL.FACE.ENCODER_WEIGHTS", str(tmp_path / "first.safetensors")]
    second = build_face_method(
        load_config(overrides=[*overrides, "DCL", *weights]), load_weights=True
    )
    for name, value in first.encoder.state_dict().items():
        assert torch.equal(second.encoder.state_dict()[name], value)
