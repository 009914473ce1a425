import pytest
import torch
from torch.nn import functional

from comics.config import load_config
from comics.modeling.detectors.base import pad_to
from comics.modeling.frequency import FrequencyAttention
from comics.ops.similarity import cosine
from comics.ops.srm import relative_residual, srm_residual

BOTH = ("image", "features")
SOURCES = [("image",), BOTH]


def pyramid(batch, height, width, channels=4):
    return {
        f"p{n}": torch.randn(batch, channels, -(-height // 2**n), -(-width // 2**n))
        for n in (3, 4, 5, 6)
    }


def photo(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def image_attention(module, images, padded_size):
    """The one map of the image alone, of half its size."""
    return module.spatial_attention(module.convs(module.residuals(images, padded_size)))


def test_attention_is_the_described_network():
    module = FrequencyAttention(channels=(5, 6)).eval()
    images = [photo(40, 50), photo(64, 30, seed=1)]
    got = image_attention(module, images, (64, 64))
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
    attention = image_attention(module, images, (64, 96))
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
    alone = image_attention(module, [small], (64, 64))
    together = image_attention(module, [small, large], (96, 128))[:1]
    torch.testing.assert_close(together[..., :20, :22], alone[..., :20, :22])


def test_padding_draws_no_edge():
    """A flat image in a padded batch has a flat attention inside, up to the reach of the convs."""
    module = FrequencyAttention().eval()
    flat = torch.full((3, 40, 40), 200, dtype=torch.uint8)
    attention = image_attention(module, [flat], (64, 64))[0, 0]
    assert torch.equal(attention[8:20, 8:20], attention[10, 10].expand(12, 12))
    assert torch.equal(attention[20:24, 20:24], attention[10, 10].expand(4, 4))


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("size", [(1, 1), (1, 20), (2, 2), (3, 1)])
def test_tiny_images_are_legal(size, sources):
    module = FrequencyAttention(sources=sources).eval()
    enhanced = module(pyramid(1, 32, 32), [photo(*size)], (32, 32))
    assert all(torch.isfinite(feature).all() for feature in enhanced.values())


@pytest.mark.parametrize("sources", SOURCES)
def test_gradients_reach_features_and_parameters(sources):
    module = FrequencyAttention(sources=sources)
    features = {level: f.requires_grad_() for level, f in pyramid(2, 32, 32).items()}
    enhanced = module(features, [photo(32, 32), photo(32, 30)], (32, 32))
    sum(f.square().sum() for f in enhanced.values()).backward()
    for tensor in [*features.values(), *module.parameters()]:
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("sources", SOURCES)
def test_autocast_keeps_the_type_of_the_features(sources):
    module = FrequencyAttention(sources=sources)
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
                "True",
                "MODEL.COMICS.FEA.SOURCES",
                "['image', 'features']",
            ]
        )  # fmt: skip
    )
    assert [m.out_channels for m in module.convs if hasattr(m, "out_channels")] == [8, 16]
    assert (module.truncate, module.residual, module.reads_features) == (2.0, True, True)
    plain = FrequencyAttention.from_config(load_config())
    assert (plain.residual, plain.reads_features) == (False, False)  # the paper: A * F


@pytest.mark.parametrize("sources", [(), ("features",), ("features", "image"), ("photo",)])
def test_other_sources_are_refused(sources):
    with pytest.raises(ValueError, match=r"FEA\.SOURCES must be \['image'\] or \['image', 'feat"):
        FrequencyAttention(sources=sources)


def test_attention_of_features_is_the_described_network():
    """Per level: mean and maximum of the image's branch, resized; the level's residuals beside."""
    module = FrequencyAttention(channels=(5, 6), sources=BOTH).eval()
    images, features = [photo(40, 50), photo(64, 30, seed=1)], pyramid(2, 64, 64)
    enhanced = module(features, images, (64, 64))
    branch = module.convs(module.residuals(images, (64, 64)))
    pooled = torch.stack((branch.mean(dim=1), branch.max(dim=1).values), dim=1)
    kernel = module.spatial_attention.conv.weight
    assert kernel.shape == (1, 5, 7, 7)
    for level, feature in features.items():
        small = functional.interpolate(
            pooled, size=feature.shape[-2:], mode="bilinear", antialias=True
        )
        joined = torch.cat((small, relative_residual(feature)), dim=1)
        attention = torch.sigmoid(functional.conv2d(joined, kernel, padding=3))
        torch.testing.assert_close(enhanced[level], feature * attention)


def test_the_features_own_high_frequencies_move_their_attention():
    module = FrequencyAttention(sources=BOTH).eval()
    images, smooth = [photo(64, 64)], torch.ones(1, 4, 8, 8)
    noisy = smooth + torch.randn(1, 4, 8, 8)
    residuals = module.residuals(images, (64, 64))
    maps = [module.attention({"p3": one}, residuals)["p3"] for one in (smooth, noisy, 5 * noisy)]
    assert (maps[0] - maps[1]).abs().max() > 0.01
    torch.testing.assert_close(maps[1], maps[2])  # a factor on the features changes nothing


class Judge(torch.nn.Module):
    """A class for each image from one level: its features are the image's colours, averaged over
    cells, so that only the attention sees what is finer.
    """

    def __init__(self, **options):
        super().__init__()
        self.attention = FrequencyAttention(channels=(8, 8), **options)
        self.head = torch.nn.Conv2d(3, 1, 1)

    def forward(self, images, weigh=True):
        features = {"p3": functional.avg_pool2d(images, 8) / 128}
        residuals = self.attention.residuals(images, (32, 32))
        maps = self.attention.attention(features, residuals)["p3"]
        weighed = self.attention.weigh(features, residuals) if weigh else features
        return self.head(weighed["p3"]).mean(dim=(1, 2, 3)), maps


def cases(seed, count=32):
    """Grey images of one mean; those of class 1 have noise of mean 0 in every 8 x 8 cell."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    noise = torch.randn(count, 1, 32, 32, generator=generator) * 8
    means = functional.avg_pool2d(noise, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    grey = torch.full((count, 3, 32, 32), 128.0)
    return grey + (noise - means) * labels[:, None, None, None], labels.float()


def test_trained_from_step_0_the_attention_tells_classes_apart_that_only_residues_do():
    """The gate's spread over classes grows, and the logits depend on it."""
    torch.manual_seed(0)
    judge = Judge()
    optimizer = torch.optim.Adam(judge.parameters(), 0.02)
    images, labels = cases(1)

    def spread():
        _, maps = judge(images)
        mean = maps.detach().mean(dim=(1, 2, 3))
        return (mean[labels == 1].mean() - mean[labels == 0].mean()).abs().item()

    judge.train()
    before = spread()
    for step in range(60):
        batch, wanted = cases(100 + step)
        logits, _ = judge(batch)
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(logits, wanted).backward()
        optimizer.step()
    judge.eval()
    logits, _ = judge(images)
    assert ((logits > 0) == (labels == 1)).float().mean() > 0.95
    assert spread() > max(5 * before, 0.2)
    without, _ = judge(images, weigh=False)  # the features alone are the same for all
    assert without.std() < 1e-3 < logits.std()
    assert cosine(logits - logits.mean(), labels - labels.mean()) > 0.9
