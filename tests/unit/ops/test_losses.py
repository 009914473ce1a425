"""Losses against their formulas in float64."""

import math

import pytest
import torch

from comics.ops.losses import (
    centerness,
    dice_loss,
    distance_iou,
    distance_iou_loss,
    focal_loss,
)


def test_focal_loss_equals_the_formula():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 3, generator=generator) * 3
    labels = torch.randint(0, 4, (20,), generator=generator)
    alpha, gamma = 0.25, 2.0
    expected = 0.0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        for k, value in enumerate(row):
            p = 1 / (1 + math.exp(-value))
            if k == label:
                expected -= alpha * (1 - p) ** gamma * math.log(p)
            else:
                expected -= (1 - alpha) * p**gamma * math.log(1 - p)
    found = focal_loss(logits, labels, alpha=alpha, gamma=gamma)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_overlaps_equal_boxes_around_one_point():
    generator = torch.Generator().manual_seed(1)
    predicted, target = torch.rand(2, 30, 4, generator=generator, dtype=torch.float64) * 5 + 0.01
    iou, giou = distance_iou(predicted, target)
    for row in range(30):
        a, b = predicted[row].tolist(), target[row].tolist()

        def area(d):
            return (d[0] + d[2]) * (d[1] + d[3])

        shared = area([min(x, y) for x, y in zip(a, b, strict=True)])
        hull = area([max(x, y) for x, y in zip(a, b, strict=True)])
        union = area(a) + area(b) - shared
        expected = (shared + 1) / (union + 1)
        assert iou[row].item() == pytest.approx(expected, rel=1e-5)
        assert giou[row].item() == pytest.approx(
            expected - (hull - union) / hull, rel=1e-4, abs=1e-5
        )


def test_overlaps_equal_the_reference(components):
    case = components["iou_ltrb"]
    iou, giou = distance_iou(case["pred"], case["target"])
    torch.testing.assert_close(iou, case["iou"])
    torch.testing.assert_close(giou, case["giou"])
    for kind, sums in case["loss"].items():
        losses = distance_iou_loss(iou, giou, kind)
        torch.testing.assert_close(losses.sum(), sums["plain"])
        torch.testing.assert_close((losses * case["weight"]).sum(), sums["weighted"])


def test_centerness_equals_the_reference(components):
    case = components["centerness"]
    torch.testing.assert_close(centerness(case["ltrb"]), case["out"])


def test_centerness_of_known_points():
    points = torch.tensor([[2.0, 2, 2, 2], [1, 2, 4, 2], [1, 1, 4, 9]])
    torch.testing.assert_close(centerness(points), torch.tensor([1.0, 0.5, 1 / 6]))


def test_losses_of_equal_boxes_are_zero_and_others_positive():
    same = torch.tensor([[1.0, 2, 3, 4]])
    other = torch.tensor([[4.0, 3, 2, 1]])
    for kind in ("iou", "linear_iou", "giou"):
        assert distance_iou_loss(*distance_iou(same, same), kind).item() == pytest.approx(0)
        assert distance_iou_loss(*distance_iou(same, other), kind).item() > 0.1


def test_half_precision_inputs_are_computed_in_float32():
    distances = torch.rand(4, 4).bfloat16() + 0.5
    iou, giou = distance_iou(distances, distances)
    assert iou.dtype == giou.dtype == centerness(distances).dtype == torch.float32
    logits = torch.randn(4, 2).bfloat16()
    assert focal_loss(logits, torch.zeros(4).long(), alpha=0.25, gamma=2).dtype == torch.float32


def test_an_unknown_loss_lists_the_choices():
    with pytest.raises(ValueError, match="linear_iou"):
        distance_iou_loss(torch.ones(1), torch.ones(1), "l1")


def test_dice_loss_equals_the_formula():
    generator = torch.Generator().manual_seed(4)
    predicted = torch.rand(3, 4, 5, generator=generator)
    target = torch.rand(3, 4, 5, generator=generator) > 0.5
    found = dice_loss(predicted, target, smoothing=0.01)
    for p, q, loss in zip(predicted.double(), target.double(), found, strict=True):
        expected = 1 - 2 * (p * q).sum() / ((p * p).sum() + (q * q).sum() + 0.01)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    empty = torch.zeros(1, 4, 5)
    assert dice_loss(empty, empty.bool(), smoothing=0.01).item() == 1
