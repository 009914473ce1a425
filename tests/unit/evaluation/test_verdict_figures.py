"""What users meet, against figures worked out by hand, scikit-learn, and the definition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from comics.config import get_cfg
from comics.evaluation.calibration import Calibration, store_choice
from comics.evaluation.verdict_figures import (
    FaceRows,
    by_method,
    by_size,
    face_rows,
    score_for,
    threshold_for,
    verdict_figures,
)
from comics.modeling.weights import read_weights, save_weights
from comics.ops.masks import bitmap_to_rle


def square(x, y, side, size=(80, 200)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[y : y + side, x : x + side] = True
    return {"bbox": [x, y, side, side], "area": side * side, "segmentation": bitmap_to_rle(mask)}


def truth():
    faces = [
        {"id": 1, "image_id": 1, "category_id": 0, "iscrowd": 0, **square(0, 0, 40)},
        {"id": 2, "image_id": 1, "category_id": 1, "iscrowd": 0, "method": "swap",
         **square(100, 0, 20)},
        {"id": 3, "image_id": 2, "category_id": 1, "iscrowd": 0, "method": "blend",
         **square(0, 0, 50)},
        {"id": 4, "image_id": 2, "category_id": 0, "iscrowd": 1, **square(100, 0, 60)},
    ]  # fmt: skip
    return {
        "images": [{"id": i, "height": 80, "width": 200, "file_name": f"{i}.jpg"} for i in (1, 2)],
        "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
        "annotations": faces,
    }


def verdict(image_id, probability, place):
    return {
        "image_id": image_id,
        "category_id": int(probability >= 0.5),
        "score": 0.9,
        "fake_probability": probability,
        **{k: v for k, v in place.items() if k != "area"},
    }


def test_faces_and_verdicts_are_joined():
    verdicts = [
        verdict(1, 0.3, square(0, 0, 40)),
        verdict(2, 0.8, square(5, 0, 50)),
        verdict(2, 0.6, square(110, 10, 40)),  # in the crowd: no false face
        verdict(1, 0.6, square(150, 30, 40)),
    ]
    rows = face_rows(truth(), verdicts)
    assert rows.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(rows.fake_probability, [0.3, np.nan, 0.8])
    assert rows.sides.tolist() == [40, 20, 50]
    assert rows.methods.tolist() == ["", "swap", "blend"]
    assert rows.photos.tolist() == [0, 0, 1]
    assert rows.mask_iou == pytest.approx([1, 0, 45 / 55])
    assert (rows.false_scores.tolist(), rows.photo_count) == ([0.9], 2)
    assert rows.scores.tolist() == [0.9, 0, 0.9]


def drawn(seed=0, count=200):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    probability = np.clip(0.3 * labels + rng.uniform(0, 0.7, count), 0, 1)
    probability[rng.random(count) < 0.2] = np.nan
    methods = np.where(labels == 1, rng.choice(["a", "b", "c"], count), "")
    return FaceRows(
        labels=labels,
        fake_probability=probability,
        scores=np.where(np.isnan(probability), 0, rng.uniform(0.2, 1, count)),
        sides=rng.uniform(10, 120, count),
        mask_iou=np.where(np.isnan(probability), 0, rng.uniform(0.5, 1, count)),
        photos=rng.integers(0, 60, count),
        methods=methods,
        false_scores=np.linspace(0.2, 0.8, 7),
        photo_count=60,
    )


def test_figures_are_what_they_say():
    rows = drawn()
    found = ~np.isnan(rows.fake_probability)
    figures = verdict_figures(rows, 0.6, ["b"])
    assert figures["faces found"].value == pytest.approx(found.mean())
    assert figures["false faces a photo"].value == pytest.approx(7 / 60)
    reals, fakes = found & (rows.labels == 0), found & (rows.labels == 1)
    called = rows.fake_probability >= 0.6
    assert figures["real faces called forged"].value == pytest.approx(called[reals].mean())
    assert figures["forged faces called forged"].value == pytest.approx(called[fakes].mean())
    seen, unseen = (
        found & (rows.methods != "b"),
        found & ((rows.labels == 0) | (rows.methods == "b")),
    )
    for name, chosen in (("", found), (", seen forgeries", seen), (", unseen forgeries", unseen)):
        expected = roc_auc_score(rows.labels[chosen], rows.fake_probability[chosen])
        figure = figures[f"AUC{name}"]
        assert figure.value == pytest.approx(expected)
        assert figure.low < figure.value < figure.high
        assert figure.count == rows.labels[chosen].sum()
    assert figures["mask IoU"].value == pytest.approx(rows.mask_iou[found].mean())


def test_groups_hold_what_their_names_say():
    rows = drawn()
    assert sum(len(part.labels) for part in by_size(rows).values()) == len(rows.labels)
    assert (by_size(rows)["24 to 48 px"].sides < 48).all()
    for name, part in by_method(rows).items():
        assert set(part.methods.tolist()) == {"", name}
        assert (part.labels == 0).sum() == (rows.labels == 0).sum()


def test_one_class_has_no_auc():
    rows = drawn()
    figures = verdict_figures(rows[rows.labels == 0], 0.5)
    assert np.isnan(figures["AUC"].value)
    assert figures["AUC"].text() == "-"
    assert figures["forged faces called forged"].text() == "-"


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=40),
    st.floats(0, 1),
)
def test_threshold_is_the_least_that_keeps_the_rate(probabilities, rate):
    count = len(probabilities)
    values = np.array(probabilities)
    rows = FaceRows(
        np.zeros(count, int),
        values,
        np.ones(count),
        np.full(count, 50.0),
        np.zeros(count),
        np.arange(count),
        np.array([""] * count),
        np.zeros(0),
        count,
    )
    threshold = threshold_for(rows, rate)
    if threshold < 1:  # at 1 a certain face is called forged whatever the rate
        assert (values >= threshold).mean() <= rate
    lower = values[values < threshold]
    if len(lower):
        assert (values >= lower.max()).mean() > rate


def test_score_is_the_least_that_keeps_false_faces_rare():
    rows = drawn()  # 7 false faces in 60 photos
    score = score_for(rows, 3 / 60)
    assert len(rows.shown_from(score).false_scores) == 3
    assert score == pytest.approx(0.5)  # the fourth highest; not it, but what is above it
    assert score_for(rows, 1.0) == 0
    assert score_for(rows, 0.0) == pytest.approx(0.8)


def test_faces_below_the_score_are_as_if_they_were_not_found():
    rows = drawn()
    shown = rows.shown_from(0.6)
    np.testing.assert_array_equal(shown.found, rows.found & (rows.scores >= 0.6))
    assert (shown.mask_iou[~shown.found] == 0).all()
    np.testing.assert_array_equal(
        shown.fake_probability[shown.found], rows.fake_probability[shown.found]
    )
    assert verdict_figures(shown, 0.5)["faces found"].value < rows.found.mean()


def test_no_real_face_gives_no_threshold():
    rows = drawn()
    with pytest.raises(ValueError, match="no real face"):
        threshold_for(rows[rows.labels == 1], 0.05)


def test_the_choice_is_stored_and_weights_stay(tmp_path):
    source, output = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    state = {"weight": torch.arange(6.0).reshape(2, 3).half()}
    save_weights(source, state, get_cfg(), {"git_revision": "abc"})
    before = source.read_bytes()
    store_choice(source, output, Calibration(1.7, 0.2, 0.1, 0.6, 0.5, 321),
                 {"SCORE_THRESH": 0.375, "FAKE_THRESH": 0.625}, "val of x")  # fmt: skip
    assert source.read_bytes() == before
    written = read_weights(output)
    assert torch.equal(written.state["weight"], state["weight"])
    assert written.metadata["temperature"] == "1.7"
    assert written.metadata["temperature_fitted_on"] == "val of x"
    assert written.metadata["git_revision"] == "abc"
    assert "FAKE_THRESH: 0.625" in written.metadata["config"]
    assert "SCORE_THRESH: 0.375" in written.metadata["config"]
