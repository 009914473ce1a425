"""Proposals of any view against any face; the rules of one's own face are in test_contrast.py."""

import torch

from comics.modeling.detectors.base import LevelBoxes
from comics.modeling.matching import labels_of, overlapping_any
from comics.structures import Faces

FACES = Faces(torch.tensor([[0.0, 0, 20, 20], [10.0, 0, 30, 20]]), (40, 40), torch.tensor([0, 1]))


def boxes_of(*boxes, image=None, cells=None):
    image = [0] * len(boxes) if image is None else image
    table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {"p3": LevelBoxes(torch.tensor(image, dtype=torch.int64), table, cells)}


def test_a_location_counts_once_with_the_view_that_overlaps_more():
    query = boxes_of((0, 0, 20, 16), (0, 0, 5, 5), (9, 0, 29, 20), cells=torch.tensor([3, 4, 5]))
    key = boxes_of((10, 0, 30, 19), (0, 0, 5, 6), (30, 30, 40, 40), cells=torch.tensor([3, 4, 5]))
    found = overlapping_any([query, key], [FACES], 0.6)["p3"]
    by_cell = dict(zip(found.cells.tolist(), found.face.tolist(), strict=True))
    assert by_cell == {3: 1, 5: 1}  # 0.95 of the key view beats 0.8 of the query's
    assert labels_of(found, [FACES]).tolist() == [1, 1]
    boxes = dict(zip(found.cells.tolist(), found.boxes.tolist(), strict=True))
    assert boxes[3] == [10, 0, 30, 19]


def test_views_may_name_other_locations_and_levels():
    query = boxes_of((0, 0, 20, 20), cells=torch.tensor([1]))
    key = {**boxes_of((10, 0, 30, 20), cells=torch.tensor([2])), "p4": query["p3"]}
    found = overlapping_any([query, key], [FACES], 0.6)
    assert sorted(found["p3"].cells.tolist()) == [1, 2]
    assert found["p4"].cells.tolist() == [1]


def test_boxes_without_locations_of_both_views_count():
    query, key = boxes_of((0, 0, 20, 20), (0, 20, 20, 40)), boxes_of((0, 0, 20, 19))
    found = overlapping_any([query, key], [FACES], 0.6)["p3"]
    assert found.cells is None
    assert sorted(found.boxes.tolist()) == [[0, 0, 20, 19], [0, 0, 20, 20]]


def test_images_without_faces_and_boxes_that_are_no_numbers_count_nothing():
    targets = [Faces.empty((40, 40)), FACES]
    nan = float("nan")
    view = boxes_of((0, 0, 20, 20), (nan,) * 4, image=[0, 1], cells=torch.tensor([0, 1]))
    found = overlapping_any([view, view], targets, 0.0)["p3"]
    assert len(found.image) == len(found.cells) == 0
    empty = boxes_of(cells=torch.zeros(0, dtype=torch.int64))
    assert len(overlapping_any([empty, empty], targets, 0.6)["p3"].boxes) == 0
