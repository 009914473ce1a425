"""Mask R-CNN as a whole: inputs, precision, proposals and mask features, names of weights."""

import pytest
import torch
from narrow import NARROW
from torch.testing import assert_close

from comics.config import load_config
from comics.integrations.weights import convert_detectron2
from comics.modeling.detectors.base import LevelProposals
from comics.modeling.detectors.mask_rcnn import MaskRCNN
from comics.modeling.detectors.mask_rcnn.heads import BoxDetections
from comics.modeling.detectors.mask_rcnn.pooled_masks import to_candidates
from comics.modeling.detectors.mask_rcnn.sampling import SampledProposals
from comics.ops.boxes import box_iou
from comics.structures import Faces

PYRAMID = [
    "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']",
    "MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']", "MODEL.FPN.TOP_BLOCK", "pool",
]  # fmt: skip
TINY = [
    *NARROW, *PYRAMID,
    "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.ROI_MASK_HEAD.NUM_CONV", "2",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "100", "MODEL.RPN.PRE_NMS_TOPK_TEST", "60",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", "60", "MODEL.RPN.POST_NMS_TOPK_TEST", "40",
    "TEST.DETECTIONS_PER_IMAGE", "20",
]  # fmt: skip


def tiny(*overrides) -> MaskRCNN:
    torch.manual_seed(0)
    model = MaskRCNN.from_config(load_config(overrides=[*TINY, *overrides]))
    torch.nn.init.normal_(model.mask_head.predictor.mask_fcn_logits.weight)
    return model


def sample(size=(64, 96), seed=0) -> tuple[torch.Tensor, Faces]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    masks = torch.zeros(2, *size, dtype=torch.bool)
    masks[0, 8:40, 8:40] = True
    masks[1, 20:60, 30:70] = True
    boxes = torch.tensor([[8.0, 8, 40, 40], [30, 20, 70, 60]])
    return image, Faces(boxes, size, torch.tensor([0, 1]), masks=masks)


def test_mixed_sizes_train_and_infer():
    model = tiny().train()
    big, small = sample(), sample((70, 80), seed=1)
    output = model([big[0], small[0]], [big[1], small[1]])
    assert set(output.losses) == {
        "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask",
    }  # fmt: skip
    assert all(torch.isfinite(loss) and loss > 0 for loss in output.losses.values())
    sizes = [(128, 192), (35, 40)]
    model.eval()
    with torch.no_grad():
        found = model([big[0], small[0]], output_sizes=sizes)
    for faces, (height, width) in zip(found, sizes, strict=True):
        assert faces.image_size == (height, width)
        assert 0 < len(faces) <= 20
        assert (faces.boxes >= 0).all()
        assert (faces.boxes <= torch.tensor([width, height, width, height])).all()
        assert ((faces.boxes[:, 2:] - faces.boxes[:, :2]) > 0).all()
        assert (faces.scores.diff() <= 0).all()
        assert faces.masks.any()


def test_a_batch_gives_each_image_its_own_result():
    model = tiny().eval()
    one, other = sample()[0], sample(seed=1)[0]
    with torch.no_grad():
        together = model([one, other])
        alone = [model([one])[0], model([other])[0]]
    for batched, single in zip(together, alone, strict=True):
        assert_close(batched.boxes, single.boxes, rtol=1e-4, atol=1e-3)
        assert_close(batched.scores, single.scores, rtol=1e-4, atol=1e-5)


def test_without_masks_only_boxes_are_inferred():
    with_masks, boxes_only = tiny().eval(), tiny("MODEL.MASK_ON", "False").eval()
    boxes_only.load_state_dict(with_masks.state_dict())
    image, _ = sample()
    with torch.no_grad():
        full, plain = with_masks([image])[0], boxes_only([image])[0]
    assert plain.masks is None
    assert full.masks.shape == (len(full), 64, 96)
    assert torch.equal(plain.boxes, full.boxes)


def test_faces_without_masks_are_refused_in_training():
    image, faces = sample()
    bare = Faces(faces.boxes, faces.image_size, faces.labels)
    with pytest.raises(ValueError, match="target 1 has 2 faces but no masks"):
        tiny().train()([image, image], [faces, bare])


def test_images_without_detections_give_no_faces():
    model = tiny("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0").eval()
    with torch.no_grad():
        faces = model([sample()[0]])[0]
    assert len(faces) == 0
    assert faces.masks.shape == (0, 64, 96)


def test_bfloat16_autocast_keeps_losses_and_boxes_in_float32():
    image, faces = sample()
    everything = [
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "9999", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "9999",
    ]  # fmt: skip
    exact = tiny(*everything).train()([image], [faces]).losses
    model = tiny(*everything).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model([image], [faces])
        assert output.features["p2"].dtype == torch.bfloat16
        found = model.eval()([image])[0]
    for name, loss in output.losses.items():
        assert loss.dtype == torch.float32
        assert_close(loss, exact[name], rtol=0.1, atol=0.02)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert len(found) > 0


def test_the_mask_of_a_positive_is_learnt_from_its_own_face():
    """Targets of the mask loss: each positive's own face, cut with the positive's box."""
    model = tiny().train()
    image, faces = sample()
    boxes = torch.tensor([[8.0, 8, 40, 40], [24, 8, 56, 40], [30, 20, 70, 60]])
    positive = SampledProposals(
        boxes, torch.zeros(3).long(), torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]), boxes
    )
    batch = model.preprocess([image])
    features = model.extract_features(batch)
    seen = {}
    model.mask_head.forward = lambda pooled, labels: seen.setdefault(
        "logits", torch.full((3, 28, 28), 1.0, requires_grad=True)
    )
    model.mask_losses(features, positive, [faces])["loss_mask"].backward()
    is_face = seen["logits"].grad < 0  # more confidence would lower the loss
    # the second box covers the right half of its face only
    assert is_face[0].all()
    assert is_face[1, :, :14].all()
    assert not is_face[1, :, 15:].any()
    assert is_face[2].all()


def test_proposals_are_the_sampled_faces_by_level():
    model = tiny().train()
    image, faces = sample((128, 160))
    output = model([image, image], [faces, Faces.empty((128, 160))])
    assert list(output.proposals) == ["p2", "p3", "p4", "p5"]
    found = 0
    for position, proposals in enumerate(output.proposals.values()):
        assert isinstance(proposals, LevelProposals)
        assert proposals.cells is None
        assert not proposals.boxes.requires_grad
        assert (proposals.image == 0).all()
        assert (model.box_pooler.level_of(proposals.boxes) == position).all()
        overlap = box_iou(proposals.boxes, faces.boxes)
        assert (overlap.gather(1, proposals.face[:, None]) >= 0.5).all()
        found += len(proposals.face)
    assert found >= 2  # the faces' own boxes at least


@pytest.mark.parametrize("size", [14, 28])
def test_mask_features_of_boxes(size):
    model = tiny().train()
    image, faces = sample()
    output = model([image, image], [faces, Faces.empty((64, 96))])
    assert output.mask_features.shape == (2, 16, 16, 24)
    pooled = model.roi_mask_features(output, [faces.boxes, torch.zeros(0, 4)], size)
    assert pooled.shape == (2, 16, size, size)
    expected = model.mask_head.convs(
        model.mask_pooler(output.features, [faces.boxes, torch.zeros(0, 4)])
    )
    if size == 28:  # half-pixel bilinear doubling: 3/4 of the nearer and 1/4 of the other cell
        inner = pooled[:, :, 1:-1, 1:-1]
        near, far = expected[..., :-1, :-1], expected[..., 1:, 1:]
        right, below = expected[..., :-1, 1:], expected[..., 1:, :-1]
        corner = (9 * near + 3 * right + 3 * below + far) / 16
        assert_close(inner[:, :, ::2, ::2], corner, rtol=1e-4, atol=1e-5)
    else:
        assert_close(pooled, expected)
    pooled.sum().backward()
    assert model.mask_head.convs[0][0].weight.grad.abs().sum() > 0
    assert model.mask_head.predictor.conv5_mask.weight.grad is None


def test_boxes_and_masks_are_scaled_clipped_and_pasted():
    found = BoxDetections(
        torch.tensor([[10.0, 10, 30, 40], [50, 20, 50, 30], [0, 0, 60, 50]]),
        torch.tensor([0.9, 0.8, 0.7]),
        torch.tensor([1, 0, 0]),
    )
    soft = torch.zeros(3, 28, 28)
    soft[0] = 1.0
    soft[2, :14] = 1.0
    faces = to_candidates(found, soft, (50, 60)).drawn((100, 60))
    assert faces.boxes.tolist() == [[10, 20, 30, 80], [0, 0, 60, 100]]
    assert faces.labels.tolist() == [1, 0]
    middle = faces.masks[0, 50].nonzero()[:, 0]  # bilinear sampling rounds a mask's corners
    assert middle.tolist() == list(range(10, 30))
    assert faces.masks[1, :, 30].nonzero()[:, 0].tolist() == list(range(50))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.FPN.TOP_BLOCK", "conv", None),
        ("MODEL.FPN.IN_FEATURES", "['res3', 'res4', 'res5']", r"RPN.IN_FEATURES \['p2'\]"),
        ("MODEL.ROI_HEADS.IN_FEATURES", "['p1', 'p2']", r"ROI_HEADS.IN_FEATURES \['p1'\]"),
        ("MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p4']", "doubling strides"),
        ("MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.3, 0.5]", "IOU_THRESHOLDS"),
        ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "ROI_HEADS.NAME"),
        ("MODEL.ROI_BOX_HEAD.NAME", "Other", "ROI_BOX_HEAD.NAME"),
        ("MODEL.ROI_MASK_HEAD.NAME", "PointRend", "ROI_MASK_HEAD.NAME"),
        ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIPool", "POOLER_TYPE"),
        ("MODEL.RPN.CONV_DIMS", "[-1, 64]", "CONV_DIMS"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64]]", "SIZES"),
    ],
)
def test_settings_that_do_not_fit_are_named(key, value, message):
    if message is None:  # p6 by a convolution is legal too
        assert tiny(key, value).backbone.strides["p6"] == 64
        return
    with pytest.raises(ValueError, match=message):
        tiny(key, value)


def detectron2_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of Detectron2's mask_rcnn_R_50_FPN heads for two classes."""
    layers = {
        "proposal_generator.rpn_head.conv": (256, 256, 3, 3),
        "proposal_generator.rpn_head.objectness_logits": (3, 256, 1, 1),
        "proposal_generator.rpn_head.anchor_deltas": (12, 256, 1, 1),
        "roi_heads.box_head.fc1": (1024, 256 * 7 * 7),
        "roi_heads.box_head.fc2": (1024, 1024),
        "roi_heads.box_predictor.cls_score": (3, 1024),
        "roi_heads.box_predictor.bbox_pred": (8, 1024),
        **{f"roi_heads.mask_head.mask_fcn{i}": (256, 256, 3, 3) for i in (1, 2, 3, 4)},
        "roi_heads.mask_head.deconv": (256, 256, 2, 2),
        "roi_heads.mask_head.predictor": (2, 256, 1, 1),
    }
    weights = {f"{name}.weight": shape for name, shape in layers.items()}
    return weights | {f"{name}.bias": (shape[0],) for name, shape in layers.items()}


def test_published_heads_have_the_same_names_and_shapes():
    theirs = {n: torch.empty(s, device="meta") for n, s in detectron2_shapes().items()}
    statistics = {
        "pixel_mean": torch.zeros(3, 1, 1),
        "pixel_std": torch.ones(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
    }
    converted, unmatched = convert_detectron2(theirs | statistics)
    assert unmatched == []
    with torch.device("meta"):
        model = MaskRCNN.from_config(load_config(overrides=PYRAMID))
    own = {n: v.shape for n, v in model.state_dict().items() if not n.startswith("backbone.")}
    assert {n: v.shape for n, v in converted.items()} == own


def test_heads_of_other_depths_are_numbered_in_order():
    state = {
        f"roi_heads.{name}": torch.tensor(float(number))
        for number, name in enumerate(
            [
                "box_head.conv1.weight", "box_head.conv1.norm.bias", "box_head.conv2.weight",
                "box_head.fc1.weight", "box_head.fc2.bias", "box_head.fc2.weight",
                "mask_head.mask_fcn1.weight", "mask_head.mask_fcn1.norm.weight", "mystery.weight",
            ]
        )
    }  # fmt: skip
    converted, unmatched = convert_detectron2(state)
    assert unmatched == ["roi_heads.mystery.weight"]
    assert {name: int(value) for name, value in converted.items()} == {
        "box_head.layers.0.0.weight": 0,
        "box_head.layers.0.1.bias": 1,
        "box_head.layers.1.0.weight": 2,
        "box_head.layers.3.weight": 3,
        "box_head.layers.5.bias": 4,
        "box_head.layers.5.weight": 5,
        "mask_head.convs.0.0.weight": 6,
        "mask_head.convs.0.1.weight": 7,
    }
