import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comics.modeling.faces.guides import guide_embeddings, match_domains, simplex


def degrees_between(a, b):
    return math.degrees(math.acos(float((a.double() @ b.double()).clamp(-1, 1))))


@pytest.mark.parametrize("n", range(1, 13))
@pytest.mark.parametrize("angle", [30.0, 60.0, 90.0, 104.5, 120.0, 150.0, 179.0])
def test_angles_of_the_guides(n, angle):
    guides = guide_embeddings(n, 32, angle)
    assert guides.shape == (1 + n, 32) and guides.dtype == torch.float32
    assert torch.allclose(guides.norm(dim=1), torch.ones(1 + n), atol=1e-6)
    for fake in guides[1:]:
        assert degrees_between(guides[0], fake) == pytest.approx(angle, abs=0.01)
    theta = math.radians(angle)
    for a, b in itertools.combinations(guides[1:], 2):
        cosine = math.cos(theta) ** 2 - math.sin(theta) ** 2 / (n - 1)
        assert float(a @ b) == pytest.approx(cosine, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 12),
    spare=st.integers(0, 8),
    angle=st.floats(1, 180),
    seed=st.integers(0, 2**31),
)
def test_guides_exist_in_the_smallest_space(n, spare, angle, seed):
    guides = guide_embeddings(n, max(n, 2) + spare, angle, seed).double()
    assert torch.allclose(guides.norm(dim=1), torch.ones(1 + n).double(), atol=1e-6)
    expected = torch.full((n,), math.cos(math.radians(angle))).double()
    assert torch.allclose(guides[1:] @ guides[0], expected, atol=1e-5)
    gram = guides[1:] @ guides[1:].T
    off = gram[~torch.eye(n, dtype=torch.bool)]
    assert off.numel() == 0 or float(off.max() - off.min()) < 1e-5


def test_four_domains_at_120_degrees_are_orthogonal():
    guides = guide_embeddings(4, 1792, 120.0)
    gram = guides[1:] @ guides[1:].T
    # phi = 90: docs/methods.md#guidespace-guides
    assert torch.allclose(gram, torch.eye(4), atol=1e-5)


@pytest.mark.parametrize("n", [2, 3, 4, 6])
def test_no_arrangement_at_that_angle_is_further_apart(n):
    """Of 2000 random arrangements none has a larger smallest angle than the simplex."""
    best = float(
        (guide_embeddings(n, 8, 110.0)[1:] @ guide_embeddings(n, 8, 110.0)[1:].T)
        .fill_diagonal_(-1)
        .max()
    )
    theta = math.radians(110.0)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(2000, n, 7, generator=generator)
    directions = directions / directions.norm(dim=2, keepdim=True)
    cosines = math.cos(theta) ** 2 + math.sin(theta) ** 2 * (directions @ directions.mT)
    cosines.diagonal(dim1=1, dim2=2).fill_(-1)
    assert float(cosines.amax(dim=(1, 2)).min()) >= best - 1e-5


@pytest.mark.parametrize("n", range(2, 13))
def test_simplex_sums_to_zero(n):
    corners = simplex(n)
    assert corners.shape == (n, n - 1)
    assert torch.allclose(corners.sum(dim=0), torch.zeros(n - 1).double(), atol=1e-12)


def test_the_orientation_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = guide_embeddings(3, 16, 120.0, seed=5)
    torch.manual_seed(2)
    assert torch.equal(first, guide_embeddings(3, 16, 120.0, seed=5))
    assert not torch.allclose(first, guide_embeddings(3, 16, 120.0, seed=6))


@pytest.mark.parametrize(
    ("n", "dim", "angle"), [(0, 8, 120.0), (9, 8, 120.0), (1, 1, 120.0), (2, 8, 0.0), (2, 8, 181.0)]
)
def test_impossible_spaces_are_refused(n, dim, angle):
    with pytest.raises(ValueError, match=r"domain|dimensions|angle"):
        guide_embeddings(n, dim, angle)


@pytest.mark.parametrize("seed", range(5))
def test_matching_is_the_cheapest_permutation(seed):
    generator = torch.Generator().manual_seed(seed)
    guides = guide_embeddings(4, 8, 120.0)[1:]
    means = torch.randn(4, 8, generator=generator)
    known = torch.rand(4, generator=generator) > 0.3
    found = match_domains(means, known, guides)
    assert sorted(found.tolist()) == [0, 1, 2, 3]

    def cost(permutation):
        return sum(
            float((means[d] - guides[g]).square().sum())
            for d, g in enumerate(permutation)
            if known[d]
        )

    best = min(cost(p) for p in itertools.permutations(range(4)))
    assert cost(found.tolist()) == pytest.approx(best, rel=1e-5)
