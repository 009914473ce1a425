"""P(fake) after treatments of the picture, face by face."""

import numpy as np
import pytest
import torch

from comics.inference.stability import TREATMENTS, measure_stability, treat
from comics.structures import Faces


def faces_at(boxes, probabilities, size):
    p = torch.tensor(probabilities)
    return Faces(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), size, (p >= 0.5).long(),
        torch.full((len(p),), 0.9), fake_probability=p,
    )  # fmt: skip


def noise(height, width):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_treatments_do_what_their_names_say():
    image = noise(61, 40)
    assert treat(image, "half_size").shape == (30, 20, 3)
    errors = [np.abs(treat(image, n).astype(int) - image).mean() for n in ("jpeg_75", "jpeg_50")]
    assert 0 < errors[0] < errors[1]
    assert treat(noise(1, 1), "half_size").shape == (1, 1, 3)
    with pytest.raises(KeyError):
        treat(image, "jpeg_10")


def test_every_face_keeps_its_own_figures():
    """Faces come in another order, at half the size, and with one lost or one more."""
    size = (100, 200)
    left, right = [10, 10, 50, 50], [120, 20, 180, 90]
    found = faces_at([left, right], [0.9, 0.2], size)
    answers = iter([
        faces_at([right, left], [0.25, 0.8], size),
        faces_at([left, [100, 0, 110, 10]], [0.7, 0.99], size),
        faces_at([[60, 10, 90, 45], [5, 5, 25, 25]], [0.3, 0.6], (50, 100)),
    ])  # fmt: skip
    seen = []

    def predict(images):
        seen.extend(image.shape[:2] for image in images)
        return [next(answers)]

    told = measure_stability(predict, noise(*size), found)
    assert seen == [size, size, (50, 100)]
    assert [list(one) for one in told] == [list(TREATMENTS)] * 2
    assert list(told[0].values()) == pytest.approx([0.8, 0.7, 0.6])
    assert told[1]["jpeg_75"] == pytest.approx(0.25) and told[1]["jpeg_50"] is None
    assert told[1]["half_size"] == pytest.approx(0.3)


def test_a_box_counts_for_one_face():
    size = (100, 100)
    found = faces_at([[0, 0, 40, 40], [4, 0, 44, 40]], [0.9, 0.1], size)
    told = measure_stability(
        lambda _: [faces_at([[0, 0, 40, 40]], [0.5], size)], noise(*size), found
    )
    assert told[0]["jpeg_50"] == 0.5 and told[1]["jpeg_50"] is None


def test_nothing_is_looked_at_without_a_face():
    def predict(images):
        raise AssertionError("no face, so nothing to measure")

    assert measure_stability(predict, noise(9, 9), Faces.empty((9, 9), with_masks=False)) == []
    found = faces_at([[0, 0, 5, 5]], [0.9], (9, 9))
    none = Faces.empty((9, 9), with_masks=False)
    told = measure_stability(lambda _: [none], noise(9, 9), found)
    assert told == [dict.fromkeys(TREATMENTS)]
