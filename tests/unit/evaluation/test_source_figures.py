import numpy as np
import pytest

from comics.evaluation.source_figures import (
    MIN_REALS,
    SourceRows,
    by_group,
    coverage_curve,
    method_figures,
    source_figures,
    temperature_of_all,
    threshold_of_all,
    unclear_below,
)


def rows(*cells):
    """Each cell: source, condition, label, method, scores."""
    return SourceRows.of(
        [
            {
                "label": label,
                "fake_probability": float(score),
                "source": source,
                "condition": condition,
                "method": method,
                "group": f"{source}{number}",
            }
            for source, condition, label, method, scores in cells
            for number, score in enumerate(scores)
        ]  # fmt: skip
    )


def test_the_threshold_holds_on_the_worst_source_and_condition():
    calm, wild = np.linspace(0.0, 0.4, 100), np.linspace(0.3, 0.9, 100)
    measured = rows(
        ("a", "clean", 0, "real", calm),
        ("b", "clean", 0, "real", calm),
        ("b", "jpeg:50", 0, "real", wild),
        ("b", "jpeg:50", 1, "x", np.ones(100)),  # forged faces have no say
        ("few", "clean", 0, "real", np.full(MIN_REALS - 1, 0.99)),
    )
    threshold, needed = threshold_of_all(measured, 0.05)
    assert set(needed) == {("a", "clean"), ("b", "clean"), ("b", "jpeg:50")}
    assert threshold == needed["b", "jpeg:50"] > needed["a", "clean"]
    for part in measured.parts().values():
        real = part.fake_probability[part.labels == 0]
        if len(real) >= MIN_REALS:
            assert (real >= threshold).mean() <= 0.05
    assert (wild >= threshold).sum() == 5  # no higher than need be
    with pytest.raises(ValueError, match="no source"):
        threshold_of_all(measured[measured.sources == "few"], 0.05)


def test_sources_count_alike_for_the_temperature():
    # One source is sure and right in 900 of 1,000 faces, the other in 60 of 100
    def cell(name, count, right):
        good, bad = np.full(right, 0.9), np.full(count - right, 0.1)
        own = np.concatenate([good, bad])
        return [(name, "clean", 1, "x", own), (name, "clean", 0, "real", 1 - own)]

    large = temperature_of_all(rows(*cell("a", 1000, 900)))
    assert large.temperature == pytest.approx(1.0, abs=0.1)  # 0.9 is right nine times of ten
    both = temperature_of_all(rows(*cell("a", 1000, 900), *cell("b", 100, 60)))
    # 75 % right on average: logit(0.9) / T = logit(0.75), so T = 2
    assert both.temperature == pytest.approx(2.0, abs=0.2)


def test_figures_of_a_source_and_of_its_methods():
    measured = rows(
        ("a", "clean", 0, "real", [0.1, 0.2, 0.3, 0.7]),
        ("a", "clean", 1, "good", [0.05, 0.15]),
        ("a", "clean", 1, "bad", [0.8, 0.9]),
    )
    figures = source_figures(measured, 0.5)
    assert figures["real called forged"].value == 0.25
    assert figures["forged called forged"].value == 0.5
    # of 16 pairs, 8 with the bad ones and 1 with the good ones are in order
    assert figures["AUC"].value == pytest.approx(9 / 16)
    assert figures["AUC"].low <= 9 / 16 <= figures["AUC"].high
    methods = method_figures(measured, 0.5)
    assert methods["bad"]["AUC"].value == 1.0
    assert methods["good"]["AUC"].value == pytest.approx(1 / 8)


def test_groups_become_their_means():
    measured = SourceRows.of(
        [
            {
                "label": label,
                "fake_probability": p,
                "source": "a",
                "condition": "clean",
                "method": "m",
                "group": group,
            }
            for label, p, group in [(1, 0.2, "x"), (1, 0.6, "x"), (0, 0.1, "x"), (0, 0.5, "y")]
        ]  # fmt: skip
    )
    clips = by_group(measured)
    assert len(clips) == 3
    assert sorted(clips.fake_probability.tolist()) == pytest.approx([0.1, 0.4, 0.5])
    assert clips.labels[np.argmax(clips.fake_probability == 0.4)] == 1


def test_a_source_without_forged_faces_has_no_auc():
    figures = source_figures(rows(("a", "clean", 0, "real", [0.1, 0.9])), 0.5)
    assert figures["AUC"].text() == "-" and figures["forged called forged"].count == 0
    assert figures["real called forged"].value == 0.5


def test_the_unclear_band_takes_no_more_than_its_share_of_any_source():
    even, low = np.linspace(0.005, 0.995, 100), np.linspace(0.0, 0.2, 100)
    measured = rows(("a", "clean", 0, "real", even), ("b", "clean", 0, "real", low))
    below = unclear_below(measured, 0.8, 0.1)
    shares = [
        ((part.fake_probability >= 0.8 - below) & (part.fake_probability < 0.8)).mean()
        for part in measured.parts().values()
    ]
    assert max(shares) == pytest.approx(0.1) and below == pytest.approx(0.1, abs=0.02)
    figures = source_figures(measured[measured.sources == "a"], 0.8, below)
    assert figures["unclear"].value == pytest.approx(0.1)
    assert figures["real called forged"].value == pytest.approx(0.2)
    above = source_figures(measured[measured.sources == "a"], 0.8, 0.0, 0.1)
    assert above["unclear"].value == pytest.approx(0.1)
    assert above["real called forged"].value == pytest.approx(0.1)
    assert unclear_below(measured, 0.8, 1.0) == pytest.approx(0.8)  # all that is under it


def test_error_falls_as_fewer_faces_are_called():
    """By hand: threshold 0.8; the band of a share takes the faces nearest below it."""
    reals, fakes = np.arange(0.0, 1.0, 0.05), np.arange(0.05, 1.05, 0.05)
    measured = rows(("a", "clean", 0, "real", reals), ("a", "clean", 1, "x", fakes))
    none, band = coverage_curve(measured, 0.8 - 1e-9, (0.0, 0.25))
    assert none.coverage == 1.0 and none.below < 0.05 < band.below
    # 4 of 20 reals reach 0.8; 15 of 20 forged faces (0.05 to 0.75) do not
    assert none.error == none.worst_error == pytest.approx((4 / 20 + 15 / 20) / 2)
    # 0.55 to 0.75 are five values of both: 10 of 40 faces are unclear
    assert band.coverage == pytest.approx(0.75)
    assert band.error == pytest.approx((4 / 15 + 10 / 15) / 2)
