"""CondInst with the reference's weights gives the reference's numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from adelaidet_reference import assert_close

from comics.integrations.weights import convert_adelaidet
from comics.modeling.detectors.condinst.dynamic_head import DynamicMaskHead, MaskQueries
from comics.ops.losses import dice_loss
from comics.ops.masks import mask_centers, segmentation_to_bitmap
from comics.structures import Faces

TRAINING_VARIANTS = (
    "mask_out_stride_2", "topk_10_per_image", "max_proposals_20_seed0", "boxinst", "semantic_loss",
)  # fmt: skip
# Only some hundred pairs of pixels count in this mean of a random network's logits
LOSS_TOLERANCE = {"loss_pairwise": 5e-4}


def unpack(bits, width):
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1)[..., :width].astype(bool))


def assert_losses(losses, expected):
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = LOSS_TOLERANCE.get(name, 1e-4)
        assert losses[name].item() == pytest.approx(value, rel=tolerance, abs=1e-6), name


def differ(one, other):
    """IoU below 0.995, or in a tiny mask more than two pixels."""
    return (one ^ other).sum() > max(2, 0.005 * (one | other).sum())


@pytest.fixture(scope="module")
def dense(condinst_reference):
    """Model, pyramid, head output, dense maps and detections of the evaluation image."""
    model = condinst_reference.eval_model()
    with torch.no_grad():
        batch = model.preprocess([condinst_reference.image("eval_image")])
        features = model.extract_features(batch)
        maps = model.dense(features)
        head = model.head([features[level] for level in model.levels])
        return model, features, head, maps, model.detections(maps)


@torch.no_grad()
def test_pyramid_head_mask_features_and_soft_masks(condinst_reference, dense):
    model, features, head, maps, detections = dense
    expected = condinst_reference.data["intermediate"]
    for level, value in expected["features"].items():
        assert_close(features[level], value, rtol=1e-3, atol=2e-3)
    for ours, theirs in (
        (head.class_logits, expected["cls_logits"]),
        (head.distances, expected["box_reg"]),
        (head.quality_logits, expected["ctr_logits"]),
    ):
        for mine, value in zip(ours, theirs, strict=True):
            assert_close(mine, value, rtol=1e-3, atol=1e-3)
    mask_features, last = model.mask_branch(features)
    assert_close(mask_features, expected["mask_features"], rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(model.mask_branch.mask_features(last), mask_features)
    before = expected["detections_before_postprocess"]
    torch.testing.assert_close(detections[0].boxes, before["boxes"], rtol=0, atol=0.02)
    soft = model.soft_masks(maps, detections)[0]
    wanted = condinst_reference.data["eval"]["single"]["soft_masks"]
    assert_close(soft[:, None], wanted, rtol=0, atol=1e-3)


@torch.no_grad()
def test_queries_of_detections(condinst_reference, dense):
    """Generated weights (also as the dense convolution gives them), locations and levels."""
    model, _, head, _, (found,) = dense
    expected = condinst_reference.data["intermediate"]
    controller = model.controller(head.box_tower[1])
    assert_close(controller, expected["controller_p4"], rtol=1e-3, atol=1e-3)
    queries = model.queries(head.box_tower, found.level, torch.zeros_like(found.cell), found.cell)
    before = expected["detections_before_postprocess"]
    assert_close(queries.parameters, before["top_feat"], rtol=1e-3, atol=1e-3)
    assert torch.equal(queries.points, before["locations"])
    assert torch.equal(queries.level, before["fpn_levels"])


@torch.no_grad()
def test_detections_and_masks(condinst_reference, assert_same_detections):
    model = condinst_reference.eval_model()
    expected = condinst_reference.data["eval"]
    images = [condinst_reference.image("eval_image"), condinst_reference.image("pad_image")]
    padded_size = tuple(condinst_reference.data["inputs"]["pad_image_output"])
    sizes = [tuple(images[0].shape[-2:]), padded_size]
    together = model(images, output_sizes=sizes)  # where the reference raises
    alone = [model(images[:1])[0], model(images[1:], output_sizes=[padded_size])[0]]
    for found in (together, alone):
        for faces, name in zip(found, ("single", "padded_single"), strict=True):
            masks = unpack(expected[name]["mask_bits"], faces.image_size[1])
            pairs = assert_same_detections(faces, expected[name])
            poor = [p for p in pairs if differ(faces.masks[p[0]], masks[p[1]])]
            assert poor == []


@torch.no_grad()
@pytest.mark.parametrize("name", ["mask_out_stride_2", "mask_out_stride_8", "nothing_passes"])
def test_inference_settings(condinst_reference, assert_same_detections, name):
    variant = condinst_reference.data["eval"]["variants"][name]
    model = condinst_reference.eval_model(*variant["overrides"])
    faces = model([condinst_reference.image("eval_image")])[0]
    assert faces.masks.shape[0] == variant["result"]["count"]
    for mine, theirs in assert_same_detections(faces, variant["result"]):
        wanted = variant["result"]["mask_sums"][theirs].item()
        assert faces.masks[mine].sum().item() == pytest.approx(wanted, rel=0.005, abs=2)


def test_training_losses_gradients_and_statistics(condinst_reference, assert_same_gradients):
    expected = condinst_reference.data["train"]["bitmask"]
    model = condinst_reference.train_model()
    output = model(*condinst_reference.training_batch())
    assert_losses(output.losses, expected["losses"])
    sum(output.losses.values()).backward()
    assert_same_gradients(model, condinst_reference, expected)
    changed = condinst_reference.data["train"]["state_changed_by_forward"]
    converted, _ = convert_adelaidet(changed)
    state = model.state_dict()
    assert len(converted) == len(changed) > 10
    for name, value in converted.items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-4)


def test_training_with_masks_rasterised_from_polygons(condinst_reference, assert_same_gradients):
    images, targets = condinst_reference.training_batch()
    drawn = []
    for sample, faces in zip(condinst_reference.data["targets"], targets, strict=True):
        bitmaps = [segmentation_to_bitmap([p], *faces.image_size) for p in sample["polygons"]]
        drawn.append(replace(faces, masks=torch.stack(bitmaps)))
    expected = condinst_reference.data["train"]["polygon"]
    model = condinst_reference.train_model()
    output = model(images, drawn)
    assert_losses(output.losses, expected["losses"])
    sum(output.losses.values()).backward()
    assert_same_gradients(model, condinst_reference, expected)


@pytest.mark.parametrize(
    ("name", "empty"),
    [("first_image_empty", (0,)), ("second_image_empty", (1,)), ("both_images_empty", (0, 1))],
)
def test_images_without_faces(condinst_reference, name, empty):
    model = condinst_reference.train_model()
    output = model(*condinst_reference.training_batch(empty))
    assert_losses(output.losses, condinst_reference.data["train"][name]["losses"])
    sum(output.losses.values()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


@pytest.mark.parametrize("name", TRAINING_VARIANTS)
def test_training_settings(condinst_reference, name):
    data = condinst_reference.data
    reference = condinst_reference
    if name == "semantic_loss":
        state = data["state_dict"] | data["state_dict_semantic_only"]
        reference = replace(condinst_reference, data=data | {"state_dict": state})
    variant = data["train"]["variants"][name]
    model = reference.train_model(*variant["overrides"])
    torch.manual_seed(0)  # as before the reference's forward: it decides the random subset
    assert_losses(model(*reference.training_batch()).losses, variant["losses"])


def test_training_variants_are_all_tested(condinst_reference):
    assert set(TRAINING_VARIANTS) == condinst_reference.data["train"]["variants"].keys()


def test_targets_are_assigned_by_the_centres_of_masks(condinst_reference, components):
    model = condinst_reference.train_model()
    _, targets = condinst_reference.training_batch()
    sizes = [(32, 40), (16, 20), (8, 10), (4, 5), (2, 3)]
    centers = [mask_centers(t.masks, t.boxes) for t in targets]
    for mine, theirs in zip(centers, components["center_of_mass"], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-3)
    boxes, labels = [t.boxes for t in targets], [t.labels for t in targets]
    ours = model.assigner.assign(sizes, boxes, labels, centers)
    theirs = {
        name: torch.cat(list(values))
        for name, values in condinst_reference.data["train"]["assignment"].items()
    }
    assert torch.equal(ours.labels, theirs["labels"])
    positive = ours.positive
    assert torch.equal(ours.face[positive], theirs["target_inds"][positive])
    torch.testing.assert_close(ours.distances[positive], theirs["reg_targets"][positive])
    by_boxes = model.assigner.assign(sizes, boxes, labels)
    assert not torch.equal(by_boxes.labels, theirs["labels"])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("default", {}),
        ("no_coords", {"relative_coordinates": False}),
        ("two_layers_16", {"num_layers": 2, "channels": 16}),
        ("out_stride_2", {"out_stride": 2}),
    ],
)
def test_dynamic_head(components, name, settings):
    case = components["dynamic_head"][name]
    head = DynamicMaskHead(
        8, sizes_of_interest=case["size_of_interest"].tolist(), stride=8, **settings
    )
    assert head.num_parameters == case["params"].shape[1]
    queries = MaskQueries(
        case["params"], case["im_inds"], case["locations"].float(), case["fpn_levels"]
    )
    logits = head(case["mask_feats"], queries)
    assert_close(logits[:, None], case["logits"], rtol=1e-4, atol=1e-4)


def test_dice_terms(components):
    case = components["mask_terms"]
    for name, smoothing in (("dice_condinst", 1e-5), ("dice_solov2", 0.002)):
        ours = dice_loss(case["scores"], case["gt"], smoothing=smoothing)
        torch.testing.assert_close(ours, case[name])


def test_an_empty_first_face_keeps_the_others_positive(condinst_reference):
    """The reference then finds no positives in the whole image."""
    model = condinst_reference.train_model()
    images, targets = condinst_reference.training_batch()
    masks = targets[0].masks.clone()
    masks[0] = False
    emptied = replace(targets[0], masks=masks)
    output = model(images[:1], [emptied])
    found = torch.cat([p.face for p in output.proposals.values()])
    assert set(found.tolist()) >= {0, 1}
    assert isinstance(emptied, Faces) and torch.isfinite(output.losses["loss_mask"])
