"""Candidates: masks follow the selection, and are drawn last, once, at the size asked for."""

import numpy as np
import pytest
import torch

from comics.inference.predictor import Predictor
from comics.inference.verdict import VerdictRule
from comics.modeling.build import build_model
from comics.modeling.detectors.candidates import Candidates, GridMasks, SquareMasks

SIZE = (40, 60)


def some(kind, count=4, **options):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator) * 25
    boxes = torch.cat((corner, corner + 8 + 10 * torch.rand(count, 2, generator=generator)), 1)
    if kind is SquareMasks:
        masks = SquareMasks(torch.rand(count, 7, 7, generator=generator), boxes, **options)
    else:
        soft = torch.rand(count, 5, 8, generator=generator)
        masks = GridMasks(soft, 8, aligned=True, **options)
    scores = torch.linspace(0.9, 0.2, count)
    return Candidates.of(boxes, scores, torch.arange(count) % 2, SIZE, masks)


@pytest.mark.parametrize("output_size", [(40, 60), (80, 120), (23, 31)])
@pytest.mark.parametrize("kind", [SquareMasks, GridMasks])
def test_masks_of_what_is_left_are_those_of_all(kind, output_size):
    every = some(kind)
    kept = torch.tensor([2, 0])
    part, whole = every[kept].drawn(output_size), every.drawn(output_size)[kept]
    assert whole.masks.any() and part.image_size == output_size
    for name in ("boxes", "scores", "labels", "masks"):
        assert torch.equal(getattr(part, name), getattr(whole, name))


def test_a_square_that_is_full_is_its_box_at_every_size():
    boxes = torch.tensor([[10.0, 5, 30, 25]])
    masks = SquareMasks(torch.ones(1, 7, 7), boxes)
    found = Candidates.of(boxes, torch.ones(1), torch.zeros(1, dtype=torch.int64), SIZE, masks)
    for factor in (1, 2, 3):
        faces = found.drawn((SIZE[0] * factor, SIZE[1] * factor))
        rows, columns = faces.masks[0].nonzero().unbind(1)
        assert (columns.min(), columns.max() + 1) == (10 * factor, 30 * factor)
        assert (rows.min(), rows.max() + 1) == (5 * factor, 25 * factor)


def test_boxes_without_area_go_and_faces_without_pixels_stay():
    boxes = torch.tensor([[10.0, 5, 30, 25], [70, 5, 90, 20], [3, 3, 9, 9]])
    masks = SquareMasks(torch.zeros(3, 7, 7), boxes)
    labels = torch.tensor([0, 1, 1])
    found = Candidates.of(boxes, torch.ones(3), labels, SIZE, masks)
    assert found.labels.tolist() == [0, 1]  # the second lies beyond the image
    faces = found.drawn((20, 30))
    assert len(faces) == 2 and not faces.masks.any()


def test_masks_may_give_the_boxes_and_stay_hidden():
    soft = torch.zeros(2, 5, 8)
    soft[0, 1:3, 2:5] = 1.0
    boxes = torch.tensor([[0.0, 0, 60, 40], [1, 1, 5, 5]])
    masks = GridMasks(soft, 8, aligned=False, shown=False, give_boxes=True)
    found = Candidates.of(boxes, torch.ones(2), torch.zeros(2, dtype=torch.int64), SIZE, masks)
    faces = found.drawn(SIZE)
    assert faces.masks is None
    # cells 2 to 4 and 1 to 2 of 8 pixels; where the second has no pixel its own box stays
    assert faces.boxes.tolist() == [[16, 8, 40, 24], [1, 1, 5, 5]]


def test_a_prediction_draws_the_survivors_only_and_once(finding_config, monkeypatch):
    torch.manual_seed(0)
    model = build_model(finding_config("BlendMask")).eval()
    drawn = []
    parts = SquareMasks.parts

    def noting(self, size, output_size):
        drawn.append((len(self.soft), output_size))
        return parts(self, size, output_size)

    monkeypatch.setattr(SquareMasks, "parts", noting)
    image = np.random.default_rng(0).integers(0, 255, (90, 110, 3), dtype=np.uint8)

    def predict(threshold):
        drawn.clear()
        rule = VerdictRule(score_threshold=threshold)
        predictor = Predictor(model, rule, min_size=64, max_size=96, max_pixels=10**6)
        return predictor.predict([image])[0]

    every = predict(0.0)
    assert drawn == [(len(every), (90, 110))] and len(every) > 1
    best = predict(every.scores.max().item())
    assert drawn == [(1, (90, 110))]
    assert torch.equal(best.masks, every.masks[:1])
