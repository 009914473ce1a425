"""Mask Scoring R-CNN: targets and loss of the IoU head beside loops, and what scores become."""

import pytest
import torch
from narrow import NARROW
from torch.testing import assert_close
from two_faces import sample

from comics.config import load_config
from comics.modeling.detectors.mask_iou import MaskIoUHead, mask_iou_loss, mask_iou_targets
from comics.registry import DETECTORS
from comics.structures import Faces

TINY = [
    *NARROW,
    "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']",
    "MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']", "MODEL.FPN.TOP_BLOCK", "pool",
    "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "100", "MODEL.RPN.PRE_NMS_TOPK_TEST", "60",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", "60", "MODEL.RPN.POST_NMS_TOPK_TEST", "40",
    "MODEL.ROI_MASKIOU_HEAD.NUM_CONV", "2", "MODEL.ROI_MASKIOU_HEAD.CONV_DIM", "8",
    "MODEL.ROI_MASKIOU_HEAD.FC_DIM", "16", "TEST.DETECTIONS_PER_IMAGE", "20",
]  # fmt: skip


def tiny(*overrides, name="MaskScoringRCNN"):
    torch.manual_seed(0)
    return DETECTORS.get(name).from_config(load_config(overrides=[*TINY, *overrides]))


def naive_iou(found, face):
    """Of two masks, pixel by pixel."""
    both = either = 0
    for mine, theirs in zip(found.flatten().tolist(), face.flatten().tolist(), strict=True):
        both += mine and theirs
        either += mine or theirs
    return both / either if both else 0.0


def test_targets_are_ious_with_the_whole_mask_of_the_face():
    """Boxes of one pixel a cell, so that the squares are the image's own pixels."""
    generator = torch.Generator().manual_seed(0)
    face = torch.rand(3, 40, 50, generator=generator) < 0.4
    face[2] = False
    boxes = torch.tensor([[3.0, 5, 31, 33], [20, 10, 48, 38], [0, 0, 28, 28]])
    logits = torch.randn(3, 28, 28, generator=generator, requires_grad=True)
    wanted, expected = [], []
    for mask, box, logit in zip(face, boxes.int().tolist(), logits, strict=True):
        x0, y0, x1, y1 = box
        wanted.append(mask[y0:y1, x0:x1])
        found = torch.zeros_like(mask)
        found[y0:y1, x0:x1] = logit > 0
        expected.append(naive_iou(found, mask))
    areas = face.flatten(1).sum(dim=1)
    target = mask_iou_targets(logits, torch.stack(wanted), boxes, areas)
    assert not target.requires_grad
    assert_close(target.tolist(), expected, rtol=1e-5, atol=1e-6)
    assert expected[0] > 0 and expected[2] == 0


def test_targets_of_a_face_under_a_cell_stay_ious():
    logits = torch.ones(1, 28, 28)
    target = mask_iou_targets(
        logits, torch.ones(1, 28, 28, dtype=torch.bool), torch.tensor([[4.0, 4, 6, 6]]),
        torch.tensor([1]),
    )  # fmt: skip
    assert target.tolist() == [1.0]
    none = mask_iou_targets(logits[:0], logits[:0] > 0, torch.zeros(0, 4), torch.zeros(0))
    assert none.shape == (0,)


def test_loss_beside_a_loop():
    generator = torch.Generator().manual_seed(0)
    predicted = torch.rand(9, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.rand(9, generator=generator, dtype=torch.float64)
    target[[2, 5]] = 0
    errors = [
        (p - t) ** 2 / 2 for p, t in zip(predicted.tolist(), target.tolist(), strict=True) if t > 0
    ]
    loss = mask_iou_loss(predicted, target)
    assert loss.item() == pytest.approx(sum(errors) / len(errors))
    loss.backward()
    assert (predicted.grad == 0).tolist() == (target == 0).tolist()


@pytest.mark.parametrize("target", [torch.zeros(3), torch.zeros(0)])
def test_nothing_to_learn_is_an_exact_differentiable_zero(target):
    predicted = torch.rand(len(target), requires_grad=True)
    loss = mask_iou_loss(predicted, target)
    loss.backward()
    assert loss.item() == 0
    assert (predicted.grad == 0).all()


def test_the_head_reads_its_own_class_and_teaches_features_but_no_mask():
    torch.manual_seed(0)
    head = MaskIoUHead(4, 14, num_classes=2, num_convs=2, channels=8, linear_width=16)
    pooled = torch.randn(3, 4, 14, 14, requires_grad=True)
    logits = torch.randn(3, 28, 28, requires_grad=True)
    one, other = (head(pooled, logits, torch.full((3,), c)) for c in (0, 1))
    mixed = head(pooled, logits, torch.tensor([0, 1, 0]))
    assert_close(mixed, torch.stack((one[0], other[1], one[2])))
    mixed.sum().backward()
    assert logits.grad is None
    assert pooled.grad.abs().sum() > 0
    assert not torch.equal(head(pooled, -logits, torch.zeros(3).long()), one)


def test_a_head_without_convolutions_is_refused():
    with pytest.raises(ValueError, match="NUM_CONV"):
        tiny("MODEL.ROI_MASKIOU_HEAD.NUM_CONV", "0")


def test_the_loss_of_the_iou_leaves_the_mask_predictor_alone():
    model = tiny().train()
    image, faces = sample()
    output = model([image, image], [faces, Faces.empty((64, 96))])
    assert set(output.losses) == {
        "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask", "loss_maskiou",
    }  # fmt: skip
    output.losses["loss_maskiou"].backward()
    assert all(p.grad is None for p in model.mask_head.parameters())
    assert model.mask_iou_head.iou.weight.grad.abs().sum() > 0
    assert model.backbone.bottom_up.res5[0].conv1.conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("iou", [0.5, 1.7, -0.2])
def test_scores_are_multiplied_by_the_predicted_iou(iou):
    scored = tiny().eval()
    plain = tiny(name="MaskRCNN").eval()
    plain.load_state_dict(scored.state_dict(), strict=False)
    torch.nn.init.zeros_(scored.mask_iou_head.iou.weight)
    torch.nn.init.constant_(scored.mask_iou_head.iou.bias, iou)
    image, _ = sample()
    with torch.no_grad():
        (ours,), (theirs,) = scored([image]), plain([image])
    assert len(theirs) > 3
    assert_close(ours.scores, theirs.scores * min(max(iou, 0), 1))
    assert torch.equal(ours.boxes, theirs.boxes)
    assert torch.equal(ours.masks, theirs.masks)


def test_faces_are_ranked_by_the_new_scores():
    model = tiny().eval()
    plain = tiny(name="MaskRCNN").eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    model.mask_iou_head.forward = lambda pooled, logits, labels: torch.linspace(
        0.1, 0.9, len(labels)
    )
    image, _ = sample()
    with torch.no_grad():
        (ours,), (theirs,) = model([image]), plain([image])
    count = len(theirs)
    products = theirs.scores * torch.linspace(0.1, 0.9, count)
    order = products.argsort(descending=True, stable=True)
    assert order.tolist() != list(range(count))
    assert_close(ours.scores, products[order])
    assert torch.equal(ours.boxes, theirs.boxes[order])
    assert torch.equal(ours.masks, theirs.masks[order])


def test_without_masks_scores_are_those_of_the_boxes():
    image, _ = sample()
    with torch.no_grad():
        (ours,) = tiny("MODEL.MASK_ON", "False").eval()([image])
        (theirs,) = tiny("MODEL.MASK_ON", "False", name="MaskRCNN").eval()([image])
    assert ours.masks is None
    assert len(ours) == len(theirs)


def test_a_face_of_two_pixels_trains():
    model = tiny().train()
    image, _ = sample()
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[0, 30:32, 40:41] = True
    faces = Faces(
        torch.tensor([[40.0, 30, 41, 32]]), (64, 96), torch.tensor([1]), masks=mask
    )  # fmt: skip
    losses = model([image], [faces]).losses
    assert all(torch.isfinite(loss) for loss in losses.values())
