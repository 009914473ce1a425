"""torchvision's compiled operators give what torchvision's functions do."""

import pytest
import torch
import torchvision

from comics.ops import compiled


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """As in a process that has not imported torchvision."""
    monkeypatch.setattr(compiled, "_library_is_loaded", lambda: True)


def random_boxes(count, generator):
    corners = torch.rand(count, 2, generator=generator) * 40
    return torch.cat((corners, corners + 1 + torch.rand(count, 2, generator=generator) * 20), 1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_pooled_features(aligned, sampling_ratio):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, 12, 16, generator=generator)
    boxes = [random_boxes(4, generator), random_boxes(0, generator)]
    expected = torchvision.ops.roi_align(maps, boxes, 5, 0.25, sampling_ratio, aligned)
    options = {"spatial_scale": 0.25, "sampling_ratio": sampling_ratio, "aligned": aligned}
    assert torch.equal(compiled.roi_align(maps, boxes, 5, **options), expected)
    rows = torch.cat((torch.ones(3, 1), random_boxes(3, generator)), 1)
    expected = torchvision.ops.roi_align(maps, rows, 5, 0.25, sampling_ratio, aligned)
    assert torch.equal(compiled.roi_align(maps, rows, 5, **options), expected)


def test_features_that_are_trained_are_torchvisions():
    maps = torch.rand(1, 2, 8, 8, requires_grad=True)
    compiled.roi_align(maps, [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], 2).sum().backward()
    assert maps.grad is not None and maps.grad.sum() == pytest.approx(2 * 4)


# Below and above the number from which torchvision goes through class by class
@pytest.mark.parametrize("count", [0, 1, 300, 1500])
def test_suppression(count):
    generator = torch.Generator().manual_seed(count)
    boxes, scores = random_boxes(count, generator), torch.rand(count, generator=generator)
    labels = torch.randint(0, 2, (count,), generator=generator)
    expected = torchvision.ops.batched_nms(boxes, scores, labels, 0.5)
    assert torch.equal(compiled.batched_nms(boxes, scores, labels, 0.5), expected)
    assert len(expected) < max(count, 2)
