"""Selection of detections against a naive loop."""

import math

import torch
from torchvision.ops import box_iou

from comics.modeling.detectors.fcos import Selector

STRIDES = (8, 16)


def predictions(images=2, classes=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def maps(channels):
        return [
            torch.randn(images, channels, *size, generator=generator) for size in ((5, 6), (3, 3))
        ]

    return maps(classes), [m.abs() * 3 for m in maps(4)], maps(1)


def naive(logits, distances, quality, image, *, threshold, with_quality, nms, pre, post):
    """(score, label, box) triples of one image, best first."""
    candidates = []
    for level, stride in enumerate(STRIDES):
        found = []
        _, classes, height, width = logits[level].shape
        for k in range(classes):
            for i in range(height):
                for j in range(width):
                    p = 1 / (1 + math.exp(-logits[level][image, k, i, j].item()))
                    q = 1 / (1 + math.exp(-quality[level][image, 0, i, j].item()))
                    if (p * q if with_quality else p) <= threshold:
                        continue
                    left, top, right, bottom = (distances[level][image, :, i, j] * stride).tolist()
                    x, y = j * stride + stride // 2, i * stride + stride // 2
                    found.append((p * q, k, [x - left, y - top, x + right, y + bottom]))
        candidates += sorted(found, reverse=True)[:pre]
    kept = []
    for product, label, box in sorted(candidates, reverse=True):
        rivals = [other for _, name, other in kept if name == label]
        overlaps = box_iou(torch.tensor([box]), torch.tensor(rivals).reshape(-1, 4))
        if nms <= 0 or not (overlaps > nms).any():
            kept.append((product, label, box))
    return [(math.sqrt(product), label, box) for product, label, box in kept[:post]]


def check(**settings):
    maps = predictions()
    selector = Selector(
        STRIDES,
        score_threshold=settings["threshold"],
        threshold_with_quality=settings["with_quality"],
        nms_threshold=settings["nms"],
        pre_nms_topk=settings["pre"],
        post_nms_topk=settings["post"],
    )
    for image, found in enumerate(selector.select(*maps)):
        expected = naive(*maps, image, **settings)
        assert len(expected) > 0
        assert found.labels.tolist() == [label for _, label, _ in expected]
        torch.testing.assert_close(found.scores, torch.tensor([s for s, _, _ in expected]))
        torch.testing.assert_close(found.boxes, torch.tensor([b for _, _, b in expected]))


def test_default_rule():
    check(threshold=0.3, with_quality=False, nms=0.6, pre=1000, post=100)


def test_threshold_on_the_product():
    check(threshold=0.3, with_quality=True, nms=0.6, pre=1000, post=100)


def test_limits():
    check(threshold=0.05, with_quality=False, nms=0.3, pre=10, post=7)


def test_without_suppression():
    check(threshold=0.2, with_quality=False, nms=0.0, pre=15, post=20)


def test_equal_scores_may_exceed_the_limit():
    logits = [torch.zeros(1, 1, 2, 3)]
    found = Selector((64,), nms_threshold=0.5, post_nms_topk=2).select(
        logits, [torch.full((1, 4, 2, 3), 0.1)], [torch.zeros(1, 1, 2, 3)]
    )[0]
    assert found.scores.tolist() == [0.5] * 6
    assert sorted(found.cell.tolist()) == list(range(6))


def test_nothing_passes():
    for found in Selector(STRIDES, score_threshold=0.9999).select(*predictions()):
        assert len(found) == 0
        assert found.boxes.shape == (0, 4)
