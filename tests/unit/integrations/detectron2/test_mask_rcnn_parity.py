"""Our Mask R-CNN against Detectron2's, with the same weights: a small one of its own making."""

import copy
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from comics.config import get_cfg, load_config
from comics.integrations.weights import convert_detectron2
from comics.modeling.detectors.base import levels_named
from comics.modeling.detectors.mask_rcnn import MaskRCNN
from comics.modeling.weights import load_state
from comics.structures import Faces

pytest.importorskip("detectron2", reason="needs Detectron2, which PyPI does not have")

from detectron2 import model_zoo  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.modeling.poolers import ROIPooler  # noqa: E402
from detectron2.structures import BitMasks, Boxes, Instances  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402

YAML = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
SMALL = [
    "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "INPUT.MASK_FORMAT", "bitmask",
    "MODEL.PIXEL_MEAN", [103.0, 116.0, 123.0], "MODEL.PIXEL_STD", [57.0, 57.0, 58.0],
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.FPN.OUT_CHANNELS", 32,
    "MODEL.ROI_HEADS.NUM_CLASSES", 2, "MODEL.ROI_BOX_HEAD.FC_DIM", 64,
    "MODEL.ROI_BOX_HEAD.CONV_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 32,
]  # fmt: skip
EVERYTHING = [  # sampled for the losses: nothing is left to chance
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 100_000, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 100_000,
]  # fmt: skip
# Both sides draw with torch.randperm in the same order. Of few proposals: of many, two have
# nearly the same score, may swap ranks by rounding, and another one is drawn
FEW = [
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 60, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 20,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 12,
]  # fmt: skip
OTHER_HEADS = [
    "MODEL.ROI_BOX_HEAD.NUM_CONV", 4, "MODEL.ROI_BOX_HEAD.NUM_FC", 1,
    "MODEL.ROI_BOX_HEAD.NORM", "GN", "MODEL.ROI_MASK_HEAD.NORM", "GN", "MODEL.FPN.NORM", "GN",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True,
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlign", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 2,
    "MODEL.ANCHOR_GENERATOR.OFFSET", 0.5,
    "MODEL.ANCHOR_GENERATOR.SIZES", [[16, 40], [32, 64], [64, 100], [100, 128], [128, 256]],
    "MODEL.RPN.CONV_DIMS", [-1, -1], "MODEL.RPN.SMOOTH_L1_BETA", 0.11,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", 0.5, "MODEL.RPN.LOSS_WEIGHT", 0.7,
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT", 1.3, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", 0.4,
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 5, "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 150,
    "MODEL.RPN.PRE_NMS_TOPK_TEST", 150, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 120,
    "MODEL.RPN.POST_NMS_TOPK_TEST", 100, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.2,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.6, "MODEL.RPN.NMS_THRESH", 0.8,
    "TEST.DETECTIONS_PER_IMAGE", 30,
]  # fmt: skip
VARIANTS = {"published": [], "other heads": OTHER_HEADS}


def take_known(ours: dict, theirs: dict) -> None:
    for key, value in ours.items():
        if isinstance(value, dict):
            take_known(value, theirs.get(key, {}))
        elif key in theirs:
            ours[key] = theirs[key]


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Weights that give every prediction some spread, and norms that do something."""
    generator = torch.Generator().manual_seed(1)

    def normal_(tensor, std):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)

    for name, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
        if "norm" in name and name.endswith(("weight", "running_var")):
            tensor.copy_(0.7 + 0.6 * torch.rand(tensor.shape, generator=generator))
            if "conv3" in name:  # or the residual sums grow from block to block
                tensor *= 0.3
        elif name.endswith(("bias", "running_mean")):
            normal_(tensor, 0.1)
    predictors = {
        model.proposal_generator.rpn_head.objectness_logits: 0.5,
        model.proposal_generator.rpn_head.anchor_deltas: 0.05,
        model.roi_heads.box_predictor.cls_score: 0.1,
        model.roi_heads.box_predictor.bbox_pred: 0.2,
        model.roi_heads.mask_head.predictor: 0.5,
    }
    for predictor, std in predictors.items():
        normal_(predictor.weight, std)
        # their inputs are rectified, all positive: without this one class would always win
        predictor.weight -= predictor.weight.mean(dim=1, keepdim=True)


def make_pair(*overrides):
    """Detectron2's model and ours with its weights, both from the same keys."""
    torch.manual_seed(0)
    theirs_cfg = model_zoo.get_config(YAML)
    theirs_cfg.merge_from_list([*SMALL, *overrides])
    theirs = build_model(theirs_cfg)
    randomise(theirs)
    cfg = get_cfg()
    take_known(cfg.MODEL, theirs_cfg.MODEL)
    cfg.MODEL.FPN.TOP_BLOCK = "pool"
    cfg.INPUT.FORMAT = theirs_cfg.INPUT.FORMAT
    cfg.TEST.DETECTIONS_PER_IMAGE = theirs_cfg.TEST.DETECTIONS_PER_IMAGE
    ours = MaskRCNN.from_config(cfg)
    converted, unmatched = convert_detectron2(theirs.state_dict())
    assert unmatched == []
    load_state(ours, converted, "Detectron2")
    return theirs, ours


def sample(size: tuple[int, int], boxes: list, seed: int) -> tuple[torch.Tensor, Faces]:
    """A smooth random RGB image with elliptic faces in the boxes, real and fake in turn."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    coarse = torch.rand(1, 3, 8, 8, generator=generator) * 255
    image = torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0].clamp(0, 255)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        x, y = (columns + 0.5 - (x0 + x1) / 2) * 2, (rows + 0.5 - (y0 + y1) / 2) * 2
        mask |= (x / (x1 - x0)) ** 2 + (y / (y1 - y0)) ** 2 < 1
    labels = torch.arange(len(boxes)) % 2
    faces = Faces(torch.tensor(boxes).view(-1, 4), size, labels, masks=masks)
    return image.to(torch.uint8), faces


def batch() -> tuple[list[torch.Tensor], list[Faces]]:
    """Two images of different sizes; one has three faces, at the border too, the other one."""
    several = [[10.0, 12.5, 61.0, 80.0], [70.25, 20, 150, 126.5], [160, -6, 223.5, 60]]
    pairs = [sample((128, 224), several, 3), sample((150, 100), [[20.0, 30, 90, 140]], 4)]
    images, targets = zip(*pairs, strict=True)
    return list(images), list(targets)


def their_inputs(images, targets=None, output_sizes=None) -> list[dict]:
    inputs = []
    for position, image in enumerate(images):
        entry = {"image": image.flip(0)}  # they read BGR
        if output_sizes is not None:
            entry["height"], entry["width"] = output_sizes[position]
        if targets is not None:
            faces = targets[position]
            entry["instances"] = Instances(
                faces.image_size,
                gt_boxes=Boxes(faces.boxes.clone()),
                gt_classes=faces.labels,
                gt_masks=BitMasks(faces.masks),
            )
        inputs.append(entry)
    return inputs


def both_losses(theirs, ours, images, targets):
    """Losses of either model, drawn with the same seed."""
    torch.manual_seed(5)
    with EventStorage(0):
        expected = theirs.train()(copy.deepcopy(their_inputs(images, targets)))
    torch.manual_seed(5)
    return expected, ours.train()(images, targets)


@pytest.mark.parametrize("variant", VARIANTS)
def test_detections_are_the_same(variant):
    theirs, ours = make_pair("TEST.DETECTIONS_PER_IMAGE", 200, *VARIANTS[variant])
    images, _ = batch()
    sizes = [(64, 112), (225, 150)]
    with torch.no_grad():
        expected = theirs.eval()(their_inputs(images, output_sizes=sizes))
        found = ours.eval()(images, output_sizes=sizes)
    for faces, entry, size in zip(found, expected, sizes, strict=True):
        wanted = entry["instances"]
        assert len(faces) == len(wanted) > 20
        assert set(faces.labels.tolist()) == {0, 1}
        assert torch.equal(faces.labels, wanted.pred_classes)
        assert_close(faces.boxes, wanted.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
        assert_close(faces.scores, wanted.scores, rtol=1e-4, atol=1e-6)
        assert faces.masks.shape[1:] == size
        assert faces.masks.flatten(1).any(dim=1).float().mean() > 0.5
        assert (faces.masks ^ wanted.pred_masks).float().mean() < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sampling", [EVERYTHING, FEW], ids=["everything", "few"])
def test_losses_and_gradients_are_the_same(variant, sampling):
    theirs, ours = make_pair(*VARIANTS[variant], *sampling)
    images, targets = batch()
    expected, output = both_losses(theirs, ours, images, targets)
    assert set(output.losses) == set(expected)
    for name, loss in expected.items():
        assert loss > 0
        assert_close(output.losses[name], loss, rtol=1e-4, atol=0.0)
    sum(expected.values()).backward()
    sum(output.losses.values()).backward()
    own_name, _ = convert_detectron2({name: name for name, _ in theirs.named_parameters()})
    parameters = dict(ours.named_parameters())
    compared = 0
    wanted = {name: p.grad for name, p in theirs.named_parameters()}
    for mine, name in own_name.items():
        gradient = parameters[mine].grad
        if wanted[name] is None:
            assert gradient is None
            continue
        # in the norm: a unit whose input is 0 but for rounding may be on here and off there
        assert (gradient - wanted[name]).norm() <= 5e-3 * wanted[name].norm()
        compared += 1
    assert compared == sum(p.requires_grad for p in theirs.parameters()) > 40


def test_losses_with_an_image_without_faces_are_the_same():
    theirs, ours = make_pair(*FEW)
    images, targets = batch()
    targets[1] = Faces.empty(targets[1].image_size)
    expected, output = both_losses(theirs, ours, images, targets)
    for name, loss in expected.items():
        assert_close(output.losses[name], loss, rtol=1e-4, atol=1e-7)
    expected, output = both_losses(theirs, ours, images[1:], targets[1:])
    for name, loss in expected.items():
        assert_close(output.losses[name], loss, rtol=1e-4, atol=1e-7)
    assert output.losses["loss_mask"] == 0


def test_proposals_are_the_same():
    theirs, ours = make_pair()
    images, _ = batch()
    network = theirs.eval().proposal_generator
    with torch.no_grad():
        prepared = theirs.preprocess_image(their_inputs(images))
        features = theirs.backbone(prepared.tensor)
        expected, _ = network(prepared, features)
        logits, deltas = network.rpn_head([features[level] for level in network.in_features])
        own = ours.eval().preprocess(images)
        assert_close(own.tensor, prepared.tensor)
        dense = ours.dense(ours.extract_features(own))
        for name, levels in (("objectness", logits), ("deltas", deltas)):
            found = levels_named(dense, name, network.in_features)
            for one, other in zip(found, levels, strict=True):
                assert_close(one, other, rtol=1e-4, atol=1e-4)
        # From the same numbers: of two overlapping boxes whose logits differ by rounding alone,
        # either may be the one that stays
        found = ours.proposal_network.propose(logits, deltas, own.sizes)
    for boxes, wanted in zip(found, expected, strict=True):
        assert len(boxes) > 100
        assert_close(boxes, wanted.proposal_boxes.tensor, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_anchors_are_the_same(offset):
    theirs, ours = make_pair("MODEL.ANCHOR_GENERATOR.OFFSET", offset)
    images, _ = batch()
    batched = ours.preprocess(images)
    levels = [ours.extract_features(batched)[level] for level in ours.proposal_network.levels]
    wanted = torch.cat(
        [boxes.tensor for boxes in theirs.proposal_generator.anchor_generator(levels)]
    )
    found = ours.proposal_network.anchor_generator(
        type("Images", (), {"image_sizes": batched.sizes}), levels
    )
    assert len(found) == 2
    assert_close(found[0], wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("pooler_type", ["ROIAlignV2", "ROIAlign"])
def test_pooling_of_all_levels_is_the_same(pooler_type):
    _, ours = make_pair("MODEL.ROI_MASK_HEAD.POOLER_TYPE", pooler_type)
    pooler = ours.mask_pooler
    generator = torch.Generator().manual_seed(2)
    sides = 2.0 ** torch.empty(60).uniform_(1, 9.5, generator=generator)
    sides = torch.cat((sides, torch.tensor([112.0, 224, 448, 0, 111.99999, 223.99999])))
    corner = torch.rand(len(sides), 2, generator=generator) * 60 - 20
    boxes = torch.cat((corner, corner + sides[:, None]), dim=1)
    features = {
        level: torch.randn(2, 3, 640 // stride, 640 // stride, generator=generator)
        for level, stride in zip(pooler.levels, pooler.strides, strict=True)
    }
    split = [boxes[:30], boxes[30:]]
    peer = ROIPooler(14, [1 / stride for stride in pooler.strides], 0, pooler_type)
    wanted = peer(list(features.values()), [Boxes(b) for b in split])
    assert pooler.level_of(boxes).unique().tolist() == [0, 1, 2, 3]
    assert_close(pooler(features, split), wanted, rtol=1e-5, atol=1e-6)


def test_the_published_model_has_the_same_names_and_shapes():
    """At full width; only the number of classes is ours."""
    theirs_cfg = model_zoo.get_config(YAML)
    theirs_cfg.merge_from_list([*SMALL[:4], "MODEL.ROI_HEADS.NUM_CLASSES", 2])
    path = Path(__file__).parents[4] / "configs/Mask-RCNN/R_50_FPN_1x.yaml"
    theirs = build_model(theirs_cfg)
    with torch.device("meta"):
        ours = MaskRCNN.from_config(load_config(path))
    converted, unmatched = convert_detectron2(theirs.state_dict())
    assert unmatched == []
    own = {name: value.shape for name, value in ours.state_dict().items()}
    assert {name: value.shape for name, value in converted.items()} == own
    theirs_trained = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert sum(p.numel() for p in ours.parameters() if p.requires_grad) == theirs_trained
