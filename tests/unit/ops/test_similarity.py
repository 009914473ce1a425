import math

import pytest
import torch
from torch.nn import functional

from comics.ops.similarity import contrast_groups, cosine, flat_nce, mean_direction, unit


def test_cosine_equals_torch_and_zero_vectors_are_harmless():
    first, second = torch.randn(7, 5), torch.randn(7, 5)
    torch.testing.assert_close(cosine(first, second), functional.cosine_similarity(first, second))
    zero = torch.zeros(2, 5, requires_grad=True)
    cosine(zero, second[:2]).sum().backward()
    assert torch.equal(unit(zero), torch.zeros(2, 5))
    assert torch.isfinite(zero.grad).all()


@pytest.mark.parametrize("size", [1, 3, 6])
def test_mean_directions_give_the_mean_cosine_over_all_pairs(size):
    torch.manual_seed(size)
    features = torch.randn(4, 3, size, size)
    one = torch.rand(4, size, size) < 0.5
    other = torch.rand(4, size, size) < 0.5
    one[:, 0, 0] = other[:, -1, -1] = True
    got = (mean_direction(features, one) * mean_direction(features, other)).sum(dim=1)
    for face in range(4):
        pairs = []
        for y, x in one[face].nonzero().tolist():
            for v, u in other[face].nonzero().tolist():
                a, b = features[face, :, y, x].double(), features[face, :, v, u].double()
                pairs.append(float(a @ b / (a.norm() * b.norm())))
        assert float(got[face]) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


def test_empty_region_has_no_direction():
    region = torch.zeros(1, 4, 4, dtype=torch.bool)
    assert torch.equal(mean_direction(torch.randn(1, 3, 4, 4), region), torch.zeros(1, 3))


@pytest.mark.parametrize("temperature", [0.07, 0.2, 0.7])
@pytest.mark.parametrize("negatives", [1, 2, 17])
def test_flat_nce_is_one_with_the_gradient_of_logsumexp(temperature, negatives):
    torch.manual_seed(negatives)
    positive = (torch.rand(5) * 2 - 1).requires_grad_()
    negative = (torch.rand(5, negatives) * 2 - 1).requires_grad_()
    loss, info = flat_nce(positive, negative, temperature)
    assert torch.equal(loss, torch.ones(5))
    assert not info.requires_grad
    loss.sum().backward()
    gradients = positive.grad, negative.grad
    positive, negative = positive.tolist(), negative.tolist()
    for query in range(5):
        z = [(value - positive[query]) / temperature for value in negative[query]]
        total = sum(math.exp(value) for value in z)
        shares = [math.exp(value) / total / temperature for value in z]
        assert gradients[1][query].tolist() == pytest.approx(shares, rel=1e-4)
        assert float(gradients[0][query]) == pytest.approx(-sum(shares), rel=1e-4)
        e_pos = math.exp(positive[query] / temperature)
        e_neg = sum(math.exp(value / temperature) for value in negative[query])
        assert float(info[query]) == pytest.approx(-math.log(e_pos / (e_pos + e_neg)), rel=1e-4)


def test_flat_nce_without_negatives_is_an_error_and_without_queries_is_empty():
    with pytest.raises(ValueError, match="negative"):
        flat_nce(torch.zeros(2), torch.zeros(2, 0), 0.7)
    loss, info = flat_nce(torch.zeros(0), torch.zeros(0, 3), 0.7)
    assert loss.shape == info.shape == (0,)


@pytest.mark.parametrize("temperature", [0.001, 0.07, 0.7])
def test_contrast_groups_equals_a_naive_loop(temperature):
    torch.manual_seed(0)
    attracted, repelled = torch.rand(4) * 2 - 1, torch.rand(3, 2) * 2 - 1
    got = contrast_groups(attracted, repelled, temperature)
    assert torch.isfinite(got)
    shift = 1 / temperature  # the ratio does not change, and float64 does not overflow
    top = sum(math.exp(a / temperature - shift) for a in attracted.tolist())
    rest = sum(math.exp(r / temperature - shift) for r in repelled.flatten().tolist())
    assert float(got) == pytest.approx(math.log1p(rest / top), rel=1e-4, abs=1e-6)


def test_contrast_groups_of_one_group_is_a_connected_zero():
    values = torch.full((3,), float("nan"), requires_grad=True)
    for pair in ((values, values[:0]), (values[:0], values), (values[:0], values[:0])):
        values.grad = None
        loss = contrast_groups(*pair, 0.7)
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(values.grad, torch.zeros(3))
