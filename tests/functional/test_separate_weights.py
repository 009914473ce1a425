import sys
from pathlib import Path

import torch

from comics.inference.default_weights import default_weights
from comics.modeling.weights import read_weights
from comics.pipeline import combine_files

LAB = Path(__file__).resolve().parents[2] / "tools" / "lab"
sys.path.insert(0, str(LAB))
import separate_weights as tool  # noqa: E402


def test_parts_of_the_shipped_model_make_it_again(tmp_path):
    whole = default_weights()
    parts = {part: tmp_path / f"{part}.safetensors" for part in ("detector", "face")}
    for part, path in parts.items():
        assert tool.main([str(whole), "--part", part, "--output", str(path)]) == 0
    again, shipped = combine_files(parts["detector"], parts["face"]), read_weights(whole)
    assert again.state.keys() == shipped.state.keys()
    for name, tensor in shipped.state.items():
        assert torch.equal(again.state[name], tensor.to(again.state[name].dtype)), name
    assert again.cfg.MODEL.FACE.MIRROR and again.cfg.MODEL.META_ARCHITECTURE == "FaceForensics"
    assert again.metadata["face_data_sha256"] == shipped.metadata["face_data_sha256"]


def test_a_part_has_no_parts(tmp_path, capsys):
    face = tmp_path / "face.safetensors"
    assert tool.main([str(default_weights()), "--part", "face", "--output", str(face)]) == 0
    assert tool.main([str(face), "--part", "face", "--output", str(tmp_path / "x")]) == 2
    assert "nothing to separate" in capsys.readouterr().err
    assert tool.main([str(tmp_path / "no"), "--part", "face", "--output", str(face)]) == 2
