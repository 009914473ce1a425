"""RetinaMask: anchors of faces, the self-adjusting loss and the focal loss beside loops."""

import math

import pytest
import torch
from narrow import NARROW
from torch.testing import assert_close
from two_faces import sample

from comics.config import load_config
from comics.modeling.detectors.anchor_targets import (
    anchor_proposals,
    assign_anchors,
    every_anchor,
    match_anchors,
    per_anchor,
)
from comics.modeling.detectors.retinamask import RetinaMask
from comics.modeling.detectors.retinamask.detector import AnchorSelector
from comics.modeling.detectors.retinamask.losses import SelfAdjustingSmoothL1
from comics.ops.boxes import box_iou
from comics.structures import Faces

TINY = [
    *NARROW,
    "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.RETINANET.NUM_CONVS", "1",
    "MODEL.RETINANET.PRIOR_PROB", "0.3", "TEST.DETECTIONS_PER_IMAGE", "20",
    "MODEL.ANCHOR_GENERATOR.SIZES", "[[24], [40], [64], [128], [256]]",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1",
]  # fmt: skip


def tiny(*overrides):
    torch.manual_seed(0)
    return RetinaMask.from_config(load_config(overrides=[*TINY, *overrides]))


# --- anchors -----------------------------------------------------------------------------------


def test_anchors_of_faces_by_hand():
    overlap = torch.tensor([
        # own, own, forced though low, between, background, background
        [0.9, 0.5, 0.0, 0.45, 0.39, 0.0],
        [0.6, 0.4, 0.1, 0.42, 0.10, 0.0],
        [0.0, 0.0, 0.2, 0.00, 0.00, 0.0],  # its best anchor is far from 0.5
        [0.0, 0.0, 0.0, 0.00, 0.00, 0.0],  # touches none
    ])  # fmt: skip
    face, background = match_anchors(overlap, 0.4, 0.5)
    # the second face's best anchor is the first anchor, which it takes from the first face
    assert face.tolist() == [1, 0, 2, -1, -1, -1]
    assert background.tolist() == [False, False, False, False, True, True]


def test_anchors_beside_a_loop():
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        overlap = torch.rand(4, 30, generator=generator) ** 2
        face, background = match_anchors(overlap, 0.4, 0.5)
        for anchor in range(30):
            values = overlap[:, anchor].tolist()
            best = max(values)
            expected = values.index(best) if best >= 0.5 else -1
            low = best < 0.4
            for row in range(4):
                if int(overlap[row].argmax()) == anchor:
                    expected, low = row, False
            assert face[anchor] == expected
            assert background[anchor] == low


def test_an_image_without_faces_is_all_background():
    anchors = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 15]])
    some = Faces(anchors[:1], (20, 20), torch.tensor([1]))
    found = assign_anchors(
        anchors, [Faces.empty((20, 20)), some], num_classes=2, background=0.4, foreground=0.5
    )
    assert found.labels.tolist() == [[2, 2], [1, 2]]
    assert found.face.tolist() == [[-1, -1], [0, -1]]
    assert found.boxes[1, 0].tolist() == [0, 0, 10, 10]


def test_predictions_are_in_the_order_of_the_anchors():
    """A map that says where its cell and anchor are, beside the anchors themselves."""
    model = tiny("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[0.5, 1.0]]")
    maps = []
    for height, width in ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1)):
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        parts = [torch.full_like(rows, a) if k == 2 else (rows, columns)[k] for a in (0, 1)
                 for k in range(3)]  # fmt: skip
        maps.append(torch.stack(parts)[None].float())
    said = per_anchor(maps, 3)[0]
    anchors = model.anchors.of_image(maps)
    assert len(said) == len(anchors)
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    stride = torch.cat([
        torch.full((2 * m.shape[-2] * m.shape[-1],), s)
        for m, s in zip(maps, (8, 16, 32, 64, 128), strict=True)
    ])  # fmt: skip
    assert_close(centre, torch.stack((said[:, 1], said[:, 0]), 1) * stride[:, None].float())
    shape = (anchors[:, 3] - anchors[:, 1]) / (anchors[:, 2] - anchors[:, 0])
    assert_close(shape, torch.where(said[:, 2] == 0, 0.5, 1.0))


def test_proposals_name_the_cells_of_anchors():
    image, faces = sample()
    model = tiny().eval()
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    anchors = model.anchors.of_image([torch.zeros(1, 1, *size) for size in sizes])
    targets = [Faces.empty((64, 96)), faces]
    found = assign_anchors(anchors, targets, num_classes=2, background=0.4, foreground=0.5)
    proposals = anchor_proposals(found, anchors.expand(2, -1, -1), model.levels, sizes, 3)
    count = 0
    for (_, width), stride, one in zip(
        sizes, (8, 16, 32, 64, 128), proposals.values(), strict=True
    ):
        assert (one.image == 1).all()
        centre = (one.boxes[:, :2] + one.boxes[:, 2:]) / 2
        cell = torch.stack((one.cells % width, one.cells // width), 1)
        assert_close(centre, cell.float() * stride)
        assert (box_iou(one.boxes, faces.boxes).gather(1, one.face[:, None]) > 0).all()
        count += len(one.face)
    assert count == found.positive.sum() > 1
    every = every_anchor(anchors.expand(2, -1, -1), model.levels, sizes, 3)
    assert sum(len(one.cells) for one in every.values()) == 2 * len(anchors)
    for one, all_of_level in zip(proposals.values(), every.values(), strict=True):
        rows = torch.cat((all_of_level.image[:, None], all_of_level.cells[:, None],
                          all_of_level.boxes), 1).tolist()  # fmt: skip
        mine = torch.cat((one.image[:, None], one.cells[:, None], one.boxes), 1).tolist()
        assert all(row in rows for row in mine)


# --- losses ------------------------------------------------------------------------------------


def test_the_self_adjusting_loss_beside_a_loop():
    generator = torch.Generator().manual_seed(0)
    loss = SelfAdjustingSmoothL1(0.11, momentum=0.9)
    mean, variance = [0.11] * 4, [0.0] * 4
    for step in range(4):
        scale = torch.tensor([0.02, 0.1, 0.5, 3.0])  # of the last one the variance wins
        predicted = torch.randn(6, 4, generator=generator) * scale
        wanted = torch.zeros(6, 4)
        expected = 0.0
        for k in range(4):
            errors = [abs(float(e)) for e in predicted[:, k]]
            now = sum(errors) / 6
            spread = sum(e * e for e in errors) / 6 - now * now
            mean[k] = 0.9 * mean[k] + 0.1 * now
            variance[k] = 0.9 * variance[k] + 0.1 * spread
            turn = min(max(mean[k] - variance[k], 1e-3), 0.11)
            for e in errors:
                expected += e * e / (2 * turn) if e < turn else e - turn / 2
        assert loss(predicted, wanted).item() == pytest.approx(expected, rel=1e-5), step
    assert loss.turning_points()[3].item() == pytest.approx(1e-3)
    assert 1e-3 < loss.turning_points()[0].item() < 0.11


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_errors_adjust_nothing(count):
    loss = SelfAdjustingSmoothL1()
    predicted = torch.ones(count, 4, requires_grad=True)
    value = loss(predicted, torch.zeros(count, 4))
    value.backward()
    assert value.item() == pytest.approx(count * 4 * (1 - 0.11 / 2))
    assert loss.running_mean.tolist() == pytest.approx([0.11] * 4)


def test_without_adjusting_it_is_smooth_l1():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(9, 4, generator=generator) for _ in range(2))
    loss = SelfAdjustingSmoothL1(0.5, adjusting=False)
    expected = torch.nn.functional.smooth_l1_loss(one, other, beta=0.5, reduction="sum")
    assert_close(loss(one, other), expected)
    with pytest.raises(ValueError, match="SMOOTH_L1_LOSS_BETA"):
        SelfAdjustingSmoothL1(0.0)


def test_dense_losses_beside_loops():
    model = tiny("MODEL.RETINANET.SELF_ADJUSTING", "False").train()
    image, faces = sample()
    targets = [faces, Faces.empty((64, 96))]
    batch = model.preprocess([image, image])
    features = model.extract_features(batch)
    with torch.no_grad():
        logits, deltas = model.head([features[level] for level in model.levels])
    anchors = model.anchors.of_image(logits)
    found = assign_anchors(anchors, targets, num_classes=2, background=0.4, foreground=0.5)
    losses = model.dense_losses(logits, deltas, anchors, found)
    classes, boxes = per_anchor(logits, 2).double().sigmoid(), per_anchor(deltas, 4).double()
    focal = error = 0.0
    positives = 0
    for b in range(2):
        for r, label in enumerate(found.labels[b].tolist()):
            if label == -1:
                continue
            for k in range(2):
                p = float(classes[b, r, k])
                if k == label:
                    focal += -0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    focal += -0.75 * p**2 * math.log(1 - p)
            if label == 2:
                continue
            positives += 1
            ax0, ay0, ax1, ay1 = anchors[r].tolist()
            x0, y0, x1, y1 = faces.boxes[found.face[b, r]].tolist()
            wanted = (
                ((x0 + x1) - (ax0 + ax1)) / 2 / (ax1 - ax0),
                ((y0 + y1) - (ay0 + ay1)) / 2 / (ay1 - ay0),
                math.log((x1 - x0) / (ax1 - ax0)),
                math.log((y1 - y0) / (ay1 - ay0)),
            )
            for value, target in zip(boxes[b, r].tolist(), wanted, strict=True):
                e = abs(value - target)
                error += e * e / 0.22 if e < 0.11 else e - 0.055
    assert positives > 1
    assert losses["loss_cls"].item() == pytest.approx(focal / (positives + 2), rel=1e-4)
    assert losses["loss_box_reg"].item() == pytest.approx(error / (4 * positives), rel=1e-4)


def test_faces_that_no_anchor_touches():
    model = tiny("MODEL.ANCHOR_GENERATOR.SIZES", "[[1], [1], [1], [1], [1]]").train()
    image, _ = sample()
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[0, 28:30, 44:46] = True
    faces = Faces(torch.tensor([[44.0, 28, 46, 30]]), (64, 96), torch.tensor([1]), masks=mask)
    output = model([image], [faces])
    assert output.losses["loss_box_reg"].item() == 0
    assert output.losses["loss_mask"] > 0  # the face's own box
    assert all(len(found.face) == 0 for found in output.proposals.values())
    sum(output.losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


# --- selection and the whole model ---------------------------------------------------------------


def test_selection_by_hand():
    selector = AnchorSelector(0.3, 2, 0.5, 3)
    boxes = [
        torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11], [20, 20, 30, 30], [5, 5, 50, 8]]),
        torch.tensor([[0.0, 0, 10, 10], [-5, 30, 10, 60]]),
    ]
    scores = [
        torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.2], [0.1, 0.2]]),  # the best two only
        torch.tensor([[0.2, 0.6], [0.4, 0.3]]),
    ]
    found = selector.select(scores, boxes, (40, 40))
    # 0.8 is suppressed by 0.9; another class is not; 0.3 is not above the threshold
    assert_close(found.scores, torch.tensor([0.9, 0.6, 0.4]))
    assert found.labels.tolist() == [0, 1, 0]
    assert found.boxes[2].tolist() == [0, 30, 10, 40]


def test_mixed_sizes_train_and_infer():
    model = tiny().train()
    big, small = sample(), sample((70, 80), seed=1)
    output = model([big[0], small[0]], [big[1], small[1]])
    assert set(output.losses) == {"loss_cls", "loss_box_reg", "loss_mask"}
    assert all(torch.isfinite(loss) and loss > 0 for loss in output.losses.values())
    output.losses["loss_mask"].backward()
    assert all(p.grad is None for p in model.head.parameters())  # boxes are given
    model.eval()
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
        (ours,), (theirs,) = with_masks([image]), plain([image])
    assert theirs.masks is None and plain.pooled_heads == ()
    assert torch.equal(ours.boxes, theirs.boxes)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.RETINANET.IN_FEATURES", "['p3', 'p9']", r"RETINANET.IN_FEATURES \['p9'\]"),
        ("MODEL.RETINANET.MASK_IN_FEATURES", "['p2', 'p3']", r"MASK_IN_FEATURES \['p2'\]"),
        ("MODEL.RETINANET.PRIOR_PROB", "0.0", "PRIOR_PROB"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", "3", "one number"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16]]", "SIZES"),
    ],
)
def test_settings_that_do_not_fit_are_named(key, value, message):
    with pytest.raises(ValueError, match=message):
        tiny(key, value)
