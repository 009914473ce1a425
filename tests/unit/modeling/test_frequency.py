import pytest
import torch
from torch.nn import functional

from comics.config import load_config
from comics.modeling.detectors.base import pad_to
from comics.modeling.frequency import FrequencyAttention
from comics.ops.srm import srm_residual


def pyramid(batch, height, width, channels=4):
    return {
        f"p{n}": torch.randn(batch, channels, -(-height // 2**n), -(-width // 2**n))
        for n in (3, 4, 5, 6)
    }


def photo(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def test_attention_is_the_described_network():
    module = FrequencyAttention(channels=(5, 6)).eval()
    images = [photo(40, 50), photo(64, 30, seed=1)]
    got = module.attention(images, (64, 64))
    x = pad_to([srm_residual(image, truncate=3.0) for image in images], (64, 64))
    first, norm1, _, second, norm2, _ = module.convs
    x = functional.relu(norm1(functional.conv2d(x, first.weight, stride=2, padding=1)))
    x = functional.relu(norm2(functional.conv2d(x, second.weight, padding=1)))
    x = torch.stack((x.mean(dim=1), x.max(dim=1).values), dim=1)
    expected = torch.sigmoid(functional.conv2d(x, module.spatial_attention.conv.weight, padding=3))
    assert got.shape == (2, 1, 32, 32)
    torch.testing.assert_close(got, expected)
    assert got.min() > 0
    assert got.max() < 1


@pytest.mark.parametrize("residual", [True, False])
def test_every_level_is_multiplied(residual):
    module = FrequencyAttention(residual=residual).eval()
    features = pyramid(2, 64, 96)
    images = [photo(64, 96), photo(50, 70, seed=1)]
    enhanced = module(features, images, (64, 96))
    attention = module.attention(images, (64, 96))
    assert list(enhanced) == list(features)
    for level, feature in features.items():
        ratio = enhanced[level] / feature - (1 if residual else 0)
        assert enhanced[level].shape == feature.shape
        assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), atol=1e-4)  # one map
        assert ratio.min() > 0
        assert ratio.max() < 1
        # a resized map keeps its mean, up to the weight of the edges
        assert ratio[0].mean().item() == pytest.approx(attention[0].mean().item(), abs=0.05)


def test_a_padded_batch_gives_each_image_what_it_gets_alone():
    module = FrequencyAttention().eval()
    small, large = photo(40, 44), photo(96, 128, seed=1)
    alone = module.attention([small], (64, 64))
    together = module.attention([small, large], (96, 128))[:1]
    torch.testing.assert_close(together[..., :20, :22], alone[..., :20, :22])


def test_padding_draws_no_edge():
    """A flat image in a padded batch has a flat attention inside, up to the reach of the convs."""
    module = FrequencyAttention().eval()
    flat = torch.full((3, 40, 40), 200, dtype=torch.uint8)
    attention = module.attention([flat], (64, 64))[0, 0]
    assert torch.equal(attention[8:20, 8:20], attention[10, 10].expand(12, 12))
    assert torch.equal(attention[20:24, 20:24], attention[10, 10].expand(4, 4))


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (2, 2), (3, 1)])
def test_tiny_images_are_legal(size):
    module = FrequencyAttention().eval()
    enhanced = module(pyramid(1, 32, 32), [photo(*size)], (32, 32))
    assert all(torch.isfinite(feature).all() for feature in enhanced.values())


def test_gradients_reach_features_and_parameters():
    module = FrequencyAttention()
    features = {level: f.requires_grad_() for level, f in pyramid(2, 32, 32).items()}
    enhanced = module(features, [photo(32, 32), photo(32, 30)], (32, 32))
    sum(f.square().sum() for f in enhanced.values()).backward()
    for tensor in [*features.values(), *module.parameters()]:
        assert tensor.grad.abs().sum() > 0


def test_autocast_keeps_the_type_of_the_features():
    module = FrequencyAttention()
    features = {"p3": torch.randn(1, 4, 4, 4, dtype=torch.bfloat16)}
    with torch.autocast("cpu", torch.bfloat16):
        enhanced = module(features, [photo(32, 32)], (32, 32))
    assert enhanced["p3"].dtype == torch.bfloat16


def test_from_config_reads_its_section():
    module = FrequencyAttention.from_config(
        load_config(
            overrides=[
                "MODEL.COMICS.FEA.CHANNELS",
                "[8, 16]",
                "MODEL.COMICS.FEA.TRUNCATE",
                "2.0",
                "MODEL.COMICS.FEA.RESIDUAL",
                "False",
            ]
        )  # fmt: skip
    )
    assert [m.out_channels for m in module.convs if hasattr(m, "out_channels")] == [8, 16]
    assert (module.truncate, module.residual) == (2.0, False)
