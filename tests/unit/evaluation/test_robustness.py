"""Corruptions of the grid: the size stays, harm grows, noise depends on the image alone."""

import numpy as np
import pytest

from comics.evaluation.robustness import (
    CLEAN,
    Condition,
    RobustnessTable,
    condition_names,
    conditions,
    h264,
    measure_grid,
    shrink_and_enlarge,
)


def photo(height=61, width=83):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3))
    smooth = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def distance(image, other):
    return float(np.abs(image.astype(int) - other).mean())


def test_the_grid_has_what_the_papers_ask_for():
    titles = {condition.title for condition in conditions()}
    assert {"clean", "jpeg 75", "jpeg 50", "jpeg 20", "jpeg 10", "h264 23", "h264 40"} <= titles
    assert {"gaussian_blur 5", "gaussian_noise 1", "resize 0.25", "brighten 3"} <= titles
    assert conditions(["h264"])[0].name == CLEAN


@pytest.mark.parametrize("name", condition_names())
def test_every_corruption_keeps_the_size_and_repeats_itself(name):
    image = photo()
    before = image.copy()
    worst = conditions([name], [5])[-1]
    result = worst(image)
    assert result.shape == image.shape and result.dtype == np.uint8
    assert distance(result, image) > 0 and (image == before).all()
    assert (worst(image) == result).all()


@pytest.mark.parametrize("name", ["jpeg", "h264", "resize", "gaussian_blur", "gaussian_noise"])
def test_harm_grows_along_the_grid(name):
    image = photo(128, 160)
    harm = [distance(c(image), image) for c in conditions([name])[1:]]
    assert harm == sorted(harm) and harm[0] > 0


def test_noise_is_another_in_another_image():
    noise = Condition("gaussian_noise", 3)
    grey = np.full((20, 20, 3), 128, dtype=np.uint8)
    other = grey.copy()
    other[0, 0] = 127
    first, second = (noise(image).astype(int)[1:] for image in (grey, other))
    assert (first != second).mean() > 0.5


@pytest.mark.parametrize("size", [(17, 23), (16, 16), (2, 2), (33, 64)])
def test_h264_of_any_size(size):
    grey = np.full((*size, 3), 100, dtype=np.uint8)
    assert distance(h264(grey, 23), grey) < 3
    assert shrink_and_enlarge(grey, 0.25).shape == grey.shape


def test_one_condition_that_fails_is_reported():
    def measure(condition):
        if condition.name == "jpeg" and condition.level == 20:
            raise ValueError("no image")
        return {"AP": 0.5 - condition.level / 1000}

    table = measure_grid(measure, conditions(["jpeg"]))
    assert table.faults == ["jpeg 20 could not be measured: no image"]
    assert table.series("AP")["jpeg"][0] == (75, pytest.approx(0.425))
    heading, rows = table.rows(["AP"])
    assert heading == ["Corruption", "Level", "AP", "change"]
    assert rows[1] == ["jpeg", "75", "42.5", "-7.5"] and rows[3] == ["jpeg", "20", "n/a", "n/a"]
    assert "note: jpeg 20 could not be measured" in table.markdown(["AP"])


def test_without_the_clean_figure_there_is_nothing_to_compare():
    def fail(condition):
        raise ValueError("no image at all")

    with pytest.raises(ValueError, match="no image at all"):
        measure_grid(fail, conditions(["jpeg"]))


@pytest.mark.parametrize(("names", "levels"), [(["jpg"], [1]), (["jpeg"], [6]), (["jpeg"], [])])
def test_unknown_corruptions_and_severities(names, levels):
    with pytest.raises(ValueError, match="no corruption named 'jpg'|severities are among"):
        conditions(names, levels)


def test_an_empty_table_can_be_shown():
    assert RobustnessTable([], [], []).rows(["AP"])[1] == []
