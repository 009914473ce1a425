import math

import pytest
import torch

from comics.ops.contrastive import (
    info_nce,
    mean_or_zero,
    soft_cross_entropy,
    supervised_contrastive,
    zero_of,
)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.04, 0.5, 2.0])
@pytest.mark.parametrize(("queries", "negatives"), [(1, 1), (3, 5), (4, 40)])
def test_info_nce_is_the_formula(queries, negatives, temperature):
    positive, negative = randn(queries).tanh(), randn(queries, negatives, seed=1).tanh()
    found = info_nce(positive, negative, temperature)
    for q in range(queries):
        top = math.exp(positive[q] / temperature)
        rest = sum(math.exp(n / temperature) for n in negative[q])
        assert found[q].item() == pytest.approx(-math.log(top / (top + rest)), rel=1e-9)


def test_info_nce_without_negatives_is_an_exact_connected_zero():
    positive = randn(3).requires_grad_()
    loss = info_nce(positive, torch.zeros(3, 0), 0.1)
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(positive.grad, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("extra", [0, 4])
@pytest.mark.parametrize("shape", [(1, 2), (5, 7), (8, 20)])
def test_supervised_contrastive_is_the_formula(shape, extra, temperature):
    similarity, negatives = randn(*shape).tanh(), randn(shape[0], extra, seed=1).tanh()
    candidates = randn(*shape, seed=2) > -1
    positives = candidates & (randn(*shape, seed=3) > 0.3)
    loss, usable = supervised_contrastive(
        similarity, positives, candidates, temperature, negatives if extra else None
    )
    for q in range(shape[0]):
        chosen = positives[q].nonzero().flatten().tolist()
        assert usable[q] == bool(chosen)
        if not chosen:
            assert loss[q] == 0
            continue
        bottom = sum(
            math.exp(s / temperature)
            for s, c in zip(similarity[q], candidates[q], strict=True)
            if c
        ) + sum(math.exp(n / temperature) for n in negatives[q])
        terms = [math.log(math.exp(similarity[q, p] / temperature) / bottom) for p in chosen]
        assert loss[q].item() == pytest.approx(-sum(terms) / len(terms), rel=1e-9)


def test_supervised_contrastive_has_finite_gradients_without_any_candidate():
    similarity = randn(2, 2).requires_grad_()
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    loss, usable = supervised_contrastive(similarity, nothing, nothing, 0.1)
    loss.sum().backward()
    assert not usable.any()
    assert torch.equal(similarity.grad, torch.zeros_like(similarity))


def test_supervised_contrastive_and_info_nce_have_the_gradient_of_their_value():
    candidates = ~torch.eye(4, 6, dtype=torch.bool)
    positives = candidates & (torch.arange(6) % 2 == 0)
    similarity, negative = randn(4, 6).requires_grad_(), randn(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s, n: supervised_contrastive(s, positives, candidates, 0.5, n)[0],
        (similarity, negative),
    )
    positive = randn(4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, n: info_nce(p, n, 0.5), (positive, negative))


@pytest.mark.parametrize("size", [1, 2, 50])
def test_soft_cross_entropy_is_entropy_plus_divergence(size):
    target, logits = (3 * randn(4, size)).requires_grad_(), randn(4, size, seed=1).requires_grad_()
    found = soft_cross_entropy(target, logits)
    for q in range(4):
        p = [math.exp(v) for v in target[q].detach().log_softmax(0)]
        value = -sum(a * b.item() for a, b in zip(p, logits[q].log_softmax(0), strict=True))
        assert found[q].item() == pytest.approx(value, rel=1e-9, abs=1e-12)
    found.sum().backward()
    assert target.grad is None
    expected = logits.softmax(1) - target.softmax(1)
    assert torch.allclose(logits.grad, expected, atol=1e-12)


def test_zeros_are_connected_even_to_infinities():
    value = torch.tensor([math.inf, math.nan], requires_grad=True)
    (zero_of(value) + mean_or_zero(value[:0])).backward()
    assert torch.equal(value.grad, torch.zeros(2))
    assert mean_or_zero(torch.tensor([1.0, 3.0])) == 2
