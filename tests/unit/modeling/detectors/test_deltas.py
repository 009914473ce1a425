"""Against torchvision's coder and sampler, whose arithmetic and draws these must have."""

import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder

from comics.modeling.detectors.deltas import DeltaCoder
from comics.modeling.detectors.mask_rcnn.sampling import BalancedSampler


def boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    return torch.cat((corner, corner + 1 + 80 * torch.rand(count, 2, generator=generator)), dim=1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_deltas_are_torchvisions(weights):
    ours, theirs = DeltaCoder(weights), BoxCoder(weights)
    truth, anchors = boxes(9, 0), boxes(9, 1)
    assert torch.equal(ours.encode_single(truth, anchors), theirs.encode_single(truth, anchors))
    deltas = torch.randn(9, 12, generator=torch.Generator().manual_seed(2)) * 4  # three classes
    found = ours.decode_single(deltas, anchors)
    torch.testing.assert_close(found, theirs.decode_single(deltas, anchors), rtol=1e-6, atol=1e-4)
    back = ours.decode_single(ours.encode_single(truth, anchors), anchors)
    torch.testing.assert_close(back, truth, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("sizes", [(6, 0.5), (40, 0.25), (1, 1.0)])
def test_the_draw_is_torchvisions(sizes):
    generator = torch.Generator().manual_seed(3)
    labels = [torch.randint(-1, 2, (n,), generator=generator).float() for n in (30, 1, 7)]
    labels.append(torch.full((5,), -1.0))  # nothing to draw from
    torch.manual_seed(4)
    wanted = BalancedPositiveNegativeSampler(*sizes)(labels)
    torch.manual_seed(4)
    found = BalancedSampler(*sizes)(labels)
    for ours, theirs in zip(found, wanted, strict=True):
        assert [one.tolist() for one in ours] == [one.tolist() for one in theirs]
