import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from comics.modeling.faces.encoder import build_encoder
from comics.modeling.faces.small_encoder import HALF_RANGE, RESIDUAL_LIMIT
from comics.ops.srm import SRM_FILTERS


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return build_encoder("SmallResNet").eval()


@pytest.mark.parametrize("size", [32, 64, 96])
def test_map_and_feature(encoder, size):
    assert encoder.map_size(size) == (size // 8, size // 8)
    x = torch.rand(2, 3, size, size) * 2 - 1
    assert encoder.forward_map(x).shape == (2, encoder.num_features, size // 8, size // 8)
    assert encoder(x).shape == (2, encoder.num_features)


def test_residuals_are_those_of_the_brightness(encoder):
    crop = torch.randint(0, 256, (1, 3, 16, 20)).double()
    found = encoder._residual(((crop - HALF_RANGE) / HALF_RANGE).float())[0].double()
    brightness = crop[0].mean(dim=0).numpy()
    for (rows, divisor), residual in zip(SRM_FILTERS, found, strict=True):
        exact = correlate(brightness, np.array(rows) / divisor, mode="mirror")
        expected = (exact / RESIDUAL_LIMIT).clip(-1, 1)
        assert np.abs(residual.numpy() - expected).max() < 1e-4


def test_weights_are_loaded_whole_or_not_at_all(encoder):
    state = {name: tensor.clone() + 1 for name, tensor in encoder.state_dict().items()}
    assert not any("filters" in name for name in state)
    fresh = build_encoder("SmallResNet")
    fresh.load_weights(state, "a.safetensors")
    assert all(torch.equal(state[name], value) for name, value in fresh.state_dict().items())
    del state["layers.0.weight"]
    with pytest.raises(ValueError, match="a.safetensors does not fit.*layers.0.weight"):
        fresh.load_weights(state, "a.safetensors")
