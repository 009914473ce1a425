"""CenterMask: levels by the share of the image, attention, which boxes teach masks, and scores."""

import math

import pytest
import torch
from narrow import NARROW
from torch.testing import assert_close
from two_faces import sample

from comics.config import load_config
from comics.modeling.detectors.centermask import CenterMask
from comics.modeling.detectors.centermask.mask_head import (
    AdaptivePooler,
    SpatialAttention,
    SpatialAttentionMaskHead,
)
from comics.ops.boxes import box_iou
from comics.structures import Faces

TINY = [
    *NARROW,
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FCOS.NUM_CLS_CONVS", "1",
    "MODEL.FCOS.NUM_BOX_CONVS", "1", "MODEL.FCOS.PRIOR_PROB", "0.3",
    "MODEL.FCOS.POST_NMS_TOPK_TEST", "20",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1",
    "MODEL.ROI_MASKIOU_HEAD.NUM_CONV", "2", "MODEL.ROI_MASKIOU_HEAD.CONV_DIM", "8",
    "MODEL.ROI_MASKIOU_HEAD.FC_DIM", "16",
]  # fmt: skip


def tiny(*overrides):
    torch.manual_seed(0)
    return CenterMask.from_config(load_config(overrides=[*TINY, *overrides]))


def pooler(assignment="ratio"):
    return AdaptivePooler(
        ("p3", "p4", "p5"), (8, 16, 32), assignment=assignment, size=14, sampling_ratio=0
    )


# --- levels ------------------------------------------------------------------------------------


def test_levels_follow_the_share_of_the_image():
    """Equation 2 in plain numbers: k = ceil(5 - log2(image / box)), from 3 to 5."""
    sizes = [(400, 600), (40, 60)]
    sides = [2.0, 30, 100, 173, 174, 245, 246, 347, 400]
    boxes = torch.tensor([[0, 0, side, side] for side in sides])
    small = boxes / 10
    found = pooler().level_in([boxes, small], sizes).tolist()
    expected = []
    for side in sides:
        level = math.ceil(5 - math.log2(400 * 600 / side**2))
        expected.append(min(max(level, 3), 5) - 3)
    assert found == expected * 2  # an image of another scale changes nothing
    assert set(expected) == {0, 1, 2}


def test_a_box_without_area_goes_to_the_finest_level():
    boxes = [torch.tensor([[5.0, 5, 5, 20], [0, 0, 60, 40]])]
    assert pooler().level_in(boxes, [(40, 60)]).tolist() == [0, 2]
    assert pooler().level_in([torch.zeros(0, 4)], [(40, 60)]).tolist() == []


def test_area_is_the_rule_of_mask_rcnn():
    boxes = torch.tensor([[0.0, 0, 20, 20], [0, 0, 224, 224], [0, 0, 800, 800]])
    rule = pooler("area")
    assert torch.equal(rule.level_in([boxes], [(1000, 1000)]), rule.level_of(boxes))
    with pytest.raises(ValueError, match="ASSIGN_CRITERION"):
        pooler("size")


def test_boxes_are_read_from_their_level():
    maps = {
        name: torch.full((1, 1, 64 // stride, 64 // stride), float(stride))
        for name, stride in (("p3", 8), ("p4", 16), ("p5", 32))
    }
    boxes = [torch.tensor([[16.0, 16, 24, 24], [0, 0, 40, 40], [0, 0, 64, 64]])]
    pooled = pooler().pool(maps, boxes, [(64, 64)])
    middle = pooled[:, 0, 6:8, 6:8].mean(dim=(1, 2))
    assert middle.tolist() == [8.0, 16.0, 32.0]


# --- attention ---------------------------------------------------------------------------------


def test_attention_beside_a_loop():
    torch.manual_seed(0)
    attention = SpatialAttention().double()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    expected = torch.zeros_like(x)
    weight = attention.conv.weight[0]
    for box in range(2):
        for i in range(5):
            for j in range(4):
                total = 0.0
                for a in range(3):
                    for b in range(3):
                        y, z = i + a - 1, j + b - 1
                        if 0 <= y < 5 and 0 <= z < 4:
                            values = x[box, :, y, z]
                            total += float(weight[0, a, b] * values.mean())
                            total += float(weight[1, a, b] * max(values))
                expected[box, :, i, j] = x[box, :, i, j] / (1 + math.exp(-total))
    assert_close(attention(x), expected)


def test_without_attention_the_head_is_mask_rcnns():
    plain = SpatialAttentionMaskHead(8, attention=False, num_classes=2, num_convs=1, channels=8)
    x = torch.randn(2, 8, 14, 14)
    assert torch.equal(plain.convolved(x), plain.convs(x))
    assert not any("attention" in name for name, _ in plain.named_parameters())


# --- training ----------------------------------------------------------------------------------


def test_losses_and_where_their_gradients_go():
    model = tiny().train()
    image, faces = sample()
    output = model([image, image], [faces, Faces.empty((64, 96))])
    assert set(output.losses) == {
        "loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr", "loss_mask", "loss_maskiou",
    }  # fmt: skip
    output.losses["loss_mask"].backward(retain_graph=True)
    assert all(p.grad is None for p in model.head.parameters())  # boxes are given
    assert model.mask_head.attention.conv.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.mask_iou_head.parameters())
    model.zero_grad()
    output.losses["loss_maskiou"].backward()
    assert all(p.grad is None for p in model.mask_head.parameters())


def test_masks_are_learnt_from_detections_over_a_face_and_from_faces():
    model = tiny().train()
    image, faces = sample()
    batch = model.preprocess([image, image])
    dense = model.dense_training(model.extract_features(batch), [faces, Faces.empty((64, 96))])
    near = torch.tensor([[10.0, 8, 42, 40], [80, 50, 96, 64], [-9, 8, 40, 40]])

    class Found:
        def select(self, *maps):
            from comics.modeling.detectors.fcos import Detections

            zeros = torch.zeros(3).long()
            one = Detections(near, torch.ones(3), zeros, zeros, zeros)
            return [one, one]

    model.selector = Found()
    boxes = model.detected_boxes(dense)
    found = model.trained_boxes(boxes, batch.sizes, [faces, Faces.empty((64, 96))])
    assert (found.image == 0).all()
    rows = sorted(found.boxes.tolist())
    clipped = [0.0, 8, 40, 40]
    assert rows == sorted([near[0].tolist(), clipped, *faces.boxes.tolist()])
    overlap = box_iou(found.boxes, faces.boxes)
    assert torch.equal(found.face, overlap.argmax(dim=1))
    assert torch.equal(found.labels, faces.labels[found.face])


def test_faces_under_the_finest_stride_train():
    model = tiny().train()
    image, _ = sample()
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[0, 30:32, 40:43] = True
    faces = Faces(torch.tensor([[40.0, 30, 43, 32]]), (64, 96), torch.tensor([1]), masks=mask)
    output = model([image], [faces])
    assert all(torch.isfinite(loss) for loss in output.losses.values())
    assert output.losses["loss_mask"] > 0
    assert model.roi_mask_features(output, [faces.boxes], 28).shape == (1, 16, 28, 28)


# --- inference ---------------------------------------------------------------------------------


def test_scores_are_fcoss_times_the_predicted_iou():
    image, _ = sample()
    scored, plain = tiny().eval(), tiny("MODEL.CENTERMASK.MASKIOU_ON", "False").eval()
    plain.load_state_dict(scored.state_dict(), strict=False)
    torch.nn.init.zeros_(scored.mask_iou_head.iou.weight)
    torch.nn.init.constant_(scored.mask_iou_head.iou.bias, 0.25)
    with torch.no_grad():
        (ours,), (theirs,) = scored([image]), plain([image])
    assert len(ours) > 3
    assert_close(ours.scores, theirs.scores / 4)
    assert torch.equal(ours.masks, theirs.masks)
    assert plain.pooled_heads == ("mask_head",)


def test_an_image_in_a_larger_batch_keeps_its_masks():
    """Levels depend on the image, not on the padding."""
    model = tiny().eval()
    one, other = sample()[0], sample((200, 240), seed=1)[0]
    with torch.no_grad():
        alone, together = model([one])[0], model([one, other])[0]
    assert len(alone) > 0
    seen = []
    model.mask_pooler.level_in = lambda boxes, sizes: (
        seen.append(sizes) or torch.zeros(sum(map(len, boxes)), dtype=torch.int64)
    )
    with torch.no_grad():
        model([one, other])
    assert seen == [[(64, 96), (200, 240)]]
    assert together.image_size == (64, 96)


def test_without_masks_no_features_are_handed_on():
    model = tiny("MODEL.MASK_ON", "False").eval()
    image, _ = sample()
    with torch.no_grad():
        features = model.extract_features(model.preprocess([image]))
        assert not any("features" in name for name in model.dense(features))
        (faces,) = model([image])
    assert faces.masks is None and len(faces) > 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "MODEL.CENTERMASK.MASK_IN_FEATURES",
            "['p2', 'p3']",
            r"CENTERMASK.MASK_IN_FEATURES \['p2'\]",
        ),
        ("MODEL.CENTERMASK.ASSIGN_CRITERION", "size", "ASSIGN_CRITERION"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", "3", "one number"),
    ],
)
def test_settings_that_do_not_fit_are_named(key, value, message):
    with pytest.raises(ValueError, match=message):
        tiny(key, value)
