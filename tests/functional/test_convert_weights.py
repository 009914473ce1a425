"""tools/convert_weights.py on made-up files of each kind."""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

from comics.config import load_config
from comics.files import file_sha256
from comics.modeling.build import build_model, load_model
from comics.modeling.weights import read_weights, save_weights

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
SEED: 7
MODEL:
  META_ARCHITECTURE: COMICSBlendMask
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64}
  FPN: {OUT_CHANNELS: 32}
  FCOS: {NUM_CLS_CONVS: 1, NUM_BOX_CONVS: 1}
  BASIS_MODULE: {CONVS_DIM: 16, NUM_CONVS: 1}
  BLENDMASK: {ATTN_SIZE: 4}
"""


@pytest.fixture
def call(tmp_path, capsys, monkeypatch):
    """Runs the tool in a folder with config.yaml; gives exit code, output and errors."""
    spec = importlib.util.spec_from_file_location(
        "convert_weights", ROOT / "tools" / "convert_weights.py"
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = tool.main([*arguments, "--config-file", "config.yaml"])
        found = capsys.readouterr()
        return code, found.out, found.err

    return run


def save_resnet18(path: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state = resnet18().state_dict()
    torch.save(state, path)
    return state


def tiny_state(*overrides: str) -> tuple[dict[str, torch.Tensor], object]:
    cfg = load_config("config.yaml", overrides)
    torch.manual_seed(2)
    return build_model(cfg).state_dict(), cfg


def test_a_torchvision_backbone_makes_a_model_file(call):
    state = save_resnet18("resnet18.pth")
    code, out, err = call("resnet18.pth", "out.safetensors")
    assert (code, err) == (0, "")
    assert "recognised as torchvision-resnet" in out
    assert "not in the source, freshly initialised:\n  detector.attention.bias\n" in out
    model, cfg, file = load_model("out.safetensors")
    assert cfg.MODEL.META_ARCHITECTURE == "COMICSBlendMask"
    own = model.detector.backbone.bottom_up.state_dict()
    assert torch.equal(own["stem.conv.weight"], state["conv1.weight"])
    assert torch.equal(own["res4.0.shortcut.conv.weight"], state["layer3.0.downsample.0.weight"])
    assert file.metadata["source"] == "resnet18.pth"
    assert file.metadata["source_sha256"] == file_sha256("resnet18.pth")
    assert file.metadata["source_format"] == "torchvision-resnet"
    call("resnet18.pth", "again.safetensors")
    again = read_weights("again.safetensors").state  # what is random has a seed
    assert all(torch.equal(tensor, file.state[name]) for name, tensor in again.items())


def test_list_prints_everything_and_writes_nothing(call):
    state, _ = tiny_state("MODEL.FCOS.NUM_CLASSES", "80")
    torch.save({"model": state | {"mystery": torch.ones(1)}}, "coco.pth")
    before = sorted(Path().iterdir())
    code, out, err = call("coco.pth", "--list")
    assert code == 0
    heading = "2 of another shape in the source, freshly initialised:\n"
    assert heading + "  detector.head.class_logits.bias (model [2], file [80])\n" in out
    assert "1 of the source, unmatched:\n  mystery" in out
    assert f"{len(state) - 2} match:\n" in out
    assert "  detector.backbone.bottom_up.stem.conv.weight\n" in out
    assert sorted(Path().iterdir()) == before


def test_strict_refuses_what_does_not_fit_exactly(call):
    save_resnet18("resnet18.pth")
    code, _, err = call("resnet18.pth", "out.safetensors", "--strict")
    assert code == 2
    assert "does not fit exactly" in err
    assert not Path("out.safetensors").exists()
    state, cfg = tiny_state()
    save_weights("whole.safetensors", state, cfg, {})
    code, out, _ = call("whole.safetensors", "out.safetensors", "--strict")
    assert code == 0
    assert all(torch.equal(t, state[n]) for n, t in read_weights("out.safetensors").state.items())


def test_preprocessing_that_does_not_suit_is_warned_of(call):
    bgr = ["INPUT.FORMAT", "BGR", "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"]
    save_resnet18("resnet18.pth")
    settings = [word for pair in zip(bgr[::2], bgr[1::2], strict=True) for word in ("--set", *pair)]
    code, _, err = call("resnet18.pth", "out.safetensors", *settings)
    assert code == 0
    assert "warning: INPUT.FORMAT is 'BGR', these weights want 'RGB'" in err
    assert "warning: MODEL.PIXEL_STD is [1.0, 1.0, 1.0], these weights want [58.395, " in err
    assert load_model("out.safetensors")[1].INPUT.FORMAT == "BGR"


def test_a_plain_detector_into_its_comics_variant(call):
    state, cfg = tiny_state("MODEL.META_ARCHITECTURE", "BlendMask")
    save_weights("plain.safetensors", state, cfg, {})
    code, out, _ = call("plain.safetensors", "out.safetensors")
    assert code == 0
    assert "recognised as comics" in out
    model, _, _ = load_model("out.safetensors")
    assert all(torch.equal(t, state[n]) for n, t in model.detector.state_dict().items())


def test_a_pickle_of_detectron2(call):
    blobs = {"conv1_w": np.ones((64, 3, 7, 7), np.float32)}
    Path("R-18.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    code, _, err = call("R-18.pkl", "out.safetensors")
    assert code == 2
    assert "R-18.pkl: it is of another architecture" in err
    assert "missing: detector.backbone.bottom_up.res2" in err


def test_the_backbone_of_another_detector(call):
    state, cfg = tiny_state("MODEL.META_ARCHITECTURE", "FCOS")
    save_weights("fcos.safetensors", state, cfg, {})
    code, _, err = call("fcos.safetensors", "out.safetensors")
    assert code == 2
    assert "another architecture: the model has attention, basis_module" in err
    code, out, _ = call("fcos.safetensors", "out.safetensors", "--backbone-only")
    assert code == 0
    assert "of the source, unmatched:\n  detector.head.box_distances.bias\n" in out
    loaded = read_weights("out.safetensors").state
    name = "backbone.output.p4.conv.weight"
    assert torch.equal(loaded[f"detector.{name}"], state[name])
    assert not torch.equal(
        loaded["detector.head.class_logits.weight"], state["head.class_logits.weight"]
    )


def test_a_timm_model_for_a_face_method(call):
    torch.manual_seed(1)
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    save_file(state, "timm.safetensors")
    face = ["--set", "MODEL.META_ARCHITECTURE", "FaceMethod", "--set", "MODEL.FACE.METHOD",
            "CrossEntropy", "--set", "MODEL.FACE.ENCODER", "resnet18"]  # fmt: skip
    code, out, err = call("timm.safetensors", "out.safetensors", *face)
    assert (code, err) == (0, "")
    assert "2 of the source, unmatched:\n  fc.bias\n  fc.weight\n" in out
    model, _, _ = load_model("out.safetensors")
    own = model.encoder.model.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own)


class Harmful:
    def __reduce__(self):
        return print, ("this must not run",)


def test_bad_input(call):
    save_resnet18("resnet18.pth")
    Path("cut.pth").write_bytes(Path("resnet18.pth").read_bytes()[:100_000])
    Path("code.pkl").write_bytes(pickle.dumps({"model": {"w": Harmful()}}))
    Path("text.pth").write_text("no weights")
    for arguments, message in (
        (["absent.pth", "out.safetensors"], "absent.pth"),
        (["cut.pth", "out.safetensors"], "cut.pth is not a checkpoint of plain tensors"),
        (["code.pkl", "out.safetensors"], "wants builtins.print"),
        (["text.pth", "out.safetensors"], "text.pth is not a checkpoint"),
        (["resnet18.pth"], "name an OUTPUT"),
        (["resnet18.pth", "out.pth"], "must end in .safetensors"),
        (["resnet18.pth", "o.safetensors", "--set", "MODEL.RESNETS.DEPTH", "34"], "res2.2.conv1"),
        (["resnet18.pth", "o.safetensors", "--set", "MODEL.DEPTH", "1"], "'MODEL.DEPTH'; the near"),
        (["resnet18.pth", "o.safetensors", "--set", "MODEL.META_ARCHITECTURE", "Blendmask"],
         "Did you mean 'BlendMask'"),
    ):  # fmt: skip
        code, out, err = call(*arguments)
        assert code == 2, arguments
        assert message in err
        assert "Traceback" not in err
        assert "must not run" not in out
    assert not list(Path().glob("*.safetensors"))


def test_an_output_that_cannot_be_written(call):
    save_resnet18("resnet18.pth")
    Path("file").write_text("")
    code, _, err = call("resnet18.pth", "file/out.safetensors")
    assert code == 1
    assert "file/out.safetensors cannot be written" in err


def test_the_source_is_not_overwritten(call):
    state, cfg = tiny_state()
    save_weights("a.safetensors", state, cfg, {})
    code, _, err = call("a.safetensors", "./a.safetensors")
    assert code == 2
    assert "is the source itself" in err
