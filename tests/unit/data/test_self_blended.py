"""Self-blended images: ranges of what is drawn, and what the pair shares."""

from collections import Counter

import numpy as np
import pytest

from comics.data.forgery import describe_face
from comics.data.forgery.self_blended import (
    LANDMARK_SHAPES,
    SHAPES,
    SelfBlending,
    change_colour,
    draw_hull,
    moved_source,
    self_blended_pair,
)

OFF = {
    "rgb_prob": 0.0, "hue": 0.0, "saturation": 0.0, "value": 0.0, "brightness": 0.0,
    "contrast": 0.0, "downscale": (1,),
}  # fmt: skip
SIDE = 112


def face(seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(40, 200, (SIDE, SIDE, 3)).astype(np.uint8)
    return describe_face(image, [16, 12, 96, 104])


def plain_changes(colour, count=600, **on):
    """Mean changes of a flat patch that was not sharpened, which may darken it."""
    ranges, changes = SelfBlending(**{**OFF, **on}), []
    patch = np.full((8, 8, 3), 0, np.float32) + np.array(colour, np.float32)
    for seed in range(count):
        changed, record = change_colour(patch, np.random.default_rng(seed), ranges)
        if "downscale" in record:
            changes.append(changed.mean((0, 1)) - colour)
    assert len(changes) > count / 3
    return np.array(changes)


def test_rgb_shifts_by_up_to_twenty_levels():
    changes = plain_changes((120, 110, 100), rgb_prob=1.0)
    assert 18 < np.abs(changes).max() <= 20.5
    assert abs(changes.mean()) < 2  # 4 deviations of the mean of so many uniform draws
    assert np.ptp(changes, axis=1).max() > 25  # each colour on its own
    assert np.abs(plain_changes((120, 110, 100))).max() < 1e-3


def test_rgb_shifts_as_often_as_it_says():
    changes = plain_changes((120, 110, 100), rgb_prob=0.3)
    share = (np.abs(changes).max(1) > 1e-3).mean()
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(changes))


def test_brightness_and_contrast_stay_within_a_tenth():
    assert 24 < np.abs(plain_changes((120, 120, 120), brightness=0.1)).max() <= 25.6
    assert 11 < np.abs(plain_changes((120, 120, 120), contrast=0.1)).max() <= 12.1
    assert 11 < np.abs(plain_changes((120, 120, 120), value=0.1)).max() <= 12.1


def test_saturation_moves_colours_and_leaves_grey():
    assert np.abs(plain_changes((120, 120, 120), saturation=0.3)).max() < 0.01
    changes = plain_changes((200, 150, 100), saturation=0.3)
    # The smallest colour is max * (1 - saturation): 100 = 200 * (1 - 0.5), by 0.3 * 0.5 * 200
    assert 27 < np.abs(changes[:, 2]).max() <= 30.1
    assert np.abs(changes[:, 0]).max() < 0.01


def test_one_in_two_is_downscaled_the_others_sharpened():
    records = [
        change_colour(face().image.astype(np.float32), np.random.default_rng(seed), SelfBlending())[
            1
        ]
        for seed in range(300)
    ]
    factors = Counter(record.get("downscale") for record in records)
    assert set(factors) == {None, 2, 4}
    assert abs(factors[None] - 150) < 4 * np.sqrt(75)
    sharpened = [record["sharpen"] for record in records if "sharpen" in record]
    assert 0.2 <= min(sharpened) < 0.22 and 0.48 < max(sharpened) <= 0.5


def test_the_source_moves_by_a_few_per_cent():
    """Measured on a ramp: where its level of the centre comes from."""
    one = face()
    ramp = np.zeros((SIDE, SIDE, 3), np.float32)
    ramp[..., 0] = np.arange(SIDE)
    ramp[..., 1] = np.arange(SIDE)[:, None]
    middle = (SIDE - 1) / 2
    dx, dy, scales = [], [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        moved, _, _ = moved_source(ramp, one.mask, one.keypoints, rng, SelfBlending())
        scale = 48 / (moved[56, 80, 0] - moved[56, 32, 0])
        scales.append(scale)
        dx.append((middle - moved[55:57, 55:57, 0].mean()) * scale / SIDE)
        dy.append((middle - moved[55:57, 55:57, 1].mean()) * scale / SIDE)
    assert 0.027 < np.abs(dx).max() < 0.0305
    assert 0.0135 < np.abs(dy).max() < 0.0155
    assert 0.948 < min(scales) < 0.96 and 1.04 < max(scales) < 1.055


def test_real_and_blend_share_all_but_the_mask():
    one, record = face(), []
    for seed in range(60):
        pair = self_blended_pair(
            one.image, one.mask, one.keypoints, np.random.default_rng(seed), SelfBlending()
        )
        outside = pair.soft == 0
        np.testing.assert_array_equal(pair.real[outside], pair.blend[outside])
        assert outside.any() and pair.soft.max() <= pair.record["ratio"] + 1e-6
        differs = (pair.real != pair.blend).any(-1)
        assert differs[pair.soft > 0.1].mean() > 0.5
        unchanged = bool((pair.real == one.image).all())
        assert unchanged == (pair.record["changed"] == "source")
        record.append(pair.record)
    changed = Counter(entry["changed"] for entry in record)
    assert min(changed.values()) > 30 - 4 * np.sqrt(15)
    assert {entry["ratio"] for entry in record} == {0.25, 0.5, 0.75, 1.0}
    assert {entry["poisson"] for entry in record} == {True, False}
    assert {entry["shape"] for entry in record} == set(SHAPES)


def test_the_seed_decides():
    one = face()
    first, again, other = (
        self_blended_pair(
            one.image, one.mask, one.keypoints, np.random.default_rng(seed), SelfBlending()
        )
        for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first.blend, again.blend)
    assert first.record == again.record != other.record


def test_masks_differ_in_shape_and_size():
    one = face()
    shares = {shape: [] for shape in SHAPES}
    for seed in range(200):
        hull, shape = draw_hull(one.mask, one.keypoints, np.random.default_rng(seed))
        shares[shape].append(hull.sum() / one.mask.sum())
    assert all(len(values) > 15 for values in shares.values())
    means = {shape: np.mean(values) for shape, values in shares.items()}
    assert means["lower"] < means["inner"] < means["region"]
    # Grown and shrunk: the same shape comes in many sizes
    assert np.ptp(shares["region"]) > 0.2


def test_landmarks_give_hulls_of_their_own():
    angles = np.linspace(0, np.pi, 17)
    jaw = np.stack([56 - 40 * np.cos(angles), 56 + 46 * np.sin(angles)], axis=1)
    rest = np.random.default_rng(0).uniform(40, 72, (51, 2))
    landmarks = np.vstack([jaw, rest])
    one = describe_face(face().image, [16, 12, 96, 104], landmarks=landmarks)
    drawn = Counter(
        draw_hull(one.mask, one.keypoints, np.random.default_rng(seed), landmarks)[1]
        for seed in range(200)
    )
    assert set(drawn) == {*SHAPES, *LANDMARK_SHAPES}


@pytest.mark.parametrize("box", [[0, 0, 6, 6], [-60, -60, 30, 30], [60, 60, 200, 200]])
def test_small_and_cut_faces(box):
    one = describe_face(face().image, box)
    for seed in range(20):
        pair = self_blended_pair(
            one.image, one.mask, one.keypoints, np.random.default_rng(seed), SelfBlending()
        )
        assert np.isfinite(pair.soft).all()
        np.testing.assert_array_equal(pair.real[pair.soft == 0], pair.blend[pair.soft == 0])


@pytest.mark.parametrize(
    "change",
    [
        {"rgb_prob": 1.5}, {"ratios": ()}, {"ratios": (0.0,)}, {"downscale": ()}, {"scale": 0.0},
        {"shift": (-0.1, 0.0)},
    ],
)  # fmt: skip
def test_bad_ranges(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        SelfBlending(**change)
