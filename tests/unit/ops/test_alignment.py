"""A picture laid over a changed copy of it; the map is known, so what is found can be checked."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from comics.data.images import read_image
from comics.ops.alignment import align, lay_over

PHOTO = Path(__file__).resolve().parents[3] / "tools" / "lab" / "demo_photo" / "pilots_3faces.jpg"


@pytest.fixture(scope="module")
def photo():
    image = read_image(PHOTO)
    height, width = image.shape[:2]
    return cv2.resize(image, (width * 700 // max(image.shape), height * 700 // max(image.shape)))


def place(matrix, points):
    placed = np.c_[points, np.ones(len(points))] @ np.asarray(matrix).T
    return placed[:, :2] / placed[:, 2:]


@pytest.mark.parametrize(
    "matrix",
    [
        np.array([[1, 0, -60], [0, 1, -35], [0, 0, 1]]),  # a crop
        np.array([[0.6, 0, -20], [0, 0.6, 10], [0, 0, 1]]),  # a smaller crop
        np.array([[0.97, -0.2, 60], [0.2, 0.97, -40], [0, 0, 1]]),  # turned
        np.array([[1, 0.05, 0], [0.02, 1.03, 0], [1e-4, 5e-5, 1]]),  # seen from the side
    ],
    ids=["crop", "smaller", "turned", "side"],
)
def test_the_map_is_found(photo, matrix):
    changed = cv2.warpPerspective(photo, matrix.astype(float), (500, 450), flags=cv2.INTER_AREA)
    changed = cv2.imdecode(cv2.imencode(".jpg", changed, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 1)
    found = align(photo, changed)
    assert found is not None and 12 <= found.agreeing <= found.matches
    back = place(np.linalg.inv(matrix), np.array([[100, 100], [400, 100], [250, 350]]))
    assert place(found.matrix, back) == pytest.approx(place(matrix, back), abs=0.7)
    laid, covered = lay_over(photo, found, (450, 500))
    assert laid.shape == (450, 500, 3) and covered.mean() > 0.5
    error = np.abs(laid.astype(int) - changed)[covered]
    assert np.median(error) < 6 and error.mean() < 12


def test_a_larger_original_is_laid_over_as_sharp_as_the_copy(photo):
    small = cv2.resize(photo, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    found = align(photo, small)
    assert found is not None
    laid, covered = lay_over(photo, found, small.shape[:2])
    assert np.abs(laid.astype(int) - small)[covered].mean() < 4


@pytest.mark.parametrize("kind", ["noise", "flat", "other", "tiny", "mirrored"])
def test_what_does_not_match_is_said(photo, kind):
    generator = np.random.default_rng(0)
    other = {
        "noise": generator.integers(0, 255, (300, 400, 3), dtype=np.uint8),
        "flat": np.full((300, 400, 3), 90, np.uint8),
        "other": cv2.GaussianBlur(
            generator.integers(0, 255, (300, 400, 3), dtype=np.uint8), (9, 9), 3
        ),
        "tiny": np.zeros((1, 1, 3), np.uint8),
        "mirrored": np.ascontiguousarray(photo[:, ::-1]),
    }[kind]
    assert align(photo, other) is None
    assert align(other, photo) is None
