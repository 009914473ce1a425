import pytest
import torch
from torch import nn

from comics.modeling.momentum import MomentumEncoder


def query_encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1))


def change(module, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1)
            else:
                tensor.add_(seed)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999, 1.0])
def test_parameters_average_exactly_and_buffers_are_copied(momentum):
    query = query_encoder()
    key = MomentumEncoder(query, momentum)
    expected = {name: p.detach().double() for name, p in query.named_parameters()}
    for step in range(3):
        change(query, step + 1)
        key.update(query)
        for name, parameter in query.named_parameters():
            expected[name] = momentum * expected[name] + (1 - momentum) * parameter.double()
    for name, parameter in key.encoder.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-5, atol=1e-7)
    for mine, theirs in zip(key.encoder.buffers(), query.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_it_is_a_copy_that_is_never_trained():
    query = query_encoder()
    key = MomentumEncoder(query, 0.9)
    x = torch.randn(2, 2, 4, 4, requires_grad=True)
    assert not key(x).requires_grad
    assert not any(p.requires_grad for p in key.parameters())
    assert all(p.requires_grad for p in query.parameters())
    before = key(x)
    change(query, 1)
    assert torch.equal(key(x), before)


def test_it_stays_in_evaluation_mode_so_a_key_depends_on_its_image_only():
    parent = nn.ModuleList([MomentumEncoder(query_encoder(), 0.9)]).train()
    key = parent[0]
    assert not any(module.training for module in key.modules())
    x = torch.randn(3, 2, 4, 4)
    torch.testing.assert_close(key(x)[:1], key(x[:1]))
    assert torch.equal(key.encoder[1].running_mean, torch.zeros(3))


@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_momentum_out_of_range_is_an_error(momentum):
    with pytest.raises(ValueError, match="momentum"):
        MomentumEncoder(query_encoder(), momentum)
