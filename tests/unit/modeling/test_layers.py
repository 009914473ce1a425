"""Deformable convolution against a naive loop; frozen norms folded against unfolded ones."""

import math

import pytest
import torch
import torch.utils._python_dispatch

from comics.modeling.layers import ConvNorm, DeformableConv, DeformableConvNorm, StridedConv


def bilinear(plane, y, x):
    """Value of [h, w] between cells; 0 beyond the map."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                total += weight * plane[row, column].item()
    return total


def naive(layer, x, stride=1):
    """[C, h, w] to [O, h / stride, w / stride] in float64, one sample at a time."""
    predicted = layer.offset(x[None])[0].double()
    weight = layer.conv.weight.double()
    out = torch.zeros(weight.shape[0], *predicted.shape[1:], dtype=torch.float64)
    if layer.conv.bias is not None:
        out += layer.conv.bias.double()[:, None, None]
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            for k in range(9):
                dy, dx = predicted[2 * k, i, j].item(), predicted[2 * k + 1, i, j].item()
                y, column = stride * i + k // 3 - 1 + dy, stride * j + k % 3 - 1 + dx
                share = 1.0
                if len(predicted) == 27:
                    share = 1 / (1 + math.exp(-predicted[18 + k, i, j].item()))
                for c in range(len(x)):
                    value = share * bilinear(x[c].double(), y, column)
                    out[:, i, j] += weight[:, c, k // 3, k % 3] * value
    return out


@pytest.mark.parametrize("kind", ["DCNv1", "DCNv2"])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_deformable_convolution_equals_a_naive_loop(kind, bias):
    torch.manual_seed(0)
    layer = DeformableConv(2, 3, kind=kind, bias=bias)
    torch.nn.init.normal_(layer.offset.weight, std=0.3)
    torch.nn.init.normal_(layer.offset.bias)
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(layer(x[None])[0].double(), naive(layer, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_a_deformable_convolution_of_a_backbone_equals_the_loop(stride):
    torch.manual_seed(0)
    layer = DeformableConvNorm(2, 3, stride=stride, norm="BN", activation=True).eval()
    plain = ConvNorm(2, 3, 3, stride=stride, norm="BN", activation=True).eval()
    plain.load_state_dict(layer.state_dict(), strict=False)  # pretrained weights fit
    x = torch.randn(2, 5, 6)
    half = torch.nn.functional.relu(plain.norm(plain.conv(x[None]) / 2))
    torch.testing.assert_close(layer(x[None]), half)
    torch.nn.init.normal_(layer.offset.weight, std=0.3)
    torch.nn.init.normal_(layer.offset.bias)
    expected = layer.norm(naive(layer, x, stride)[None].float()).clamp(min=0)
    torch.testing.assert_close(layer(x[None]), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_deformable_convolution_starts_on_the_grid():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 7)
    plain, modulated = DeformableConv(3, 4), DeformableConv(3, 4, kind="DCNv2")
    torch.testing.assert_close(plain(x), plain.conv(x))
    torch.testing.assert_close(modulated(x), modulated.conv(x) / 2)  # sample weights of 1/2


def test_deformable_convolution_under_autocast_and_backward():
    torch.manual_seed(0)
    layer = DeformableConv(3, 4, kind="DCNv2")
    x = torch.randn(2, 3, 6, 7, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(torch.nn.functional.conv2d(x, torch.eye(3)[:, :, None, None]))
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    for tensor in (x, *layer.parameters()):
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="DCNv3"):
        DeformableConv(3, 4, kind="DCNv3")


def test_a_map_of_one_cell_has_exact_gradients_under_bfloat16_on_the_cpu():
    torch.manual_seed(0)
    conv = StridedConv(8, 8, 3, stride=2, padding=1)
    x = torch.randn(2, 8, 1, 1)
    exact = torch.autograd.grad(conv(x).square().sum(), list(conv.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x)
    assert out.dtype == torch.bfloat16
    # The output's own rounding is left: less than one part in 100
    found = torch.autograd.grad(out.float().square().sum(), list(conv.parameters()))
    for one, other in zip(found, exact, strict=True):
        assert (one - other).abs().max() < 0.01 * other.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        larger = conv(torch.randn(1, 8, 4, 6))
    assert larger.shape == (1, 8, 2, 3)
    assert conv.state_dict().keys() == {"weight", "bias"}


class Counting(torch.utils._python_dispatch.TorchDispatchMode):
    """How often each operation runs."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def frozen_layer():
    torch.manual_seed(0)
    layer = ConvNorm(3, 4, 3, norm="FrozenBN", activation=True)
    layer.norm.running_mean.normal_()
    layer.norm.running_var.uniform_(0.5, 2)
    layer.norm.weight.normal_()
    layer.norm.bias.normal_()
    return layer


def unfolded(layer, x):
    return torch.nn.functional.relu(layer.norm(layer.conv(x)))


def test_a_frozen_norm_is_folded_once():
    layer, x = frozen_layer(), torch.randn(2, 3, 5, 5)
    for _ in range(2):
        with torch.no_grad():
            layer(x)
    with Counting() as counted, torch.inference_mode():
        layer(x)
    assert counted.names == ["conv2d", "relu_"]
    with Counting() as counted:  # in training only what has a gradient is computed again
        layer(x)
    assert counted.names.count("mul") == 1 and "rsqrt" not in counted.names


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_fold_follows_every_change(mode):
    layer, x = frozen_layer(), torch.randn(2, 3, 5, 5)
    other = frozen_layer()
    with torch.no_grad():
        other.conv.weight.normal_()
        other.norm.running_var.uniform_(0.5, 2)

    def agrees():
        with mode():
            for _ in range(3):  # the third uses what the second kept
                torch.testing.assert_close(layer(x), unfolded(layer, x))

    agrees()
    layer.load_state_dict(other.state_dict())
    agrees()
    with torch.no_grad():
        layer.norm.running_mean += 1
        layer.conv.weight *= 2
    agrees()
    layer.conv.weight = torch.nn.Parameter(torch.randn_like(layer.conv.weight))
    agrees()
    layer.double()
    x = x.double()
    agrees()
    layer.to(memory_format=torch.channels_last)
    agrees()


def test_a_fold_kept_by_inference_mode_serves_training():
    """Frozen stages: their folded weights are constants of a step's graph."""
    layer, x = frozen_layer().requires_grad_(False), torch.randn(1, 3, 5, 5, requires_grad=True)
    with torch.inference_mode():
        for _ in range(3):
            layer(x.detach())
    layer(x).sum().backward()
    wanted = x.grad.clone()
    x.grad = None
    unfolded(layer, x).sum().backward()
    torch.testing.assert_close(wanted, x.grad)


def test_a_gradient_through_a_frozen_norm_is_the_unfolded_one():
    layer, x = frozen_layer(), torch.randn(2, 3, 5, 5)
    for _ in range(2):
        layer.zero_grad()
        layer(x).square().sum().backward()
        found = layer.conv.weight.grad.clone()
        layer.zero_grad()
        unfolded(layer, x).square().sum().backward()
        torch.testing.assert_close(found, layer.conv.weight.grad, rtol=1e-4, atol=1e-3)
        with torch.no_grad():
            layer.conv.weight -= 0.01 * found
