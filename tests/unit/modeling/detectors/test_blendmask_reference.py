"""BlendMask with the reference's weights gives the reference's numbers."""

import numpy as np
import pytest
import torch
from adelaidet_reference import assert_close, shape_of
from pycocotools import mask as coco_mask
from torchvision.ops import roi_align

from comics.integrations.weights import convert_adelaidet
from comics.modeling.detectors.blendmask import detector as blendmask

TRAINING_VARIANTS = ("no_basis_loss", "instance_weight_2", "basis_weight_1", "top_interp_nearest")


def unpack(bits, width):
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1)[..., :width].astype(bool))


def assert_losses(losses, expected):
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4, abs=1e-6), name


def differ(one, other):
    """IoU below 0.995, or in a tiny mask more than two pixels."""
    return (one ^ other).sum() > max(2, 0.005 * (one | other).sum())


@pytest.fixture(scope="module")
def dense(blendmask_reference):
    """Model, pyramid, head output, dense maps and detections of the evaluation image."""
    model = blendmask_reference.eval_model()
    with torch.no_grad():
        batch = model.preprocess([blendmask_reference.image("eval_image")])
        features = model.extract_features(batch)
        maps = model.dense(features)
        head = model.head([features[level] for level in model.levels])
        return model, features, head, maps, model.detections(maps)


@torch.no_grad()
def test_pyramid_head_bases_and_square_masks(blendmask_reference, dense):
    model, features, head, maps, detections = dense
    expected = blendmask_reference.data["intermediate"]
    for level, value in expected["features"].items():
        assert_close(features[level], value, rtol=1e-3, atol=2e-3)
    for ours, theirs in (
        (head.class_logits, expected["cls_logits"]),
        (head.distances, expected["box_reg"]),
        (head.quality_logits, expected["ctr_logits"]),
    ):
        for mine, value in zip(ours, theirs, strict=True):
            assert_close(mine, value, rtol=1e-3, atol=1e-3)
    bases, last = model.basis_module(features)
    assert_close(bases, expected["bases"], rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(model.basis_module.bases(last), bases)
    before = expected["detections_before_masks"]
    torch.testing.assert_close(detections[0].boxes, before["boxes"], rtol=0, atol=0.02)
    squares = model.square_masks(maps, detections)[0]
    assert_close(squares[:, None], expected["square_masks"], rtol=0, atol=1e-3)


@torch.no_grad()
def test_attention_at_detections_equals_the_dense_convolution(blendmask_reference, dense):
    model, _, head, _, (found,) = dense
    dense_maps = [model.attention(tower).flatten(2) for tower in head.box_tower]
    everywhere = torch.stack(
        [dense_maps[level][0, :, cell] for level, cell in zip(found.level, found.cell, strict=True)]
    )
    expected = blendmask_reference.data["intermediate"]["detections_before_masks"]["top_feat"]
    assert_close(everywhere, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_detections_and_masks(blendmask_reference, assert_same_detections):
    model = blendmask_reference.eval_model()
    expected = blendmask_reference.data["eval"]
    images = [blendmask_reference.image("eval_image"), blendmask_reference.image("pad_image")]
    padded_size = tuple(blendmask_reference.data["inputs"]["pad_image_output"])
    results = {
        "single": model(images[:1])[0],
        "padded_single": model(images[1:], output_sizes=[padded_size])[0],
    }
    for name, faces in results.items():
        wanted = expected[name]
        masks = unpack(wanted["mask_bits"], faces.image_size[1])
        pairs = assert_same_detections(faces, wanted)
        poor = [pair for pair in pairs if differ(faces.masks[pair[0]], masks[pair[1]])]
        # the one detection that reaches far below the image has soft values of exactly 0.5
        assert all(faces.boxes[mine][3] >= faces.image_size[0] for mine, _ in poor)
        assert len(poor) <= 1
    sizes = [tuple(images[0].shape[-2:]), padded_size]
    batch = model(images, output_sizes=sizes)
    for faces, wanted in zip(batch, expected["mixed_size_batch"], strict=True):
        assert_same_detections(faces, wanted)


@torch.no_grad()
@pytest.mark.parametrize("name", ["top_interp_nearest", "nothing_passes"])
def test_inference_settings(blendmask_reference, assert_same_detections, name):
    variant = blendmask_reference.data["eval"]["variants"][name]
    model = blendmask_reference.eval_model(*variant["overrides"])
    faces = model([blendmask_reference.image("eval_image")])[0]
    for mine, theirs in assert_same_detections(faces, variant["result"]):
        pixels = faces.masks[mine].sum().item()
        wanted = variant["result"]["mask_sums"][theirs].item()
        reaches_out = faces.boxes[mine][3] >= faces.image_size[0]
        assert reaches_out or pixels == pytest.approx(wanted, rel=0.005, abs=2)


def test_training_losses_gradients_and_statistics(blendmask_reference, assert_same_gradients):
    expected = blendmask_reference.data["train"]["bitmask"]
    model = blendmask_reference.train_model()
    output = model(*blendmask_reference.training_batch())
    assert_losses(output.losses, expected["losses"])
    sum(output.losses.values()).backward()
    assert_same_gradients(model, blendmask_reference, expected)
    changed = blendmask_reference.data["train"]["state_changed_by_forward"]
    converted, _ = convert_adelaidet(changed | predictor_key(blendmask_reference))
    state = model.state_dict()
    assert len(converted) > 20
    for name, value in converted.items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-4)


def predictor_key(reference):
    """The key that tells how deep the tower is, which the changed buffers alone do not."""
    name = "basis_module.tower.4.weight"
    return {name: reference.data["state_dict"][name]}


def test_training_with_targets_rasterised_from_polygons(
    blendmask_reference, assert_same_gradients, monkeypatch
):
    """Only the target masks differ: polygons drawn within the box on the fine grid."""
    samples = blendmask_reference.data["targets"]

    def rasterised(targets, size):
        drawn = [
            draw_within_box(polygons, box, size)
            for sample in samples
            for polygons, box in zip(sample["polygons"], sample["boxes"].tolist(), strict=True)
        ]
        return torch.stack(drawn)

    monkeypatch.setattr(blendmask, "target_masks", rasterised)
    expected = blendmask_reference.data["train"]["polygon"]
    model = blendmask_reference.train_model()
    output = model(*blendmask_reference.training_batch())
    assert_losses(output.losses, expected["losses"])
    sum(output.losses.values()).backward()
    assert_same_gradients(model, blendmask_reference, expected)


def draw_within_box(polygon, box, size):
    x0, y0, x1, y1 = box
    scaled = np.array(polygon, dtype=np.float64)
    scaled[0::2] = (scaled[0::2] - x0) * size / (x1 - x0)
    scaled[1::2] = (scaled[1::2] - y0) * size / (y1 - y0)
    rle = coco_mask.merge(coco_mask.frPyObjects([scaled.tolist()], size, size))
    return torch.from_numpy(np.ascontiguousarray(coco_mask.decode(rle))).bool()


@pytest.mark.parametrize(
    ("name", "empty"),
    [("first_image_empty", (0,)), ("second_image_empty", (1,)), ("both_images_empty", (0, 1))],
)
def test_images_without_faces(blendmask_reference, name, empty):
    model = blendmask_reference.train_model()
    output = model(*blendmask_reference.training_batch(empty))
    assert_losses(output.losses, blendmask_reference.data["train"][name]["losses"])
    sum(output.losses.values()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


@pytest.mark.parametrize("name", TRAINING_VARIANTS)
def test_training_settings(blendmask_reference, name):
    variant = blendmask_reference.data["train"]["variants"][name]
    model = blendmask_reference.train_model(*variant["overrides"])
    assert_losses(model(*blendmask_reference.training_batch()).losses, variant["losses"])


def test_training_variants_are_all_tested(blendmask_reference):
    assert set(TRAINING_VARIANTS) == blendmask_reference.data["train"]["variants"].keys()


@pytest.mark.parametrize(
    ("name", "attention_size", "mode"),
    [("default", 14, "bilinear"), ("nearest", 14, "nearest"), ("attn7_res28", 7, "bilinear")],
)
def test_blend(components, name, attention_size, mode):
    case = components["blend"][name]
    size = shape_of(case["logits"])[-1]
    crops = roi_align(
        case["bases"],
        [case["boxes"]],
        size,
        spatial_scale=0.25,
        sampling_ratio=1,
        aligned=True,
    )
    if case["rois"] is not None:
        assert_close(crops, case["rois"], rtol=1e-4, atol=1e-5)
    logits = blendmask.blend(crops, case["attention"], attention_size, mode)
    assert_close(logits, case["logits"], rtol=1e-4, atol=1e-4)
