"""SOLOv2 with the reference's weights gives the reference's numbers."""

import numpy as np
import pytest
import torch
from adelaidet_reference import assert_close

from comics.integrations.weights import convert_adelaidet
from comics.modeling.detectors.solov2.heads import even_scales
from comics.modeling.detectors.solov2.selection import (
    greedy_nms,
    matrix_decay,
    same_class_overlap,
    suppress_points,
)
from comics.modeling.detectors.solov2.targets import shrink_masks
from comics.ops.masks import centre_of_mass

INFERENCE_VARIANTS = ("linear_nms", "sigma_1", "mask_nms", "defaults", "nothing_passes")
TRAINING_VARIANTS = ("sigma_0.4", "dice_weight_1")
STRIDE = 4
# Single precision against double of our own: a cell of a mask that crosses the threshold changes
# the mean probability and, amplified where masks nearly coincide, the overlaps
SCORE_TOLERANCE = 5e-4


def unpack(bits, width):
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1)[..., :width].astype(bool))


def assert_losses(losses, expected):
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4, abs=1e-6), name


def assert_same_masks(faces, expected, score_tolerance=SCORE_TOLERANCE):
    """Match by class, score and mask: the reference has no boxes."""
    assert len(faces) == expected["count"]
    assert list(faces.image_size) == list(expected["image_size"])
    masks = None
    if "mask_bits" in expected:
        masks = unpack(expected["mask_bits"], faces.image_size[1])
    free = torch.ones(len(faces), dtype=torch.bool)
    sums = faces.masks.flatten(1).sum(dim=1)
    for index in range(expected["count"]):
        wanted = expected["mask_sums"][index]
        close = free & (faces.labels == expected["classes"][index])
        close &= (faces.scores - expected["scores"][index]).abs() < score_tolerance
        close &= (sums - wanted).abs() <= (0.005 * wanted).clamp(min=2)
        if masks is not None:
            both = (faces.masks & masks[index]).flatten(1).sum(dim=1)
            either = (faces.masks | masks[index]).flatten(1).sum(dim=1)
            close &= both >= 0.995 * either
        assert close.any(), f"nothing matches detection {index}"
        distance = torch.where(close, (faces.scores - expected["scores"][index]).abs(), torch.inf)
        free[int(distance.argmin())] = False


@torch.no_grad()
def test_pyramid_classes_kernels_and_mask_map(solov2_reference):
    model = solov2_reference.eval_model()
    batch = model.preprocess([solov2_reference.image("eval_image")])
    features = model.extract_features(batch)
    expected = solov2_reference.data["intermediate"]
    assert list(features) == ["p2", "p3", "p4", "p5", "p6"]
    for level, value in expected["features"].items():
        assert_close(features[level], value, rtol=1e-3, atol=2e-3)
    dense, mask_features = model.heads(features)
    for ours, theirs in (
        (dense.class_logits, expected["cate_logits"]),
        (dense.kernels, expected["kernels"]),
        ([mask_features], [expected["mask_features"]]),
    ):
        for mine, value in zip(ours, theirs, strict=True):
            assert_close(mine, value, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_detections_and_masks(solov2_reference):
    model = solov2_reference.eval_model()
    expected = solov2_reference.data["eval"]
    images = [solov2_reference.image("eval_image"), solov2_reference.image("pad_image")]
    padded_size = tuple(solov2_reference.data["inputs"]["pad_image_output"])
    # Scores follow the share of cells above a threshold: a processor without AVX-512 rounds a few
    # cells of one mask otherwise, which was seen to move a score by 1.6e-4
    assert_same_masks(model(images[:1])[0], expected["single"], score_tolerance=2e-4)
    padded = model(images[1:], output_sizes=[padded_size])[0]
    assert_same_masks(padded, expected["padded_single"])
    sizes = [tuple(images[0].shape[-2:]), padded_size]
    batch = model(images, output_sizes=sizes)
    for faces, wanted in zip(batch, expected["mixed_size_batch"], strict=True):
        assert_same_masks(faces, wanted)


@torch.no_grad()
@pytest.mark.parametrize("name", INFERENCE_VARIANTS)
def test_inference_settings(solov2_reference, name):
    variant = solov2_reference.data["eval"]["variants"][name]
    model = solov2_reference.eval_model(*variant["overrides"])
    faces = model([solov2_reference.image("eval_image")])[0]
    assert_same_masks(faces, variant["result"])


def test_training_losses_and_gradients(solov2_reference, assert_same_gradients):
    expected = solov2_reference.data["train"]["bitmask"]
    model = solov2_reference.train_model()
    before = {name: value.clone() for name, value in model.named_buffers()}
    output = model(*solov2_reference.training_batch())
    assert_losses(output.losses, expected["losses"])
    sum(output.losses.values()).backward()
    assert_same_gradients(model, solov2_reference, expected)
    assert solov2_reference.data["train"]["state_changed_by_forward"] == {}
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


@pytest.mark.parametrize("name", TRAINING_VARIANTS)
def test_training_settings(solov2_reference, name):
    variant = solov2_reference.data["train"]["variants"][name]
    model = solov2_reference.train_model(*variant["overrides"])
    assert_losses(model(*solov2_reference.training_batch()).losses, variant["losses"])


def test_variants_are_all_tested(solov2_reference):
    assert set(TRAINING_VARIANTS) == solov2_reference.data["train"]["variants"].keys()
    assert set(INFERENCE_VARIANTS) == solov2_reference.data["eval"]["variants"].keys()


@pytest.mark.parametrize("empty", [(0,), (1,), (0, 1)])
def test_images_without_faces_are_legal(solov2_reference, empty):
    """The reference raises."""
    model = solov2_reference.train_model()
    output = model(*solov2_reference.training_batch(empty))
    assert all(torch.isfinite(loss) for loss in output.losses.values())
    assert (output.losses["loss_ins"].item() == 0) == (len(empty) == 2)
    sum(output.losses.values()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


@pytest.mark.parametrize("how", ["aligned", "opencv"])
def test_assignment(solov2_reference, how):
    expected = solov2_reference.data["train"]["assignment"]
    model = solov2_reference.train_model()
    images, targets = solov2_reference.training_batch()
    batch = model.preprocess(images)
    size = tuple(batch.tensor.shape[-2:])
    assigned = model.assigner.assign(targets, size)
    grid_size = (size[0] // STRIDE, size[1] // STRIDE)
    for image, faces in enumerate(targets):
        small = shrink_masks(faces.masks, STRIDE, grid_size, how)
        for level, pairs in enumerate(assigned):
            labels = expected["cate"][image][level].flatten()
            assert torch.equal(pairs.labels[image], labels)
            here = pairs.image == image
            assert pairs.cell[here].tolist() == expected["order"][image][level]
            wanted = expected["mask_bits"][image][level]
            if wanted is not None:
                masks = unpack(wanted, expected["mask_width"])
                assert torch.equal(small[pairs.face[here]], masks)


def test_converted_names_are_all_known(solov2_reference):
    converted, unmatched = convert_adelaidet(solov2_reference.data["state_dict"])
    assert unmatched == []
    own = solov2_reference.train_model().state_dict()
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}


def test_point_suppression(components):
    case = components["point_nms"]
    assert torch.equal(suppress_points(case["x"]), case["out"])


def test_mask_suppression(components):
    case = components["mask_suppression"]
    masks = unpack(case["mask_bits"], case["mask_width"]).flatten(1)
    assert torch.equal(masks.sum(dim=1).float(), case["sums"])
    overlap = same_class_overlap(masks, case["labels"])
    for name, kernel in (("gaussian_2", "gaussian"), ("linear", "linear")):
        scores = case["scores"] * matrix_decay(overlap, kernel, 2.0)
        torch.testing.assert_close(scores, case[name], rtol=1e-5, atol=1e-6)
    kept = greedy_nms(overlap, 0.5)
    assert kept.tolist() == case["mask_0.5"].nonzero().squeeze(1).tolist()


def test_centres_of_mass(solov2_reference, components):
    for sample, expected in zip(
        solov2_reference.data["targets"], components["center_of_mass"], strict=True
    ):
        masks = unpack(sample["mask_bits"], sample["width"])
        torch.testing.assert_close(centre_of_mass(masks), expected.double(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_shrunken_masks(components, case):
    """OpenCV's in any size; ours are equal where the sides are multiples of the stride."""
    reference = components["quarter_masks"][case]
    masks = unpack(reference["bits"], reference["width"])
    height, width = reference["out"].shape[1:]
    wanted = reference["out"].bool()
    with_opencv = shrink_masks(masks, STRIDE, (height + 1, width + 2), "opencv")
    assert torch.equal(with_opencv[:, :height, :width], wanted)
    assert not with_opencv[:, height:].any()
    assert not with_opencv[:, :, width:].any()
    if case == 0:
        aligned = shrink_masks(masks, STRIDE, (height, width), "aligned")
        assert torch.equal(aligned, wanted)


def test_even_scales(components):
    case = components["split_feats"]
    for ours, theirs in zip(even_scales(case["in"]), case["out"], strict=True):
        torch.testing.assert_close(ours, theirs)
