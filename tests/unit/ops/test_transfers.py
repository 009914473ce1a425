import numpy as np
import pytest
import torch
import torchvision.ops

from comics.ops.compiled import _moved_apart, batched_nms
from comics.ops.transfers import on_device, on_host

CPU = torch.device("cpu")


def test_what_the_host_knows_has_the_type_that_torch_gives_it():
    assert on_device([1, 2], CPU).dtype == torch.int64
    assert on_device((0.5, 2.0), CPU).dtype == torch.float32
    assert on_device([1, 2], CPU, torch.float64).dtype == torch.float64
    assert on_device(np.arange(3), CPU).tolist() == [0, 1, 2]


def test_copies_on_the_host_keep_shapes_and_order():
    flags = torch.tensor([[True, False], [False, True], [True, True]])
    numbers = torch.tensor([7, -3])
    empty = torch.zeros(0, 4, dtype=torch.int64)
    found = on_host(flags, empty, numbers)
    assert [one.shape for one in found] == [(3, 2), (0, 4), (2,)]
    assert found[0].tolist() == [[1, 0], [0, 1], [1, 1]]
    assert found[2].tolist() == [7, -3]
    numbers += 1
    assert found[2].tolist() == [7, -3]


@pytest.mark.parametrize("count", [0, 1, 40])
def test_suppression_for_a_gpu_is_torchvisions(count):
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * 50
    boxes = torch.cat((corner, corner + 10 + 20 * torch.rand(count, 2, generator=generator)), 1)
    scores = torch.rand(count, generator=generator)
    group = torch.randint(0, 3, (count,), generator=generator)
    wanted = torchvision.ops.batched_nms(boxes, scores, group, 0.5)
    assert torch.equal(batched_nms(boxes, scores, group, 0.5), wanted)
    if count:
        apart = _moved_apart(boxes, group)
        assert torch.equal(torchvision.ops.nms(apart, scores, 0.5), wanted)
        assert count == 1 or len(wanted) < count
