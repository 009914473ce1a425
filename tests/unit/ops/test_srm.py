import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from comics.ops.srm import SRM_FILTERS, relative_residual, srm_residual

WIDE = 1e9  # no truncation


def impulse_response(index):
    rows, divisor = SRM_FILTERS[index]
    return torch.tensor(rows, dtype=torch.float64) / divisor


def test_filters_are_the_published_high_pass_ones():
    kb, kv, horizontal = (impulse_response(i) for i in range(3))
    assert kb[1:4, 1:4].tolist() == [[-0.25, 0.5, -0.25], [0.5, -1, 0.5], [-0.25, 0.5, -0.25]]
    assert kv[2].tolist() == [-2 / 12, 8 / 12, -1, 8 / 12, -2 / 12]
    assert torch.equal(kv, kv.T)
    assert horizontal.nonzero().tolist() == [[2, 1], [2, 2], [2, 3]]
    for kernel in (kb, kv, horizontal):
        assert kernel.sum() == pytest.approx(0)
        assert kernel[2, 2] == -1
        assert torch.equal(kernel, kernel.flip(0, 1))  # so convolution equals correlation


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (7, 9)])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_flat_image_has_no_residual(size, value):
    image = torch.full((3, *size), value, dtype=torch.uint8)
    assert torch.equal(srm_residual(image, truncate=3.0), torch.zeros(3, *size))


@pytest.mark.parametrize("colour", [0, 1, 2])
def test_impulse_gives_the_filter(colour):
    image = torch.zeros(3, 9, 11)
    image[colour, 4, 5] = 1
    residual = srm_residual(image, truncate=WIDE)
    for index in range(3):
        expected = torch.zeros(9, 11, dtype=torch.float64)
        expected[2:7, 3:8] = impulse_response(index)
        torch.testing.assert_close(residual[index].double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (2, 6), (3, 3), (4, 8), (13, 10)])
def test_equals_scipy_with_mirrored_edges(size):
    generator = np.random.default_rng(sum(size))
    image = generator.integers(0, 256, (3, *size)).astype(np.float64)
    residual = srm_residual(torch.from_numpy(image), truncate=WIDE)
    for index in range(3):
        kernel = impulse_response(index).numpy()
        expected = sum(convolve(channel, kernel, mode="mirror") for channel in image)
        np.testing.assert_allclose(residual[index].numpy(), expected, atol=1e-3)


def test_truncation_and_dtypes():
    image = torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8)
    residual = srm_residual(image, truncate=3.0)
    assert residual.dtype == torch.float32
    assert residual.abs().max() == 3.0
    assert torch.equal(residual, srm_residual(image.float(), truncate=WIDE).clamp(-3, 3))


def test_autocast_does_not_cost_precision():
    image = torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = srm_residual(image, truncate=3.0)
    assert torch.equal(inside, srm_residual(image, truncate=3.0))


@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 4), (3, 0, 4), (2, 2, 3, 4, 4)])
def test_malformed_image_is_named(shape):
    with pytest.raises(ValueError, match=r"must be \[3, H, W\]"):
        srm_residual(torch.zeros(shape), truncate=3.0)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (12, 7)])
def test_a_batch_of_one_size_gives_what_each_image_gives(size):
    images = torch.randint(0, 256, (3, 3, *size), dtype=torch.uint8)
    single = [srm_residual(image, truncate=3.0) for image in images]
    assert torch.equal(srm_residual(images, truncate=3.0), torch.stack(single))


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (5, 7)])
def test_relative_residual_equals_loops_over_channels_and_cells(size):
    """Mean magnitude of each channel's residual over that of the features in the 5 x 5 window."""
    generator = np.random.default_rng(sum(size))
    feature = generator.normal(size=(2, 4, *size))
    found = relative_residual(torch.from_numpy(feature))
    for image in range(2):
        box = np.ones((5, 5)) / 25
        window = sum(convolve(np.abs(c), box, mode="mirror") for c in feature[image]) / 4
        for index in range(3):
            kernel = impulse_response(index).numpy()
            total = sum(np.abs(convolve(c, kernel, mode="mirror")) for c in feature[image]) / 4
            np.testing.assert_allclose(found[image, index].numpy(), total / window, 1e-4, 1e-6)


def test_relative_residual_of_flat_and_empty_features_is_zero_with_a_finite_gradient():
    for value in (0.0, 3.0):
        feature = torch.full((1, 3, 6, 6), value, requires_grad=True)
        residual = relative_residual(feature)
        residual.sum().backward()
        torch.testing.assert_close(residual, torch.zeros(1, 3, 6, 6), rtol=0, atol=1e-5)
        assert torch.isfinite(feature.grad).all()


def test_relative_residual_is_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert relative_residual(torch.randn(1, 2, 4, 4).bfloat16()).dtype == torch.float32
