"""Tables of protocols: means over seeds, paired intervals by groups."""

import math

import numpy as np
import pytest

from comics.evaluation.classification import auc
from comics.evaluation.predictions import Predictions
from comics.evaluation.protocol_tables import (
    ProtocolTable,
    at_level,
    figures,
    paired_difference,
    published_rows,
)


def predictions(labels, scores, **columns):
    return Predictions(np.array(labels), np.array(scores, float), columns, "p.csv")


def scored(scores, labels, groups):
    return at_level(
        predictions(labels, scores, group=groups, path=[f"{i}.png" for i in range(len(labels))]),
        "face",
    )


def test_faces_belong_to_their_group_then_their_video_then_themselves():
    columns = {
        "video": ["a", "a", "b", "c"],
        "group": ["g", "g", "g", ""],
        "path": ["0", "1", "2", "3"],
    }
    faces = at_level(predictions([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], **columns), "face")
    assert faces.clusters[0] == faces.clusters[2] != faces.clusters[3]
    assert len(set(faces.names)) == 4
    videos = at_level(predictions([0, 0, 1, 1], [0.1, 0.3, 0.8, 0.9], **columns), "video")
    assert videos.scores.tolist() == [0.2, 0.8, 0.9] and videos.labels.tolist() == [0, 1, 1]
    assert len(set(videos.clusters)) == 2
    alone = at_level(predictions([0, 1], [0.1, 0.9]), "face")
    assert len(set(alone.clusters)) == 2


def test_a_paired_interval_is_narrower_than_the_spread_of_either():
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 150)
    groups = [str(i // 6) for i in range(300)]
    hard = np.repeat(rng.normal(0, 2, 50), 6)  # a group is hard for both models
    base = labels + hard + rng.normal(0, 1, 300)
    better = base + 0.5 * labels
    squash = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    first, second = (scored(squash(s), labels, groups) for s in (better, base))
    mean, low, high = paired_difference([first], [second], samples=300)
    assert mean == pytest.approx(auc(labels, better) - auc(labels, base))
    assert 0 < low < mean < high
    # Two models that are drawn alone differ by chance more than that
    alone = [
        auc(labels[rows], base[rows])
        for rows in (
            np.concatenate([np.flatnonzero(np.array(groups) == str(g)) for g in drawn])
            for drawn in rng.integers(0, 50, (300, 50))
        )
    ]
    assert high - low < np.quantile(alone, 0.975) - np.quantile(alone, 0.025)
    assert paired_difference([first], [first], samples=50) == (0.0, 0.0, 0.0)


def test_differences_are_of_pairs_of_one_seed():
    labels, groups = [0, 1] * 20, [str(i) for i in range(40)]
    rng = np.random.default_rng(1)
    runs = [scored(rng.random(40), labels, groups) for _ in range(4)]
    mean, *_ = paired_difference(runs[:2], runs[2:], samples=20)
    expected = [
        auc(one.labels, one.scores) - auc(other.labels, other.scores)
        for one, other in zip(runs[:2], runs[2:], strict=True)
    ]
    assert mean == pytest.approx(np.mean(expected))


def test_other_faces_are_not_compared_and_one_class_has_no_interval():
    first = scored([0.1, 0.9], [0, 1], ["a", "b"])
    other = at_level(predictions([0, 1], [0.1, 0.9], path=["x", "y"]), "face")
    with pytest.raises(ValueError, match="same faces"):
        paired_difference([first], [other])
    reals = scored([0.1, 0.9], [0, 0], ["a", "b"])
    assert all(math.isnan(value) for value in paired_difference([reals], [reals], samples=10))


def test_figures_by_name():
    table = predictions([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])
    found = figures(table, "face", ["AUC", "accuracy_real", "accuracy_fake"])
    assert found == {"AUC": 0.75, "accuracy_real": 0.5, "accuracy_fake": 0.5}
    with pytest.raises(ValueError, match="no figure 'TPR'; there are .*AUC"):
        figures(table, "face", ["TPR"])


def test_the_table_is_the_papers_layout():
    table = ProtocolTable(
        rows=[("DF", "CE"), ("DF", "Ours|x")],
        columns=["DF", "F2F"],
        metrics=["AUC", "EER"],
        published=published_rows({"DF / CE": [99, None, 50.5, 1], "Other": [1, 2, 3, 4]}),
        baseline="CE",
    )
    table.values = {
        ("DF", "CE", "DF", "AUC"): [0.9, 0.92],
        ("DF", "CE", "DF", "EER"): [0.1],
        ("DF", "Ours|x", "DF", "AUC"): [0.95, math.nan],
    }
    table.differences = {("DF", "Ours|x", "DF"): (0.03, -0.01, 0.07)}
    lines = table.markdown().splitlines()
    assert lines[0] == "| Train | Method | DF AUC | DF EER | F2F AUC | F2F EER |"
    assert lines[2] == "| DF | CE | 91.00 ± 1.41 | 10.00 | – | – |"
    assert lines[3] == r"| DF | Ours\|x | – | – | – | – |"
    assert r"| DF | Ours\|x | +3.0 [-1.0, +7.0] | – |" in lines
    assert "| DF | CE | 99 | – | 50.5 | 1 |" in lines and "|  | Other | 1 | 2 | 3 | 4 |" in lines
    assert table.csv().splitlines()[1] == "DF,CE,DF,AUC,0,0.9"
