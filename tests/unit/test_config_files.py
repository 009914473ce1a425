"""What may be wrong with a YAML file is said in one sentence, and costs nothing."""

import re

import pytest
import yaml

from comics.config import load_config, load_config_text
from comics.config.files import (
    MAX_BYTES,
    MAX_DEPTH,
    published_folder,
    published_names,
    read_config_file,
)

FAULTS = {
    "syntax": ("SEED: [1, 2", "line 1"),
    "tab": ("SEED:\n\t- 1", "line 2"),
    "control": ("SEED: \x00", "not usable as YAML"),
    "object": ("SEED: !!python/object/apply:os.getcwd []", "python/object/apply"),
    "own tag": ("SEED: !secret 1", "tag '!secret'"),
    "bad int": ("SEED: !!int many", "not usable as YAML"),
    "bad date": ("SEED: 2020-13-45", "not usable as YAML"),
    "date": ("SEED: 2020-01-02", "is a date"),
    "two documents": ("SEED: 1\n---\nSEED: 2", "single document"),
    "no keys": ("- 1\n- 2", "holds list"),
    "text": ("hello", "holds str"),
    "number as key": ("7: 1", "no name of a key"),
    "list as key": ("[1, 2]: 1", "not usable as YAML"),
    "no value": ("SOLVER:\n  BASE_LR:\n", "SOLVER.BASE_LR has no value"),
    "no section": ("SOLVER:\n", "SOLVER has no value"),
    "section as value": ("SOLVER: 3", "SOLVER"),
    "deep": ("[" * 100_000, "deep"),
    "deep keys": ("".join(" " * n + "A:\n" for n in range(2 * MAX_DEPTH)), "levels deep"),
    "cycle": ("SEED: &a [*a]", "levels deep"),
    "laughs": (
        "A: &a0 [x, x]\n" + "".join(f"A{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30)),
        "values",
    ),
    "large": ("#" * (MAX_BYTES + 1), "bytes"),
    "base is a number": ("_BASE_: 3", "must name a file"),
    "base is itself": ("_BASE_: bad.yaml", "leads back to the same file: bad.yaml -> bad.yaml"),
    "base list": ("_BASE_: [bad.yaml, 3]", "must name a file"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_sentence(tmp_path, name):
    text, said = FAULTS[name]
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        load_config(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    if "has no value" not in said and name != "section as value":
        assert str(path) in message


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"SEED: \xff\xfe\x80")
    with pytest.raises(ValueError, match="not usable as YAML"):
        load_config(tmp_path / "a.yaml")


def test_bases_that_lead_in_a_circle_or_never_end(tmp_path):
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"_BASE_: {base}.yaml\n")
    with pytest.raises(ValueError, match=r"a\.yaml -> b\.yaml -> c\.yaml -> a\.yaml"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "d0.yaml").write_text("SEED: 1\n")
    for n in range(1, 30):  # 2^29 readings
        (tmp_path / f"d{n}.yaml").write_text(f"_BASE_: [d{n - 1}.yaml, d{n - 1}.yaml]\n")
    with pytest.raises(ValueError, match="more than 64 files"):
        load_config(tmp_path / "d29.yaml")
    (tmp_path / "e.yaml").write_text("_BASE_: nowhere.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "e.yaml")


def test_bases_are_merged_in_their_order_and_the_file_has_the_last_word(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "one.yaml").write_text("SEED: 1\nSOLVER: {BASE_LR: 0.1, MAX_ITER: 1}\n")
    (tmp_path / "two.yaml").write_text("SOLVER: {BASE_LR: 0.2}\n")
    path = tmp_path / "sub" / "three.yaml"
    path.write_text("_BASE_: [../one.yaml, ../two.yaml]\nSEED: 3\n")
    assert read_config_file(path) == {"SEED": 3, "SOLVER": {"BASE_LR": 0.2, "MAX_ITER": 1}}
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_config_file(tmp_path / "empty.yaml") == {}
    (tmp_path / "value.yaml").write_text("SOLVER: 3\n")
    path.write_text("_BASE_: ../value.yaml\nSOLVER: {BASE_LR: 1.0}\n")
    with pytest.raises(ValueError, match="SOLVER has keys here"):
        read_config_file(path)


def test_the_configuration_inside_a_model_file_is_as_little_trusted():
    for text, said in (FAULTS["object"], FAULTS["deep"], FAULTS["laughs"], FAULTS["text"]):
        with pytest.raises(ValueError, match=re.escape(said)):
            load_config_text(text)
    with pytest.raises(KeyError, match="_BASE_"):  # a file that names files to read
        load_config_text("_BASE_: /etc/hostname\n")


def test_what_yaml_itself_makes_of_the_shipped_files_is_what_is_read(request):
    root = request.config.rootpath / "configs"
    alone = [path for path in sorted(root.rglob("*.yaml")) if "_BASE_" not in path.read_text()]
    assert alone
    for path in alone:
        assert read_config_file(path) == (yaml.safe_load(path.read_text()) or {}), path


@pytest.mark.parametrize(
    "name", ["COMICS-BlendMask/R_50_1x", "configs/COMICS-BlendMask/R_50_1x.yaml"]
)
def test_a_published_configuration_is_found_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no checkout here
    cfg = load_config(name)
    assert cfg.MODEL.META_ARCHITECTURE == "COMICSBlendMask"
    assert cfg == load_config(published_folder() / "COMICS-BlendMask" / "R_50_1x.yaml")


def test_a_file_comes_before_a_published_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "configs" / "COMICS-BlendMask" / "R_50_1x.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("SEED: 77\n")
    assert load_config("configs/COMICS-BlendMask/R_50_1x.yaml").SEED == 77


def test_a_misspelled_name_gets_a_hint(tmp_path):
    with pytest.raises(FileNotFoundError, match="alike: .*COMICS-BlendMask/R_50_1x"):
        load_config("COMICS-Blendmask/R_50_1x")
    with pytest.raises(FileNotFoundError, match="nor a published configuration"):
        load_config(tmp_path / "x.yaml")
    assert "Default/face" in published_names()
