"""The shipped reference numbers are the full recordings' own, and stay small."""

from pathlib import Path

import pytest
import torch
from adelaidet_reference import (
    BASIS,
    FOLDER,
    MODELS,
    assert_close,
    load_components,
    load_model,
    sample,
)
from cut_adelaidet import cut_components, cut_model

FIXTURES = Path(__file__).parents[1] / "fixtures"
LIMIT = 2_000_000  # bytes, of numbers to compare with
FORMER_LIMIT = 600_000  # of files that a former version wrote


def assert_same(ours, theirs, where=""):
    """Equal to the last bit, whatever the nesting."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(mine, other, f"{where}[{index}]")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs or (ours != ours and theirs != theirs), where


@pytest.fixture(scope="module")
def full(shared_dir) -> Path:
    return shared_dir / "fixtures"


@pytest.mark.parametrize("name", MODELS)
def test_drawn_weights_and_images_are_the_recorded_ones(full, name):
    recorded = torch.load(full / "adelaidet" / f"{name}.pt", weights_only=True)
    shipped = load_model(name)
    assert list(shipped["state_dict"]) == list(recorded["state_dict"])
    for key, value in recorded["state_dict"].items():
        drawn = shipped["state_dict"][key]
        assert drawn.dtype == value.dtype
        torch.testing.assert_close(drawn, value, rtol=1e-5, atol=1e-6, msg=key)
    assert_same(shipped["inputs"], recorded["inputs"])
    assert len(shipped["targets"]) == len(recorded["targets"])
    for mine, theirs in zip(shipped["targets"], recorded["targets"], strict=True):
        assert_same({key: mine[key] for key in theirs}, theirs)


@pytest.mark.parametrize("name", MODELS)
def test_kept_numbers_are_the_recorded_ones(full, name):
    recorded = torch.load(full / "adelaidet" / f"{name}.pt", weights_only=True)
    kept = cut_model(recorded)
    shipped = load_model(name)
    assert shipped.keys() == kept.keys() | {"state_dict", "inputs", "targets"}
    assert_same({key: shipped[key] for key in kept}, kept)


def test_numeric_blocks_are_the_recorded_ones(full):
    recorded = torch.load(full / "adelaidet" / "components.pt", weights_only=True)
    assert_same(load_components(), cut_components(recorded))
    for sigmoid in (True, False):
        name = BASIS.format(sigmoid)
        assert (FOLDER / name).read_bytes() == (full / "adelaidet" / name).read_bytes()


def test_evaluation_cases_are_the_recorded_ones(full):
    ours = {path.relative_to(FIXTURES) for path in (FIXTURES / "eval").rglob("*.*")}
    theirs = {path.relative_to(full) for path in (full / "eval").rglob("*.*")}
    assert ours == theirs - {Path("eval/SPEC.md")}
    for path in ours:
        assert (FIXTURES / path).read_bytes() == (full / path).read_bytes(), path


def test_the_fixtures_are_small_enough_to_ship():
    files = [p for p in FIXTURES.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    former = sum(p.stat().st_size for p in files if "former_version" in p.parts)
    assert former < FORMER_LIMIT
    assert sum(path.stat().st_size for path in files) - former < LIMIT


def test_a_sample_is_compared_place_by_place():
    values = torch.arange(9000.0).reshape(3, 3000)
    kept = sample(values)
    assert kept["step"] == 7 and len(kept["sample"]) == 1286
    assert_close(values.clone(), kept)
    wrong = values.clone()
    wrong[2, 999] += 1  # the place 6999 is not a multiple of 7
    assert_close(wrong, kept)
    wrong[0, 14] += 1
    with pytest.raises(AssertionError):
        assert_close(wrong, kept)
    with pytest.raises(AssertionError):
        assert_close(values.reshape(9000), kept)
