"""FCOS with the reference's weights gives the reference's numbers."""

import pytest
import torch
from adelaidet_reference import assert_close

from comics.modeling.detectors.cells import level_locations

VARIANTS = (
    "thresh_0.3",
    "thresh_with_ctr_0.2",
    "pre_nms_topk_50",
    "nms_0.3",
    "nothing_passes",
)
TRAINING_VARIANTS = (
    "quality_iou",
    "norm_all",
    "norm_moving_fg",
    "loc_iou",
    "loc_linear_iou",
    "no_center_sample",
    "radius_2.5",
    "sizes_32_64_96_128",
    "cls_weight_0.5",
)


def assert_losses(losses, expected):
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4, abs=1e-6), name


@torch.no_grad()
def test_pyramid_and_head(fcos_reference):
    model = fcos_reference.eval_model()
    batch = model.preprocess([fcos_reference.image("eval_image")])
    features = model.extract_features(batch)
    expected = fcos_reference.data["intermediate"]
    for level, value in expected["features"].items():
        assert_close(features[level], value, rtol=1e-3, atol=2e-3)
    head = model.head([features[level] for level in model.levels])
    for ours, theirs in (
        (head.class_logits, expected["cls_logits"]),
        (head.distances, expected["box_reg"]),
        (head.quality_logits, expected["ctr_logits"]),
    ):
        for mine, value in zip(ours, theirs, strict=True):
            assert_close(mine, value, rtol=1e-3, atol=1e-3)
    (found,) = model.detections(model.dense(features))
    before = expected["detections_before_postprocess"]
    torch.testing.assert_close(found.boxes, before["boxes"], rtol=0, atol=0.02)
    assert torch.equal(found.labels, before["classes"])
    places = torch.cat(
        [
            level_locations(*logits.shape[-2:], stride)[found.cell[found.level == index]]
            for index, (logits, stride) in enumerate(
                zip(head.class_logits, model.selector.strides, strict=True)
            )
        ]
    )
    order = torch.cat([(found.level == i).nonzero()[:, 0] for i in range(len(model.levels))])
    assert torch.equal(places[order.argsort()], before["locations"])
    assert torch.equal(found.level, before["fpn_levels"])


@torch.no_grad()
def test_detections(fcos_reference, assert_same_detections):
    model = fcos_reference.eval_model()
    images = [fcos_reference.image("eval_image"), fcos_reference.image("pad_image")]
    sizes = [tuple(images[0].shape[-2:]), tuple(fcos_reference.data["inputs"]["pad_image_output"])]
    expected = fcos_reference.data["eval"]
    assert_same_detections(model(images[:1])[0], expected["single"])
    assert_same_detections(model(images[1:], output_sizes=sizes[1:])[0], expected["padded_single"])
    for faces, wanted in zip(
        model(images, output_sizes=sizes), expected["mixed_size_batch"], strict=True
    ):
        assert_same_detections(faces, wanted)
        assert faces.masks is None


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_inference_settings(fcos_reference, assert_same_detections, name):
    variant = fcos_reference.data["eval"]["variants"][name]
    model = fcos_reference.eval_model(*variant["overrides"])
    assert_same_detections(model([fcos_reference.image("eval_image")])[0], variant["result"])


def test_training_losses_and_gradients(fcos_reference, assert_same_gradients):
    expected = fcos_reference.data["train"]["bitmask"]
    model = fcos_reference.train_model()
    output = model(*fcos_reference.training_batch())
    assert_losses(output.losses, expected["losses"])
    sum(output.losses.values()).backward()
    assert_same_gradients(model, fcos_reference, expected)


@pytest.mark.parametrize(
    ("name", "empty"),
    [("first_image_empty", (0,)), ("second_image_empty", (1,)), ("both_images_empty", (0, 1))],
)
def test_images_without_faces(fcos_reference, name, empty):
    model = fcos_reference.train_model()
    output = model(*fcos_reference.training_batch(empty))
    assert_losses(output.losses, fcos_reference.data["train"][name]["losses"])
    sum(output.losses.values()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


@pytest.mark.parametrize("name", TRAINING_VARIANTS)
def test_training_settings(fcos_reference, name):
    variant = fcos_reference.data["train"]["variants"][name]
    model = fcos_reference.train_model(*variant["overrides"])
    assert_losses(model(*fcos_reference.training_batch()).losses, variant["losses"])


def test_variants_are_all_tested(fcos_reference):
    assert set(VARIANTS) == fcos_reference.data["eval"]["variants"].keys()
    assert set(TRAINING_VARIANTS) == fcos_reference.data["train"]["variants"].keys()


def test_target_assignment(fcos_reference):
    model = fcos_reference.train_model()
    _, targets = fcos_reference.training_batch()
    sizes = [(32, 40), (16, 20), (8, 10), (4, 5), (2, 3)]
    ours = model.assigner.assign(sizes, [t.boxes for t in targets], [t.labels for t in targets])
    theirs = {
        name: torch.cat(list(values))
        for name, values in fcos_reference.data["train"]["assignment"].items()
    }
    assert torch.equal(ours.labels, theirs["labels"])
    assert torch.equal(ours.image, theirs["im_inds"])
    positive = ours.positive
    assert len(positive) > 20
    assert torch.equal(ours.face[positive], theirs["target_inds"][positive])
    torch.testing.assert_close(ours.distances[positive], theirs["reg_targets"][positive])


def test_proposals_are_the_assigned_locations(fcos_reference):
    model = fcos_reference.train_model()
    images, targets = fcos_reference.training_batch()
    output = model(images, targets)
    assignment = fcos_reference.data["train"]["assignment"]
    for level, (name, stride) in enumerate(zip(model.levels, (8, 16, 32, 64, 128), strict=True)):
        found = output.proposals[name]
        positive = (assignment["labels"][level] != 2).nonzero()[:, 0]
        first = torch.tensor([0, len(targets[0])])
        image = assignment["im_inds"][level][positive]
        assert torch.equal(found.image, image)
        assert torch.equal(found.face, assignment["target_inds"][level][positive] - first[image])
        locations = assignment["locations"][level]
        assert torch.equal(found.cells, positive % len(locations))
        points = locations[found.cells]
        assert (found.boxes[:, :2] <= points).all() and (found.boxes[:, 2:] >= points).all()
        assert not found.boxes.requires_grad
        assert output.features[name].shape[-1] * stride >= max(i.shape[-1] for i in images)
