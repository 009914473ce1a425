"""When a verdict is unclear."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from comics.config import load_config
from comics.inference.doubt import (
    FAMILIARITY_KEY,
    REASONS,
    DoubtRule,
    Familiarity,
    face_window,
    with_doubts,
)
from comics.ops.picture_statistics import DESCRIPTOR_NAMES, describe_picture
from comics.structures import DOUBTS, Faces

K = len(DESCRIPTOR_NAMES)
IMAGE = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)


def faces(probabilities, box=(20, 20, 70, 80)):
    count = len(probabilities)
    return Faces(
        boxes=torch.tensor([box] * count, dtype=torch.float32).reshape(count, 4),
        image_size=(120, 160),
        labels=(torch.tensor(probabilities) >= 0.6).long(),
        scores=torch.full((count,), 0.9),
        fake_probability=torch.tensor(probabilities),
    )


def names(found):
    return found.doubt_names


def test_near_the_threshold():
    rule = DoubtRule(below=0.2, above=0.1)
    found = with_doubts(faces([0.39, 0.41, 0.6, 0.69, 0.71]), IMAGE, rule, 0.6)
    near = ("near_threshold",)
    assert names(found) == [(), near, near, near, ()]
    assert found.verdicts == ["real", "unclear", "unclear", "unclear", "fake"]
    assert found.labels.tolist() == [0, 0, 1, 1, 1]  # what P(fake) says stays there


def test_small_faces_by_their_shorter_side():
    rule = DoubtRule(min_side=24)
    assert names(with_doubts(faces([0.1], (5, 5, 28, 60)), IMAGE, rule, 0.6)) == [("small",)]
    assert names(with_doubts(faces([0.1], (5, 5, 29, 29)), IMAGE, rule, 0.6)) == [()]


def test_compressed_faces():
    blocks = np.kron(np.random.default_rng(0).integers(0, 255, (15, 20)), np.ones((8, 8)))
    image = np.repeat(blocks[..., None], 3, 2).astype(np.uint8)
    rule = DoubtRule(max_blockiness=3)
    assert names(with_doubts(faces([0.1]), image, rule, 0.6)) == [("compressed",)]
    assert names(with_doubts(faces([0.1]), IMAGE, rule, 0.6)) == [()]


def test_unfamiliar_faces_and_several_reasons():
    mean = describe_picture(face_window(IMAGE, [20, 20, 70, 80]))
    familiar = Familiarity(mean, np.eye(K), limit=1.0)
    rule = DoubtRule(min_side=100, below=0.5, above=0.4, familiarity=familiar)
    assert names(with_doubts(faces([0.5]), IMAGE, rule, 0.6)) == [("near_threshold", "small")]
    night = with_doubts(faces([0.5]), IMAGE // 10, rule, 0.6)
    assert names(night) == [("near_threshold", "small", "unfamiliar")]
    assert set(REASONS) == set(DOUBTS)


def test_the_distance_is_one_standard_deviation_of_each_entry():
    variances = np.arange(1.0, K + 1)
    familiar = Familiarity(np.zeros(K), np.diag(1 / variances), limit=3)
    assert familiar.distance(np.sqrt(variances)) == pytest.approx(1)
    assert familiar.distance(3 * np.sqrt(variances)) == pytest.approx(3)


def test_boxes_beyond_the_picture_have_a_window():
    for box in ([-50, -50, -10, -10], [150, 110, 400, 300], [10, 10, 10, 10], [-9, -9, 999, 999]):
        window = face_window(IMAGE, box)
        assert window.size and window.shape[0] <= 120 and window.shape[1] <= 160


def test_familiarity_survives_a_model_file():
    generator = np.random.default_rng(0)
    root = generator.normal(size=(K, K))
    given = Familiarity(generator.normal(size=K), root @ root.T, limit=2.5)
    read = Familiarity.from_metadata({FAMILIARITY_KEY: given.to_text()}, "model")
    point = generator.normal(size=K)
    assert read.distance(point) == pytest.approx(given.distance(point), rel=1e-4)
    assert read.limit == 2.5
    assert Familiarity.from_metadata({}, "model") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: "[", "unusable"), (lambda t: "{}", "unusable"),
        (lambda t: t.replace("luminance", "brightness"), "another version"),
        (lambda t: json.dumps(json.loads(t) | {"limit": -1}), "not finite"),
        (lambda t: json.dumps(json.loads(t) | {"mean": [float("nan")] * K}), "not finite"),
        (lambda t: json.dumps(json.loads(t) | {"mean": [1.0]}), "another version"),
    ],
)  # fmt: skip
def test_broken_familiarity_is_refused_with_the_file(change, message):
    text = change(Familiarity(np.zeros(K), np.eye(K), 3.0).to_text())
    with pytest.raises(ValueError, match=f"m.safetensors.*{message}"):
        Familiarity.from_metadata({FAMILIARITY_KEY: text}, "m.safetensors")


@pytest.mark.parametrize(
    "values", [{"below": -0.1}, {"above": 1.1}, {"min_side": -1}, {"max_blockiness": -1}]
)
def test_settings_out_of_range(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        DoubtRule(**values)


def test_rule_of_a_configuration():
    words = ["TEST.UNCLEAR.BELOW", "0.1", "TEST.UNCLEAR.MAX_BLOCKINESS", "2.5"]
    rule = DoubtRule.from_config(load_config(overrides=words))
    assert rule == DoubtRule(below=0.1, max_blockiness=2.5, min_side=24)
    assert rule.settings()["max_distance"] is None


def test_faces_carry_their_doubts_through_selection_and_to_devices():
    found = replace(faces([0.1, 0.9]), doubts=torch.tensor([0, 3]))
    assert found[[1]].doubts.tolist() == [3] and found.to("cpu").verdicts == ["real", "unclear"]
    with pytest.raises(ValueError, match="doubts"):
        replace(found, doubts=torch.tensor([0]))
