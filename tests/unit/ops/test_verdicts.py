import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from comics.ops.verdicts import FUSIONS, fuse_probabilities

probability = st.floats(1e-4, 1 - 1e-4)


def fuse(a, b, rule):
    pair = (torch.tensor([value], dtype=torch.float64) for value in (a, b))
    return fuse_probabilities(*pair, rule).item()


@given(a=probability, b=probability)
def test_rules_in_closed_form(a, b):
    both, neither = math.sqrt(a * b), math.sqrt((1 - a) * (1 - b))
    expected = {
        "mean_logit": both / (both + neither),
        "face": b,
        "detector": a,
        "max": max(a, b),
    }
    assert set(FUSIONS) == set(expected)
    for rule, value in expected.items():
        assert fuse(a, b, rule) == pytest.approx(value, rel=1e-9)


@given(a=probability)
def test_opposite_opinions_cancel_and_equal_ones_stay(a):
    assert fuse(a, 1 - a, "mean_logit") == pytest.approx(0.5)
    assert fuse(a, a, "mean_logit") == pytest.approx(a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_opinions_are_finite(dtype):
    ends = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=dtype)
    other = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=dtype)
    fused = fuse_probabilities(ends, other, "mean_logit")
    assert fused.dtype == dtype
    assert fused.tolist() == pytest.approx([0, 0.5, 0.5, 1], abs=1e-5)


def test_nothing_to_fuse_and_unknown_rule():
    assert fuse_probabilities(torch.zeros(0), torch.zeros(0), "mean_logit").shape == (0,)
    with pytest.raises(ValueError, match="FUSION must be one of mean_logit, .*'mean'"):
        fuse_probabilities(torch.zeros(0), torch.zeros(0), "mean")
