"""COMICS around Detectron2's Generalized R-CNN."""

import math
import pickle

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2 import model_zoo  # noqa: E402
from detectron2.checkpoint import DetectionCheckpointer  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.structures import Boxes  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402

from comics.integrations.detectron2 import load_config, load_weights  # noqa: E402
from comics.integrations.detectron2.instances import sample_to_input  # noqa: E402
from comics.integrations.detectron2.rcnn import RCNNDetector, build_comics_rcnn  # noqa: E402
from comics.structures import Faces  # noqa: E402

ZOO = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
TINY = [
    "MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
    "MODEL.RESNETS.STEM_OUT_CHANNELS", "16", "MODEL.BACKBONE.FREEZE_AT", "0",
    "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.ROI_MASK_HEAD.NUM_CONV", "2",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "100", "MODEL.RPN.PRE_NMS_TOPK_TEST", "100",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", "50", "MODEL.RPN.POST_NMS_TOPK_TEST", "50",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32", "MODEL.ROI_HEADS.NUM_CLASSES", "2",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.DETECTIONS_PER_IMAGE", "20",
    "MODEL.COMICS.PROPOSAL.BANK_SIZE", "32", "MODEL.COMICS.PROPOSAL.DIM", "8",
]  # fmt: skip
BARE = [
    "MODEL.COMICS.FEA.ENABLED", "False", "MODEL.COMICS.PROPOSAL.ENABLED", "False",
    "MODEL.COMICS.PIXEL.ENABLED", "False",
]  # fmt: skip


def config(name, *more):
    path = model_zoo.get_config_file(ZOO)
    return load_config(path, [*TINY, *more, "MODEL.META_ARCHITECTURE", name])


def make(name, *more):
    torch.manual_seed(0)
    return build_model(config(name, *more))


def inputs(scenes, with_targets=True, with_keys=False):
    return [
        sample_to_input(
            image,
            image if with_keys else None,
            faces if with_targets else None,
            image_format="BGR",
            image_id=position,
            file_name=f"{position}.png",
            original_size=(image.shape[1] * 2, image.shape[2] * 2),
        )
        for position, (image, faces) in enumerate(zip(*scenes, strict=True))
    ]


def losses_of(model, batch):
    torch.manual_seed(1)  # anchors and proposals are drawn
    with EventStorage():
        return model.train()(batch)


def test_without_additions_it_is_detectron2s_model(scenes):
    theirs, ours = make("GeneralizedRCNN"), make("COMICSGeneralizedRCNN", *BARE)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)
    batch = inputs(scenes)
    expected, found = losses_of(theirs, batch), losses_of(ours, batch)
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        assert torch.equal(found[name], loss), name
    with torch.no_grad():
        detections = [model.eval()(inputs(scenes, with_targets=False)) for model in (theirs, ours)]
    assert len(detections[0][0]["instances"]) > 0
    for expected, found in zip(*detections, strict=True):
        expected, found = expected["instances"], found["instances"]
        assert found.image_size == expected.image_size
        assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
        for field in ("scores", "pred_classes", "pred_masks"):
            assert torch.equal(found.get(field), expected.get(field)), field


def test_checkpoints_of_either_load_into_the_other(tmp_path):
    theirs = make("GeneralizedRCNN")
    torch.save({"model": theirs.state_dict()}, tmp_path / "theirs.pth")
    torch.manual_seed(5)
    ours = build_comics_rcnn(config("COMICSGeneralizedRCNN"))
    frequency = {k: v.clone() for k, v in ours.state_dict().items() if k.startswith("frequency.")}
    assert ours.state_dict().keys() - theirs.state_dict().keys() == frequency.keys()
    load_weights(ours, str(tmp_path / "theirs.pth"))
    for key, value in {**theirs.state_dict(), **frequency}.items():
        assert torch.equal(ours.state_dict()[key], value), key

    ours.prepare_training()
    torch.save({"model": ours.state_dict()}, tmp_path / "ours.pth")
    torch.manual_seed(6)
    again = build_model(config("GeneralizedRCNN"))
    DetectionCheckpointer(again).load(str(tmp_path / "ours.pth"))
    for key, value in again.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    resumed = build_comics_rcnn(config("COMICSGeneralizedRCNN"))
    resumed.prepare_training()
    DetectionCheckpointer(resumed).load(str(tmp_path / "ours.pth"))
    assert list(resumed.state_dict()) == list(ours.state_dict())
    for key, value in resumed.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


def test_pickle_of_the_model_zoo_loads_but_for_heads_of_another_size(tmp_path):
    zoo = make("GeneralizedRCNN", "MODEL.ROI_HEADS.NUM_CLASSES", "5")
    arrays = {name: value.numpy() for name, value in zoo.state_dict().items()}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    ours = make("COMICSGeneralizedRCNN")
    heads = "roi_heads.box_predictor.cls_score.weight"
    before = ours.state_dict()[heads].clone()
    load_weights(ours, str(path))
    assert torch.equal(ours.state_dict()[heads], before)
    same = "backbone.bottom_up.res4.1.conv2.weight"
    assert torch.equal(ours.state_dict()[same], zoo.state_dict()[same])


def test_both_contrasts_and_the_attention_learn(scenes):
    more = ["MODEL.COMICS.PROPOSAL.MATCH_IOU", "0.5"]
    model = make("COMICSGeneralizedRCNN", *more)
    model.prepare_training()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.001)
    key = model.training_only["key_encoder"].encoder["backbone"]
    before = [parameter.clone() for parameter in key.parameters()]
    with EventStorage() as storage:
        for _ in range(2):  # the second step has the first one's keys in its banks
            losses = model.train()(inputs(scenes, with_keys=True))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            model.after_optimizer_step()
        latest = storage.latest()
    expected = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask",
                "loss_proposal_contrast", "loss_pixel_intra", "loss_pixel_inter"}  # fmt: skip
    assert set(losses) == expected
    assert latest["metric/proposal_pairs"][0] >= 2 and latest["metric/pixel_faces"][0] == 2
    assert losses["loss_proposal_contrast"] > 0 and losses["loss_pixel_intra"] > 0
    for part in (model.frequency, model.detector.backbone, model.training_only["contrast"]):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    assert any(
        not torch.equal(now, then) for now, then in zip(key.parameters(), before, strict=True)
    )


def test_proposals_have_the_level_and_face_of_detectron2s_rules(scenes):
    model = make("COMICSGeneralizedRCNN").train()
    images, targets = scenes
    big = torch.nn.functional.interpolate(images[0][None].float(), scale_factor=4)[0]
    (faces, _) = targets
    grown = Faces(faces.boxes * 4, (384, 512), faces.labels, masks=faces.masks.repeat_interleave(
        4, dim=1).repeat_interleave(4, dim=2))  # fmt: skip
    detector = model.detector
    batch = detector.preprocess([big, images[0]])
    with EventStorage():
        output = detector.training_output(detector.extract_features(batch), batch, [grown, faces])
    assert list(output.proposals) == ["p2", "p3", "p4", "p5"]
    seen = 0
    for level, found in output.proposals.items():
        for image, face, box in zip(found.image, found.face, found.boxes.tolist(), strict=True):
            area = (box[2] - box[0]) * (box[3] - box[1])
            wanted = math.floor(4 + math.log2(math.sqrt(area) / 224 + 1e-8))
            assert level == f"p{min(max(wanted, 2), 5)}"
            truth = [grown, faces][image].boxes
            overlaps = [iou(box, one) for one in truth.tolist()]
            assert overlaps[face] >= 0.5 and overlaps[face] == max(overlaps)
            seen += 1
    assert seen >= 4  # the faces' own boxes are among them


def test_any_proposal_of_either_view_and_predicted_masks(scenes):
    model = make(
        "COMICSGeneralizedRCNN", "MODEL.COMICS.PROPOSAL.MATCH", "any",
        "MODEL.COMICS.PROPOSAL.MATCH_IOU", "0.1", "MODEL.COMICS.PIXEL.MASKS", "predicted",
        "MODEL.COMICS.PIXEL.PREDICTED_IOU", "0.0", "MODEL.COMICS.PIXEL.BOUNDARY_MARGIN", "0",
    )  # fmt: skip
    model.prepare_training()
    batch, modes = inputs(scenes, with_keys=True), [m.training for m in model.train().modules()]
    for _ in range(2):
        with EventStorage() as storage:
            losses = model(batch)
            latest = storage.latest()
    assert latest["metric/proposal_pairs"][0] >= 2
    assert 0 <= latest["metric/pixel_faces"][0] <= 2
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert [m.training for m in model.modules()] == modes


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_mask_features_are_the_mask_heads_last_convolution(scenes):
    detector = make("COMICSGeneralizedRCNN").detector.train()
    images, targets = scenes
    batch = detector.preprocess(images)
    with EventStorage():
        output = detector.training_output(detector.extract_features(batch), batch, targets)
    boxes = [faces.boxes for faces in targets]
    heads = detector.roi_heads
    pyramid = [output.features[level] for level in heads.mask_in_features]
    pooled = heads.mask_pooler(pyramid, [Boxes(one) for one in boxes])
    expected = heads.mask_head.mask_fcn2(heads.mask_head.mask_fcn1(pooled))
    assert torch.allclose(detector.roi_mask_features(output, boxes, 14), expected)
    assert detector.roi_mask_features(output, boxes, 28).shape == (2, 16, 28, 28)


@pytest.mark.parametrize(
    "more, message",
    [
        (["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", "['res4']",
          "MODEL.RPN.IN_FEATURES", "['res4']", "MODEL.ROI_HEADS.IN_FEATURES", "['res4']",
          "MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ANCHOR_GENERATOR.SIZES", "[[32]]"],
         "needs a backbone with a pyramid"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"], "needs MODEL.PROPOSAL_GEN"),
    ],
)  # fmt: skip
def test_what_it_cannot_be_built_on_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        make("COMICSGeneralizedRCNN", *more)


def test_levels_and_masks_that_are_not_there_are_named(scenes):
    levels = ["MODEL.COMICS.PROPOSAL.LEVELS", "['p7']", "MODEL.COMICS.PROPOSAL.LEVEL_WEIGHTS"]
    model = make("COMICSGeneralizedRCNN", *levels, "[1.0]")
    model.prepare_training()
    with EventStorage(), pytest.raises(ValueError, match="names 'p7'; the pyramid has"):
        model.train()(inputs(scenes, with_keys=True))
    model = make("COMICSGeneralizedRCNN", "MODEL.MASK_ON", "False", *BARE[:4])
    with EventStorage(), pytest.raises(ValueError, match="set MODEL.MASK_ON True"):
        model.train()(inputs(scenes))
    assert isinstance(model.detector, RCNNDetector)
