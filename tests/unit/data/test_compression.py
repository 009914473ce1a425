import numpy as np
import pytest
from PIL import Image

from comics.data.compression import compress_frames, compress_image, compress_to, crf_of, jpeg


def clip(frames=5, height=48, width=64):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 8), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(coarse).resize((width + frames, height), 3))
    wide = np.repeat(wide[..., None], 3, axis=2)  # grey: colour is subsampled at any quality
    noise = rng.normal(0, 4, wide.shape[:2])[..., None]
    wide = np.clip(wide + noise, 0, 255).astype(np.uint8)
    return [wide[:, i : i + width] for i in range(frames)]


def error(a, b):
    return float(np.mean((np.float64(a) - np.float64(b)) ** 2))


def test_stronger_compression_is_further_from_the_original_in_order():
    frames = clip()
    errors = [
        np.mean([error(a, b) for a, b in zip(frames, compress_frames(frames, crf), strict=True)])
        for crf in (1, 23, 40, 51)
    ]
    assert errors == sorted(errors)
    assert errors[0] < 3
    assert errors[3] > 4 * errors[0]
    # every frame is nearest to its own original
    decoded = compress_frames(frames, 10)
    nearest = [int(np.argmin([error(d, f) for f in frames])) for d in decoded]
    assert nearest == list(range(len(frames)))


@pytest.mark.parametrize("size", [(33, 47), (1, 1), (2, 3), (64, 64)])
def test_odd_sizes_come_back_as_they_were(size):
    image = np.full((*size, 3), 130, np.uint8)
    for crf in (0, 40):
        out = compress_image(image, crf)
        assert out.shape == image.shape
        assert np.abs(out.astype(int) - 130).max() <= 3


def test_the_same_frames_give_the_same_pictures():
    frames = clip()
    for one, two in zip(compress_frames(frames, 30), compress_frames(frames, 30), strict=True):
        np.testing.assert_array_equal(one, two)


def test_levels():
    assert [crf_of(level) for level in ("raw", "c0", "c23", "c51")] == [None, 0, 23, 51]
    for level in ("c52", "23", "low", "c-1", ""):
        with pytest.raises(ValueError, match="compression is"):
            crf_of(level)
    image = clip(1)[0]
    assert compress_to(image, "raw") is image
    np.testing.assert_array_equal(compress_to(image, "c40"), compress_image(image, 40))


def test_jpeg_quality_in_order():
    image = clip(1)[0]
    errors = [error(image, jpeg(image, quality)) for quality in (95, 75, 50, 20, 10)]
    assert errors == sorted(errors)
    with pytest.raises(ValueError, match="1 to 100"):
        jpeg(image, 0)


def test_bad_frames():
    good = np.zeros((8, 8, 3), np.uint8)
    for frames, message in (
        ([], "at least one"),
        ([good, good[:4]], "frame 1 is"),
        ([good.astype(np.float32)], "frame 0 must be uint8"),
        ([good[..., 0]], "frame 0 must be"),
    ):
        with pytest.raises(ValueError, match=message):
            compress_frames(frames, 23)
    with pytest.raises(ValueError, match="crf must be"):
        compress_frames([good], 60)
