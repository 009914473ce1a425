import numpy as np
import torch

from comics.inference.heat_maps import OPACITY, draw_heat_maps
from comics.structures import Faces

SIZE = (60, 80)


def draw(heat, windows, boxes):
    image = np.full((*SIZE, 3), 100, dtype=np.uint8)
    faces = Faces(torch.tensor(boxes).float().view(-1, 4), SIZE, torch.zeros(len(boxes)).long())
    return draw_heat_maps(image, faces, torch.tensor(heat), torch.tensor(windows).view(-1, 4))


def test_heat_covers_its_window_and_nothing_else():
    # The box that is drawn is far from the window: the window's pixels show heat alone
    picture = draw([[[1.0]]], [[10, 20, 20, 30]], [[60.0, 40, 70, 50]])
    hottest = picture[25, 15].astype(float)
    expected = 100 * (1 - OPACITY) + OPACITY * np.array([252, 255, 164])  # end of "inferno"
    assert np.abs(hottest - expected).max() < 3
    assert (picture[20:30, 10:20] == picture[25, 15]).all()
    outside = np.ones(SIZE, bool)
    outside[20:30, 10:20] = False
    outside[:, 40:] = False
    outside[30:] = False
    assert (picture[outside] == 100).all()


def test_window_that_reaches_outside_the_picture():
    heat = [[[0.0, 0.0], [0.0, 1.0]]]  # hot at the bottom right
    picture = draw(heat, [[-20, -20, 20, 20]], [[60.0, 40, 70, 50]])
    assert picture[19, 19].tolist() != [100, 100, 100]
    assert picture.shape == (*SIZE, 3)


def test_no_face():
    picture = draw(np.zeros((0, 1, 1), np.float32).tolist(), [], [])
    assert (picture == 100).all()
