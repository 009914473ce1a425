"""Anchors, matching, proposals, sampling, pooling and losses of Mask R-CNN against naive loops."""

import math

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close
from torchvision.ops import MultiScaleRoIAlign, box_iou

from comics.modeling.detectors.anchors import PyramidAnchors
from comics.modeling.detectors.mask_rcnn.heads import BoxHead, MaskHead, mask_loss
from comics.modeling.detectors.mask_rcnn.proposals import (
    OverlapMatcher,
    ProposalHead,
    ProposalNetwork,
)
from comics.modeling.detectors.mask_rcnn.sampling import ProposalSampler, SampledProposals
from comics.modeling.detectors.pooling import PyramidPooler
from comics.structures import Faces

LEVELS, STRIDES = ("p2", "p3", "p4", "p5"), (4, 8, 16, 32)


def images_of(*sizes):
    return type("Images", (), {"image_sizes": list(sizes)})


def network(**settings) -> ProposalNetwork:
    anchors = PyramidAnchors([[8]], [[1.0, 2.0]], [4, 8])
    torch.manual_seed(0)
    settings = {"anchors_per_image": 20, **settings}
    return ProposalNetwork(
        levels=("p2", "p3"), anchors=anchors, head=ProposalHead(4, 2), **settings
    )


def random_boxes(count: int, seed: int, side: float = 60.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * side
    return torch.cat((corner, corner + 1 + torch.rand(count, 2, generator=generator) * 40), dim=1)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_anchors_equal_a_naive_loop(offset):
    sizes, ratios, strides = [[30, 50], [60, 100]], [[0.5, 2.0]], [16, 64]
    anchors = PyramidAnchors(sizes, ratios, strides, offset)
    # 3 cells of 64 pixels for an image of 160: torchvision would guess a stride of 53
    grids = [(2, 10), (1, 3)]
    maps = [torch.zeros(2, 1, *grid) for grid in grids]
    found = anchors(images_of((20, 150), (32, 160)), maps)
    expected = []
    for level, (rows, columns) in enumerate(grids):
        for row in range(rows):
            for column in range(columns):
                for size in sizes[level]:
                    for ratio in ratios[0]:
                        width = size / math.sqrt(ratio)
                        x, y = ((i + offset) * strides[level] for i in (column, row))
                        half = (width / 2, width * ratio / 2)
                        expected.append([x - half[0], y - half[1], x + half[0], y + half[1]])
    assert len(found) == 2
    for boxes in found:
        assert_close(boxes, torch.tensor(expected), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[8]], [[1.0]], [4, 8], 1.0), "OFFSET"),
        (([[8], [16], [32]], [[1.0]], [4, 8]), "SIZES"),
        (([[8]], [[1.0], [1.0], [2.0]], [4, 8]), "ASPECT_RATIOS"),
        (([[8], [16, 24]], [[1.0]], [4, 8]), "as many anchors"),
    ],
)
def test_anchors_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PyramidAnchors(*arguments)


def test_a_face_that_no_anchor_touches_matches_none():
    overlap = torch.tensor([[0.1, 0.6, 0.0, 0.2], [0.0, 0.0, 0.0, 0.0], [0.9, 0.0, 0.0, 0.0]])
    matches = OverlapMatcher(0.7, 0.3, allow_low_quality_matches=True)(overlap)
    # anchor 1 is the best of face 0 though below 0.7, anchor 0 is above it for face 2
    assert matches.tolist() == [2, 0, -1, -1]


def test_proposals_equal_a_naive_loop():
    proposals = network(
        pre_nms_topk=(30, 12), post_nms_topk=(30, 9), nms_threshold=0.4, min_size=3.0
    ).eval()
    counts = [40, 20]
    generator = torch.Generator().manual_seed(1)
    boxes = torch.stack([random_boxes(60, seed, side=50.0) for seed in (2, 3)])
    boxes[0, 5] = torch.nan
    boxes[1, 7, 2] = torch.inf
    logits = torch.randn(2, 60, generator=generator) + 30  # sigmoid is 1 in float32 for all
    logits[0, 5] = 99.0
    sizes = [(64, 48), (40, 70)]
    found, scores = proposals.filter_proposals(boxes, logits.view(-1, 1), sizes, counts)
    for image, size in enumerate(sizes):
        candidates = []
        for level, start in enumerate((0, 40)):
            inside = range(start, start + counts[level])
            best = sorted(inside, key=lambda i: -logits[image, i].item())[:12]
            candidates += [(logits[image, i].item(), level, boxes[image, i]) for i in best]
        candidates = [c for c in candidates if torch.isfinite(c[2]).all()]
        clipped = []
        for score, level, box in candidates:
            x0, y0, x1, y1 = box.tolist()
            x0, x1 = (min(max(x, 0.0), size[1]) for x in (x0, x1))
            y0, y1 = (min(max(y, 0.0), size[0]) for y in (y0, y1))
            if x1 - x0 > 3 and y1 - y0 > 3:
                clipped.append((score, level, torch.tensor([x0, y0, x1, y1])))
        kept = []
        for score, level, box in sorted(clipped, key=lambda c: -c[0]):
            rivals = [b for _, other, b in kept if other == level]
            if all(box_iou(box[None], rival[None]) <= 0.4 for rival in rivals):
                kept.append((score, level, box))
        kept = kept[:9]
        assert 3 < len(kept) < len(clipped)
        assert_close(found[image], torch.stack([box for *_, box in kept]))
        assert_close(scores[image], torch.tensor([score for score, *_ in kept]))


def test_proposal_losses_equal_a_naive_loop():
    settings = {"smooth_l1_beta": 0.2, "objectness_weight": 0.7, "box_weight": 1.5}
    proposals = network(positive_fraction=1.0, **settings)
    generator = torch.Generator().manual_seed(4)
    labels = [torch.randint(-1, 2, (10,), generator=generator).float() for _ in range(2)]
    logits = torch.randn(20, 1, generator=generator, dtype=torch.float64)
    deltas = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    targets = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    found = proposals.compute_loss(
        logits, deltas, [one.double() for one in labels], targets.split(10)
    )
    objectness = box = 0.0
    for i, label in enumerate(torch.cat(labels).tolist()):
        if label >= 0:
            p = 1 / (1 + math.exp(-logits[i].item()))
            objectness -= math.log(p if label == 1 else 1 - p)
        if label == 1:
            for gap in (deltas[i] - targets[i]).abs().tolist():
                box += gap**2 / 2 / 0.2 if gap < 0.2 else gap - 0.1
    assert found[0].item() == pytest.approx(0.7 * objectness / 40)  # 20 asked for, 2 images
    assert found[1].item() == pytest.approx(1.5 * box / 40)


def test_anchors_are_drawn_up_to_the_number_asked_for():
    proposals = network(anchors_per_image=6, positive_fraction=0.5)
    labels = [torch.tensor([1.0] * 10 + [0.0] * 10 + [-1.0] * 5)]
    positive, negative = proposals.fg_bg_sampler(labels)
    assert positive[0][:10].sum() == positive[0].sum() == 3
    assert negative[0][10:20].sum() == negative[0].sum() == 3


def faces_at(boxes, labels, size=(64, 96)) -> Faces:
    return Faces(torch.as_tensor(boxes).view(-1, 4), size, torch.as_tensor(labels).long())


def test_sampled_proposals_equal_a_naive_loop():
    truth = [[4.0, 4, 30, 30], [40, 10, 80, 60]]
    targets = [faces_at(truth, [1, 0]), faces_at([], [])]
    proposals = [torch.tensor(truth).repeat(8, 1) + random_boxes(16, 5, 8.0), random_boxes(9, 6)]
    sampled = ProposalSampler(2, proposals_per_image=1000, positive_fraction=1.0)(
        proposals, targets
    )
    expected = []
    for image, (boxes, faces) in enumerate(zip(proposals, targets, strict=True)):
        for box in [*boxes.tolist(), *faces.boxes.tolist()]:
            overlaps = [box_iou(torch.tensor([box]), t[None]).item() for t in faces.boxes]
            best = max(range(len(overlaps)), key=overlaps.__getitem__, default=-1)
            is_face = best >= 0 and overlaps[best] >= 0.5
            label = faces.labels[best].item() if is_face else 2
            target = faces.boxes[best].tolist() if best >= 0 else box
            expected.append((box, image, best, label, target))
    boxes, image, face, labels, target_boxes = zip(*expected, strict=True)
    assert {0, 1, 2} == set(labels)
    assert_close(sampled.boxes, torch.tensor(boxes))
    assert sampled.image.tolist() == list(image)
    assert sampled.face.tolist() == list(face)
    assert sampled.labels.tolist() == list(labels)
    assert_close(sampled.target_boxes, torch.tensor(target_boxes))
    assert [len(b) for b in sampled.per_image(2)] == [18, 9]


def test_proposals_are_drawn_by_share_and_without_ground_truth_if_asked():
    targets = [faces_at([[4.0, 4, 30, 30]], [1])]
    proposals = [torch.cat((torch.tensor([[4.0, 4, 30, 31]]).repeat(20, 1), random_boxes(30, 7)))]
    proposals[0][20:] += 200  # background
    sampler = ProposalSampler(
        2, proposals_per_image=12, positive_fraction=0.25, append_ground_truth=False
    )
    sampled = sampler(proposals, targets)
    assert sampled.labels.bincount().tolist() == [0, 3, 9]
    nothing = sampler([torch.zeros(0, 4)], targets)
    assert len(nothing.labels) == 0
    assert nothing.per_image(1)[0].shape == (0, 4)


@pytest.mark.parametrize(
    ("side", "level"),
    [(0, 0), (1, 0), (111.9, 0), (112, 1), (223.9, 1), (224, 2), (447, 2), (448, 3), (5000, 3)],
)
def test_the_level_of_a_box_follows_its_size(side, level):
    pooler = PyramidPooler(LEVELS, STRIDES, size=7)
    square = torch.tensor([[10.0, 20, 10 + side, 20 + side]])
    assert pooler.level_of(square).tolist() == [level]
    if side > 1:
        flat = torch.tensor([[0.0, 0, side * 4.0, side / 4.0]])  # the area decides
        assert pooler.level_of(flat).tolist() == [level]


def test_pooling_without_shift_equals_torchvisions():
    generator = torch.Generator().manual_seed(8)
    features = {
        level: torch.randn(2, 3, 512 // stride, 512 // stride, generator=generator)
        for level, stride in zip(LEVELS, STRIDES, strict=True)
    }
    boxes = [random_boxes(6, 9) * scale for scale in (1.0, 12.0)]
    oracle = MultiScaleRoIAlign(list(LEVELS), output_size=5, sampling_ratio=2)
    expected = oracle(features, boxes, [(512, 512)] * 2)
    pooler = PyramidPooler(LEVELS, STRIDES, size=5, sampling_ratio=2, pooler_type="ROIAlign")
    assert len(pooler.level_of(torch.cat(boxes)).unique()) > 2
    assert_close(pooler(features, boxes), expected)


def test_pooling_with_shift_reads_a_ramp_at_the_bins_centres():
    """Every level holds, at each cell, the x coordinate of that cell's centre in pixels."""
    features = {}
    for level, stride in zip(LEVELS, STRIDES, strict=True):
        centres = (torch.arange(640 // stride) + 0.5) * stride
        features[level] = centres.expand(1, 1, 640 // stride, -1)
    boxes = torch.tensor(
        [[40.0, 40, 80, 90], [40, 40, 200, 180], [50, 60, 350, 350], [32, 32, 600, 600]]
    )
    pooler = PyramidPooler(LEVELS, STRIDES, size=4)
    assert pooler.level_of(boxes).tolist() == [0, 1, 2, 3]
    pooled = pooler(features, [boxes])
    for box, values in zip(boxes, pooled, strict=True):
        centres = box[0] + (box[2] - box[0]) * (torch.arange(4) + 0.5) / 4
        assert_close(values[0], centres.expand(4, 4), rtol=1e-5, atol=1e-3)


def test_pooling_of_nothing_keeps_the_gradient():
    features = {level: torch.ones(1, 3, 4, 4, requires_grad=True) for level in LEVELS}
    pooled = PyramidPooler(LEVELS, STRIDES, size=7)(features, [torch.zeros(0, 4)])
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert all(feature.grad is not None for feature in features.values())


def test_poolers_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="POOLER_TYPE"):
        PyramidPooler(LEVELS, STRIDES, size=7, pooler_type="ROIPool")
    with pytest.raises(ValueError, match="IN_FEATURES"):
        PyramidPooler(("p2", "p4"), (4, 16), size=7)


@pytest.mark.parametrize("agnostic", [False, True])
def test_box_losses_equal_a_naive_loop(agnostic):
    head = BoxHead(
        4, 3, num_classes=2, linear_widths=[8], class_agnostic=agnostic, smooth_l1_beta=0.5,
        box_weight=0.4,
    ).double()  # fmt: skip
    generator = torch.Generator().manual_seed(10)
    boxes, targets = (random_boxes(7, seed).double() for seed in (11, 12))
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 2])
    index = torch.zeros(7, dtype=torch.int64)
    sampled = SampledProposals(boxes, index, index, labels, targets)
    logits = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    deltas = torch.randn(7, 1 if agnostic else 2, 4, generator=generator, dtype=torch.float64)
    found = head.loss(logits, deltas, sampled)
    cross_entropy = box_loss = 0.0
    for i, label in enumerate(labels.tolist()):
        cross_entropy -= math.log(logits[i].exp()[label] / logits[i].exp().sum())
        if label == 2:
            continue
        (x0, y0, x1, y1), (u0, v0, u1, v1) = boxes[i].tolist(), targets[i].tolist()
        w, h = x1 - x0, y1 - y0
        wanted = (
            10 * ((u0 + u1) - (x0 + x1)) / 2 / w, 10 * ((v0 + v1) - (y0 + y1)) / 2 / h,
            5 * math.log((u1 - u0) / w), 5 * math.log((v1 - v0) / h),
        )  # fmt: skip
        for mine, theirs in zip(deltas[i, 0 if agnostic else label].tolist(), wanted, strict=True):
            gap = abs(mine - theirs)
            box_loss += gap**2 / 2 / 0.5 if gap < 0.5 else gap - 0.25
    assert found["loss_cls"].item() == pytest.approx(cross_entropy / 7)
    assert found["loss_box_reg"].item() == pytest.approx(0.4 * box_loss / 7)


@pytest.mark.parametrize("agnostic", [False, True])
def test_detections_equal_a_naive_loop(agnostic):
    head = BoxHead(
        4, 3, num_classes=2, linear_widths=[8], class_agnostic=agnostic, score_threshold=0.2,
        nms_threshold=0.3, detections_per_image=11,
    )  # fmt: skip
    proposals = [random_boxes(30, 13), random_boxes(1, 14)[:0]]
    generator = torch.Generator().manual_seed(15)
    logits = torch.randn(30, 3, generator=generator)
    deltas = torch.randn(30, 1 if agnostic else 2, 4, generator=generator)
    deltas[:2, 0, 2] = 99.0  # clamped: at most 1000 / 16 times as wide
    logits[3] = torch.nan
    size = (60, 70)
    first, second = head.select(logits, deltas, proposals, [size, (9, 9)])
    candidates = []
    for i, (x0, y0, x1, y1) in enumerate(proposals[0].tolist()):
        w, h = x1 - x0, y1 - y0
        for label, probability in enumerate(logits[i].softmax(0)[:2].tolist()):
            dx, dy, dw, dh = deltas[i, 0 if agnostic else label].tolist()
            x, y = (x0 + x1) / 2 + dx / 10 * w, (y0 + y1) / 2 + dy / 10 * h
            half = [s * min(math.exp(d / 5), 62.5) / 2 for s, d in ((w, dw), (h, dh))]
            corners = (x - half[0], y - half[1], x + half[0], y + half[1])
            limits = (size[1], size[0], size[1], size[0])
            box = [min(max(c, 0.0), m) for c, m in zip(corners, limits, strict=True)]
            if probability > 0.2:  # false for nan
                candidates.append((probability, label, torch.tensor(box)))
    kept = []
    for score, label, box in sorted(candidates, key=lambda c: -c[0]):
        rivals = [b for _, other, b in kept if other == label]
        if all(box_iou(box[None], rival[None]) <= 0.3 for rival in rivals):
            kept.append((score, label, box))
    assert len(kept) > 11
    kept = kept[:11]
    assert_close(first.scores, torch.tensor([s for s, *_ in kept]))
    assert first.labels.tolist() == [label for _, label, _ in kept]
    assert_close(first.boxes, torch.stack([b for *_, b in kept]), rtol=1e-4, atol=1e-3)
    assert len(second.labels) == 0


def test_mask_head_picks_the_mask_of_the_class():
    torch.manual_seed(0)
    pooled = torch.randn(4, 6, 5, 5)
    labels = torch.tensor([1, 0, 0, 1])
    head = MaskHead(6, num_classes=2, num_convs=1, channels=8)
    torch.nn.init.normal_(head.predictor.mask_fcn_logits.weight)
    everything = head.predictor(head.convs(pooled))
    assert everything.shape == (4, 2, 10, 10)
    found = head(pooled, labels)
    for i, label in enumerate(labels.tolist()):
        assert torch.equal(found[i], everything[i, label])
    assert not torch.equal(everything[:, 0], everything[:, 1])
    shared = MaskHead(6, num_classes=2, num_convs=0, channels=8, class_agnostic=True)
    assert shared(pooled, labels).shape == (4, 10, 10)


def test_mask_loss_is_the_mean_over_pixels():
    generator = torch.Generator().manual_seed(16)
    logits = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64)
    wanted = torch.rand(3, 4, 4, generator=generator) > 0.5
    probability = torch.where(wanted, logits.sigmoid(), 1 - logits.sigmoid())
    assert_close(mask_loss(logits.float(), wanted), -probability.log().mean().float())
    empty = torch.zeros(0, 4, 4, requires_grad=True)
    loss = mask_loss(empty, torch.zeros(0, 4, 4, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert empty.grad is not None


def test_heads_start_from_small_predictions():
    torch.manual_seed(0)
    head = BoxHead(16, 7, num_classes=2, linear_widths=[64, 64], conv_channels=[32], norm="GN")
    logits, deltas = head(functional.relu(torch.randn(50, 16, 7, 7)))
    assert logits.shape == (50, 3)
    assert deltas.shape == (50, 2, 4)
    assert logits.abs().max() < 0.5
    assert deltas.abs().max() < 0.05
