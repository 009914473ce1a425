import itertools
import math
import struct

import numpy as np
import pytest

from comics.data.orientation import exif_orientation, matrix_orientation, upright

PICTURE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
# EXIF 2.3, 4.6.4: what is to be done with the stored pixels
EXPECTED = {
    1: PICTURE,
    2: PICTURE[:, ::-1],
    3: PICTURE[::-1, ::-1],
    4: PICTURE[::-1],
    5: PICTURE.transpose(1, 0, 2),
    6: np.rot90(PICTURE, -1),
    7: np.rot90(PICTURE, 2).transpose(1, 0, 2),
    8: np.rot90(PICTURE, 1),
}


def moved(matrix):
    """A picture whose pixels went where a matrix (a, b, c, d) sends them; by the definition."""
    a, b, c, d = matrix
    places = {
        (a * x + c * y, b * x + d * y): PICTURE[y, x] for y, x in np.ndindex(PICTURE.shape[:2])
    }
    rows, columns = sorted({y for _, y in places}), sorted({x for x, _ in places})
    return np.array([[places[x, y] for x in columns] for y in rows])


@pytest.mark.parametrize("orientation", EXPECTED)
def test_upright(orientation):
    found = upright(PICTURE, orientation)
    assert np.array_equal(found, EXPECTED[orientation])
    assert found.flags.c_contiguous


@pytest.mark.parametrize("scale", [1, 65536])
@pytest.mark.parametrize(("p", "q"), itertools.product((-1, 1), repeat=2))
@pytest.mark.parametrize("turned", [False, True])
def test_a_matrix_is_the_orientation_that_moves_pixels_alike(p, q, turned, scale):
    matrix = (0, p, q, 0) if turned else (p, 0, 0, q)
    a, b, c, d = (scale * value for value in matrix)
    found = matrix_orientation((a, b, 0, c, d, 0, 96 * scale, 0, 1 << 30))
    assert np.array_equal(upright(PICTURE, found), moved(matrix))


@pytest.mark.parametrize("degrees", [-8, 8, 80, 95, 175, 265])
@pytest.mark.parametrize("mirror", [1, -1])
def test_an_odd_angle_or_shear_is_the_nearest(degrees, mirror):
    turn = math.radians(degrees)
    a, b, c, d = (mirror * math.cos(turn), mirror * math.sin(turn), -math.sin(turn), math.cos(turn))
    nearest = round(degrees / 90) * math.pi / 2
    expected = tuple(
        round(value) for value in (mirror * math.cos(nearest), mirror * math.sin(nearest),
                                   -math.sin(nearest), math.cos(nearest))
    )  # fmt: skip
    for shear in (0, 0.2):
        found = matrix_orientation((a, b, 0, c + shear * a, d + shear * b, 0, 0, 0, 1))
        assert np.array_equal(upright(PICTURE, found), moved(expected))


@pytest.mark.parametrize(
    "matrix",
    [(0,) * 9, (1, 0, 0, 0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 1, 0, 0, 0, 1),
     (1, 1, 0, 1, 1, 0, 0, 0, 1),
     (math.nan, 0, 0, 0, 1, 0, 0, 0, 1), (math.inf, 0, 0, 0, 1, 0, 0, 0, 1)],
)  # fmt: skip
def test_a_singular_matrix_is_ignored(matrix):
    assert matrix_orientation(matrix) == 1


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_exif(order, prefix):
    mark = b"II" if order == "<" else b"MM"

    def block(value, kind=3, tag=0x0112):
        form = {3: "H2x", 4: "I", 1: "B3x"}[kind]
        head = struct.pack(order + "HIH", 42, 8, 2) + struct.pack(order + "HHII", 0x10F, 2, 4, 0)
        return prefix + mark + head + struct.pack(order + "HHI" + form, tag, kind, 1, value)

    for value in range(1, 9):
        assert {exif_orientation(block(value, kind)) for kind in (1, 3, 4)} == {value}
    for broken in (block(0), block(9), block(6, tag=0x0113), block(6)[:-6], prefix + b"II", b""):
        assert exif_orientation(broken) == 1
