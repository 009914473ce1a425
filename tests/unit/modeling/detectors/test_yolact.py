"""YOLACT and YOLACT++: losses, suppression and masks beside loops, and what has a gradient."""

import math

import pytest
import torch
from narrow import NARROW
from torch.testing import assert_close
from two_faces import sample

from comics.config import load_config
from comics.modeling.detectors.anchor_targets import assign_anchors
from comics.modeling.detectors.yolact.losses import (
    hard_negative_loss,
    inside_boxes,
    mask_errors,
    mask_logits,
    semantic_loss,
)
from comics.modeling.detectors.yolact.plus_plus import MaskScorer, cell_iou
from comics.modeling.detectors.yolact.selection import AnchorSelector, fast_nms
from comics.registry import DETECTORS
from comics.structures import Faces

TINY = [
    *NARROW,
    "MODEL.FPN.OUT_CHANNELS", "16", "TEST.DETECTIONS_PER_IMAGE", "20",
    "MODEL.ANCHOR_GENERATOR.SIZES", "[[24], [40], [64], [128], [256]]",
    "MODEL.ANCHOR_GENERATOR.OFFSET", "0.5", "MODEL.YOLACT.NUM_PROTOTYPES", "6",
    "MODEL.YOLACT.NUM_PROTOTYPE_CONVS", "1", "MODEL.YOLACT.PROTOTYPE_CHANNELS", "16",
    "MODEL.YOLACT.SCORER_CHANNELS", "[4, 8]",
]  # fmt: skip
BOTH = ["YOLACT", "YOLACTPlusPlus"]


def tiny(*overrides, name="YOLACT"):
    torch.manual_seed(0)
    return DETECTORS.get(name).from_config(load_config(overrides=[*TINY, *overrides]))


# --- losses ------------------------------------------------------------------------------------


def test_hard_negatives_beside_a_loop():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 12, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.full((3, 12), 2)
    labels[0, :2] = torch.tensor([0, 1])
    labels[0, 2] = -1
    labels[1, :5] = 1  # 15 negatives are wanted, 7 are there; the third image has no face
    expected, chosen = 0.0, 0
    for image, its_labels in zip(logits.tolist(), labels.tolist(), strict=True):
        negatives = []
        for values, label in zip(image, its_labels, strict=True):
            if label == -1:
                continue
            error = math.log(sum(math.exp(v) for v in values)) - values[label]
            if label == 2:
                negatives.append(error)
            else:
                expected += error
                chosen += 1
        count = 3 * sum(label in (0, 1) for label in its_labels)
        hardest = sorted(negatives, reverse=True)[:count]
        expected += sum(hardest)
        chosen += len(hardest)
    loss = hard_negative_loss(logits, labels, 3)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert (logits.grad.abs().sum(dim=2) > 0).sum() == chosen == 2 + 6 + 5 + 7


def test_mask_errors_beside_a_loop():
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.rand(3, 8, 10, generator=generator, dtype=torch.float64)
    coefficients = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    wanted = torch.rand(4, 8, 10, generator=generator) < 0.5
    boxes = torch.tensor([[8.0, 4, 30, 20], [-5, -5, 12, 9], [0, 0, 40, 32], [20, 20, 22, 21]])
    logits = mask_logits(coefficients, prototypes)
    found = mask_errors(logits, wanted, boxes, 4)
    for n, (x0, y0, x1, y1) in enumerate((boxes / 4).tolist()):
        total = 0.0
        for i in range(8):
            for j in range(10):
                if y0 - 1 <= i < y1 + 1 and x0 - 1 <= j < x1 + 1:
                    value = sum(
                        float(coefficients[n, d].detach() * prototypes[d, i, j]) for d in range(3)
                    )
                    p = 1 / (1 + math.exp(-value))
                    total -= math.log(p if wanted[n, i, j] else 1 - p)
        area = max((x1 - x0) * (y1 - y0), 1)  # the last face is under a cell
        assert found[n].item() == pytest.approx(total / area)
    assert mask_errors(logits[:0], wanted[:0], boxes[:0], 4).shape == (0,)


def test_semantic_loss_beside_a_loop():
    generator = torch.Generator().manual_seed(0)
    _, faces = sample((32, 48))
    masks = torch.zeros(3, 32, 48, dtype=torch.bool)
    masks[0, 0:16, 0:16] = masks[1, 8:24, 8:40] = masks[2, 16:32, 0:8] = True
    boxes = torch.tensor([[0.0, 0, 16, 16], [8, 8, 40, 24], [0, 16, 8, 32]])
    faces = Faces(boxes, (32, 48), torch.tensor([0, 1, 0]), masks=masks)
    logits = torch.randn(2, 2, 4, 6, generator=generator, dtype=torch.float64)
    expected = 0.0
    for b in range(2):
        for k in range(2):
            for i in range(4):
                for j in range(6):
                    inside = b == 1 and any(
                        bool(mask[8 * i + 4, 8 * j + 4])
                        for mask, label in zip(masks, faces.labels.tolist(), strict=True)
                        if label == k
                    )
                    p = 1 / (1 + math.exp(-float(logits[b, k, i, j])))
                    expected -= math.log(p if inside else 1 - p)
    found = semantic_loss(logits, [Faces.empty((32, 48)), faces], 8)
    assert found.item() == pytest.approx(expected / (2 * 4 * 6))


def test_anchor_losses_beside_a_loop():
    model = tiny().train()
    image, faces = sample()
    targets = [faces, Faces.empty((64, 96))]
    batch = model.preprocess([image, image])
    with torch.no_grad():
        features = model.extract_features(batch)
        output = model.head([features[level] for level in model.levels])
    anchors = model.anchors.of_image(output.deltas)
    found = assign_anchors(anchors, targets, num_classes=2, background=0.4, foreground=0.5)
    losses = model.anchor_losses(output, anchors, found)
    deltas = torch.cat([d.permute(0, 2, 3, 1).reshape(2, -1, 4) for d in output.deltas], 1)
    error, count = 0.0, 0
    for r, face in enumerate(found.face[0].tolist()):
        if face < 0:
            continue
        count += 1
        ax0, ay0, ax1, ay1 = anchors[r].tolist()
        x0, y0, x1, y1 = faces.boxes[face].tolist()
        wanted = (
            ((x0 + x1) - (ax0 + ax1)) / 2 / (ax1 - ax0) / 0.1,
            ((y0 + y1) - (ay0 + ay1)) / 2 / (ay1 - ay0) / 0.1,
            math.log((x1 - x0) / (ax1 - ax0)) / 0.2,
            math.log((y1 - y0) / (ay1 - ay0)) / 0.2,
        )
        for value, target in zip(deltas[0, r].tolist(), wanted, strict=True):
            e = abs(value - target)
            error += e * e / 2 if e < 1 else e - 0.5
    assert count > 1
    assert losses["loss_box_reg"].item() == pytest.approx(1.5 * error / count, rel=1e-4)


@pytest.mark.parametrize("name", BOTH)
def test_where_gradients_go(name):
    model = tiny(name=name).train()
    image, faces = sample()
    output = model([image, image], [faces, Faces.empty((64, 96))])
    names = {"loss_cls", "loss_box_reg", "loss_mask", "loss_sem"}
    assert set(output.losses) == names | ({"loss_maskiou"} if name != "YOLACT" else set())
    assert all(torch.isfinite(loss) and loss > 0 for loss in output.losses.values())
    output.losses["loss_mask"].backward(retain_graph=True)
    assert model.head.coefficients.weight.grad.abs().sum() > 0
    assert model.prototype_net.prototypes.weight.grad.abs().sum() > 0
    assert model.head.class_logits.weight.grad is None
    assert model.head.deltas.weight.grad is None
    assert model.semantic.weight.grad is None
    if name != "YOLACT":
        model.zero_grad()
        output.losses["loss_maskiou"].backward()
        assert model.scorer.convs[0].weight.grad.abs().sum() > 0
        others = [p for n, p in model.named_parameters() if not n.startswith("scorer")]
        assert all(p.grad is None for p in others)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("sizes", ["[[24], [40], [64], [128], [256]]", "[[1], [1], [1], [1], [1]]"])
def test_tiny_faces_and_anchors_that_touch_none(name, sizes):
    model = tiny("MODEL.ANCHOR_GENERATOR.SIZES", sizes, name=name).train()
    image, _ = sample()
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[0, 31:33, 47:49] = True
    faces = Faces(torch.tensor([[47.0, 31, 49, 33]]), (64, 96), torch.tensor([1]), masks=mask)
    output = model([image], [faces])
    assert all(torch.isfinite(loss) for loss in output.losses.values())
    untouched = sizes.startswith("[[1]")
    assert (output.losses["loss_mask"].item() == 0) == untouched
    assert all(len(p.face) == 0 for p in output.proposals.values()) == untouched
    sum(output.losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_of_many_positives_a_few_stand_for_all():
    model = tiny("MODEL.YOLACT.MASKS_PER_IMAGE", "2").train()
    every = tiny().train()
    every.load_state_dict(model.state_dict())
    image, faces = sample()
    batch = model.preprocess([image])
    features = model.extract_features(batch)
    output = model.head([features[level] for level in model.levels])
    prototypes, _ = model.prototype_net(features["p3"])
    anchors = model.anchors.of_image(output.deltas)
    found = assign_anchors(anchors, [faces], num_classes=2, background=0.4, foreground=0.5)
    (drawn,) = model.positive_masks(output, prototypes, found, [faces])
    assert len(drawn[0]) == 2 < found.positive.sum()
    few = [float(model.mask_losses(output, prototypes, found, [faces])["loss_mask"].detach())
           for _ in range(60)]  # fmt: skip
    expected = float(every.mask_losses(output, prototypes, found, [faces])["loss_mask"].detach())
    assert sum(few) / 60 == pytest.approx(expected, rel=0.05)  # the mean of any two is its mean


# --- selection ---------------------------------------------------------------------------------


def naive_fast_nms(boxes, labels, threshold):
    kept = []
    for j, box in enumerate(boxes):
        worst = 0.0
        for i in range(j):
            if labels[i] == labels[j]:
                other = boxes[i]
                width = min(box[2], other[2]) - max(box[0], other[0])
                height = min(box[3], other[3]) - max(box[1], other[1])
                both = max(width, 0) * max(height, 0)
                areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
                worst = max(worst, both / (sum(areas) - both))
        if worst <= threshold:
            kept.append(j)
    return kept


def test_fast_suppression_beside_a_loop():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(40, 2, generator=generator) * 30
    boxes = torch.cat((corner, corner + 10 + torch.rand(40, 2, generator=generator) * 20), 1)
    labels = torch.randint(2, (40,), generator=generator)
    found = fast_nms(boxes, labels, 0.5).tolist()
    assert found == naive_fast_nms(boxes.tolist(), labels.tolist(), 0.5)
    assert fast_nms(boxes[:0], labels[:0], 0.5).tolist() == []


def test_a_suppressed_box_suppresses_others_only_in_fast_suppression():
    boxes = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])  # IoU 0.54, 0.25
    scores = torch.tensor([[0.9, 0.0], [0.8, 0.02], [0.7, 0.1]])
    fast = AnchorSelector().select(scores, boxes)
    assert (fast.anchor.tolist(), fast.labels.tolist()) == ([0, 2], [0, 1])
    greedy = AnchorSelector(nms_type="greedy").select(scores, boxes)
    assert (greedy.anchor.tolist(), greedy.labels.tolist()) == ([0, 2, 2], [0, 0, 1])
    few = AnchorSelector(candidates_per_class=1, max_detections=1).select(scores, boxes)
    assert few.anchor.tolist() == [0]
    with pytest.raises(ValueError, match="NMS_TYPE"):
        AnchorSelector(nms_type="soft")


def test_masks_are_cut_with_their_boxes():
    inside = inside_boxes(torch.tensor([[8.0, 4, 16, 12], [-9, -9, 3, 3]]), (5, 6), 4)
    assert inside[0].nonzero().tolist() == [[i, j] for i in range(4) for j in range(1, 5)]
    assert inside[1].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


# --- YOLACT++ ------------------------------------------------------------------------------------


def test_ious_of_cells():
    found = torch.zeros(3, 4, 4, dtype=torch.bool)
    wanted = found.clone()
    found[0, :2], wanted[0, 1:3] = True, True
    wanted[1, 0, 0] = True
    assert cell_iou(found, wanted).tolist() == pytest.approx([4 / 12, 0, 0])


def test_the_scorer_reads_its_own_class_and_gives_masks_no_gradient():
    torch.manual_seed(0)
    scorer = MaskScorer(2, [4, 8])
    torch.nn.init.constant_(scorer.iou.bias, 0.3)
    soft = torch.rand(3, 16, 24, requires_grad=True)
    one, other = (scorer(soft, torch.full((3,), c)) for c in (0, 1))
    assert_close(scorer(soft, torch.tensor([0, 1, 0])), torch.stack((one[0], other[1], one[2])))
    one.sum().backward()
    assert soft.grad is None
    assert scorer(soft[:0], torch.zeros(0).long()).shape == (0,)


def test_scores_are_multiplied_by_the_predicted_iou():
    image, _ = sample()
    scored, plain = tiny(name="YOLACTPlusPlus").eval(), tiny().eval()
    plain.load_state_dict(scored.state_dict(), strict=False)
    torch.nn.init.zeros_(scored.scorer.iou.weight)
    torch.nn.init.constant_(scored.scorer.iou.bias, 0.25)
    with torch.no_grad():
        (ours,), (theirs,) = scored([image]), plain([image])
    assert len(ours) > 3
    assert_close(ours.scores, theirs.scores / 4)
    assert torch.equal(ours.masks, theirs.masks)


def test_small_faces_do_not_teach_the_scorer():
    model = tiny(name="YOLACTPlusPlus").train()
    image, faces = sample()
    batch = model.preprocess([image])
    features = model.extract_features(batch)
    output = model.head([features[level] for level in model.levels])
    prototypes, _ = model.prototype_net(features["p3"])
    anchors = model.anchors.of_image(output.deltas)
    found = assign_anchors(anchors, [faces], num_classes=2, background=0.4, foreground=0.5)
    soft, wanted, labels = model.scored_masks(output, prototypes, found, [faces])
    assert len(soft) == found.positive.sum() == len(labels)
    assert not soft.requires_grad
    # 32 x 32 pixels; 40 x 40 from column 30 on: 11 cells have half of their middle pixels there
    assert set(wanted.flatten(1).sum(dim=1).tolist()) == {8 * 8, 10 * 11}
    model.smallest_mask = 65
    _, wanted, labels = model.scored_masks(output, prototypes, found, [faces])
    assert set(wanted.flatten(1).sum(dim=1).tolist()) == {10 * 11}
    assert set(labels.tolist()) == {1}


# --- the whole model -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOTH)
def test_mixed_sizes_train_and_infer(name):
    model = tiny(name=name).eval()
    big, small = sample(), sample((70, 80), seed=1)
    with torch.no_grad():
        found = model([big[0], small[0]], output_sizes=[(128, 192), (35, 40)])
    for faces, size in zip(found, [(128, 192), (35, 40)], strict=True):
        assert faces.image_size == size
        assert len(faces) > 0
        assert faces.masks.shape == (len(faces), *size)
        assert (faces.scores.diff() <= 0).all()


def test_without_masks_boxes_are_the_same():
    with_masks, plain = tiny().eval(), tiny("MODEL.MASK_ON", "False").eval()
    plain.load_state_dict(with_masks.state_dict())
    image, _ = sample()
    with torch.no_grad():
        features = plain.extract_features(plain.preprocess([image]))
        assert not any("coefficients" in name for name in plain.dense(features))
        (ours,), (theirs,) = with_masks([image]), plain([image])
    assert theirs.masks is None
    assert torch.equal(ours.boxes, theirs.boxes)


def test_levels_that_the_pyramid_lacks_are_named():
    with pytest.raises(ValueError, match=r"YOLACT.IN_FEATURES \['p2'\]"):
        tiny("MODEL.YOLACT.IN_FEATURES", "['p2', 'p3', 'p4', 'p5', 'p6']")
