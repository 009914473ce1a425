"""MEInst with the reference's weights gives the reference's numbers."""

import numpy as np
import pytest
import torch
from adelaidet_reference import assert_close
from pycocotools import mask as coco_mask

from comics.modeling.detectors.meinst import detector as meinst
from comics.modeling.detectors.meinst.coding import MaskCoding, read_basis

TRAINING_VARIANTS = ("sigmoid_off", "loss_on_mask", "sigmoid_off_loss_on_mask")
DIM, SIZE = 60, 28


def unpack(bits, width):
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1)[..., :width].astype(bool))


def assert_losses(losses, expected):
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4, abs=1e-6), name


def differ(one, other):
    """IoU below 0.995, or in a tiny mask more than two pixels."""
    return (one ^ other).sum() > max(2, 0.005 * (one | other).sum())


@pytest.fixture(params=["meinst", "meinst_dcn"])
def either_reference(request, meinst_reference, meinst_dcn_reference):
    return {"meinst": meinst_reference, "meinst_dcn": meinst_dcn_reference}[request.param]


@torch.no_grad()
def test_pyramid_head_and_square_masks(either_reference):
    model = either_reference.eval_model()
    expected = either_reference.data["intermediate"]
    features = model.extract_features(model.preprocess([either_reference.image("eval_image")]))
    for level, value in expected.get("features", {}).items():
        assert_close(features[level], value, rtol=1e-3, atol=2e-3)
    maps = model.dense(features)
    head = model.head([features[level] for level in model.levels])
    detections = model.detections(maps)
    codes = [model.head.code(tower) for tower in head.mask_tower]
    for ours, theirs in (
        (head.class_logits, expected["cls_logits"]),
        (head.distances, expected["box_reg"]),
        (head.quality_logits, expected["ctr_logits"]),
        (codes, expected["mask_code"]),
    ):
        for mine, value in zip(ours, theirs, strict=True):
            assert_close(mine, value, rtol=1e-3, atol=2e-3)
    before = expected["detections_before_postprocess"]
    squares = model.square_masks(maps, detections)[0]
    assert len(squares) == len(before["boxes"])
    order = []
    for box, label in zip(before["boxes"], before["classes"], strict=True):
        gap = (detections[0].boxes - box).abs().amax(dim=1)
        gap[detections[0].labels != label] = torch.inf
        assert gap.min() < 0.02
        order.append(int(gap.argmin()))
    assert_close(squares[order][:, None], before["pred_masks"], rtol=0, atol=1e-3)


@torch.no_grad()
def test_detections_and_masks(either_reference, assert_same_detections):
    model = either_reference.eval_model()
    expected = either_reference.data["eval"]
    images = [either_reference.image("eval_image"), either_reference.image("pad_image")]
    padded_size = tuple(either_reference.data["inputs"]["pad_image_output"])
    results = {
        "single": model(images[:1])[0],
        "padded_single": model(images[1:], output_sizes=[padded_size])[0],
    }
    for name, faces in results.items():
        masks = unpack(expected[name]["mask_bits"], faces.image_size[1])
        for mine, theirs in assert_same_detections(faces, expected[name]):
            assert not differ(faces.masks[mine], masks[theirs])
    sizes = [tuple(images[0].shape[-2:]), padded_size]
    batch = model(images, output_sizes=sizes)
    for faces, wanted in zip(batch, expected["mixed_size_batch"], strict=True):
        assert_same_detections(faces, wanted)


@torch.no_grad()
@pytest.mark.parametrize("name", ["sigmoid_off", "nothing_passes"])
def test_inference_settings(meinst_reference, assert_same_detections, name):
    variant = meinst_reference.data["eval"]["variants"][name]
    model = meinst_reference.eval_model(*variant["overrides"])
    faces = model([meinst_reference.image("eval_image")])[0]
    for mine, theirs in assert_same_detections(faces, variant["result"]):
        wanted = variant["result"]["mask_sums"][theirs].item()
        assert faces.masks[mine].sum().item() == pytest.approx(wanted, rel=0.005, abs=2)


@torch.no_grad()
def test_codes_without_whitening_are_decoded(meinst_reference, assert_same_detections):
    """The peer raises here; boxes and scores do not depend on the coding."""
    model = meinst_reference.eval_model("MODEL.MEInst.WHITEN", "False")
    faces = model([meinst_reference.image("eval_image")])[0]
    assert_same_detections(faces, meinst_reference.data["eval"]["single"])
    assert faces.masks.flatten(1).any(dim=1).any()


def test_training_losses_and_gradients(meinst_reference, assert_same_gradients):
    expected = meinst_reference.data["train"]["bitmask"]
    model = meinst_reference.train_model()
    torch.manual_seed(0)
    output = model(*meinst_reference.training_batch())
    assert_losses(output.losses, expected["losses"])
    sum(output.losses.values()).backward()
    trained = expected | {"no_grad": [n for n in expected["no_grad"] if "mask_encoding" not in n]}
    assert_same_gradients(model, meinst_reference, trained)


def test_training_losses_with_deformable_convolutions(meinst_dcn_reference):
    """Losses only: the peer has no gradient on the CPU."""
    model = meinst_dcn_reference.train_model()
    torch.manual_seed(0)
    output = model(*meinst_dcn_reference.training_batch())
    assert_losses(output.losses, meinst_dcn_reference.data["train"]["bitmask"]["losses"])
    sum(output.losses.values()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


def test_training_with_targets_rasterised_from_polygons(
    meinst_reference, assert_same_gradients, monkeypatch
):
    """Only the target masks differ: polygons drawn within the box on the fine grid."""
    samples = meinst_reference.data["targets"]

    def rasterised(targets, size):
        drawn = [
            draw_within_box(polygon, box, size)
            for sample in samples
            for polygon, box in zip(sample["polygons"], sample["boxes"].tolist(), strict=True)
        ]
        return torch.stack(drawn)

    monkeypatch.setattr(meinst, "target_masks", rasterised)
    expected = meinst_reference.data["train"]["polygon"]
    model = meinst_reference.train_model()
    torch.manual_seed(0)
    output = model(*meinst_reference.training_batch())
    assert_losses(output.losses, expected["losses"])
    sum(output.losses.values()).backward()
    trained = expected | {"no_grad": [n for n in expected["no_grad"] if "mask_encoding" not in n]}
    assert_same_gradients(model, meinst_reference, trained)


def draw_within_box(polygon, box, size):
    x0, y0, x1, y1 = box
    scaled = np.array(polygon, dtype=np.float64)
    scaled[0::2] = (scaled[0::2] - x0) * size / (x1 - x0)
    scaled[1::2] = (scaled[1::2] - y0) * size / (y1 - y0)
    rle = coco_mask.merge(coco_mask.frPyObjects([scaled.tolist()], size, size))
    return torch.from_numpy(np.ascontiguousarray(coco_mask.decode(rle))).bool()


def test_a_later_image_without_faces(either_reference):
    model = either_reference.train_model()
    torch.manual_seed(0)
    output = model(*either_reference.training_batch((1,)))
    assert_losses(output.losses, either_reference.data["train"]["second_image_empty"]["losses"])


@pytest.mark.parametrize(("empty", "zero"), [((0,), False), ((0, 1), True)])
def test_images_without_faces_that_the_peer_refuses(meinst_reference, empty, zero):
    model = meinst_reference.train_model()
    output = model(*meinst_reference.training_batch(empty))
    for name in ("loss_MEInst_loc", "loss_MEInst_ctr", "loss_MEInst_mask"):
        assert (output.losses[name].item() == 0) == zero
    sum(output.losses.values()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


@pytest.mark.parametrize("name", TRAINING_VARIANTS)
def test_training_settings(meinst_reference, adelaidet, name):
    """The basis is read from the file that the peer's name for these settings leads to."""
    variant = meinst_reference.data["train"]["variants"][name]
    path = adelaidet.basis(sigmoid="sigmoid_off" not in name)
    model = meinst_reference.train_model(
        *variant["overrides"],
        *("MODEL.MEInst.FLAG_PARAMETERS", False),
        *("MODEL.MEInst.PATH_COMPONENTS", str(path)),
    )
    torch.manual_seed(0)
    assert_losses(model(*meinst_reference.training_batch()).losses, variant["losses"])


def test_training_variants_are_all_tested(meinst_reference):
    assert set(TRAINING_VARIANTS) == meinst_reference.data["train"]["variants"].keys()


@pytest.mark.parametrize(
    ("name", "whiten", "sigmoid"),
    [
        ("default", True, True),
        ("sigmoid_off", True, False),
        ("whiten_off_sigmoid_off", False, False),
    ],
)
def test_mask_code(components, adelaidet, name, whiten, sigmoid):
    case = components["mask_code"]
    run = case["runs"][name]
    coding = MaskCoding(DIM, SIZE, whiten=whiten, sigmoid=sigmoid)
    path = adelaidet.basis()
    assert path.name == case["parameter_file"]
    coding.set_basis(read_basis(path, DIM, SIZE, sigmoid=sigmoid))
    torch.manual_seed(run.get("torch_seed", 0))
    code = coding.encode(unpack(case["crops_bits"], case["crop_width"]))
    torch.testing.assert_close(code, run["code"], rtol=1e-4, atol=1e-4)
    for key, decoded in (
        ("decoded_test", coding.decode(run["code"])),
        ("decoded_train", coding.reconstruct(run["code"])),
    ):
        if key in run:
            assert_close(decoded.flatten(1), run[key], rtol=1e-4, atol=1e-4)


def test_the_state_dict_and_the_file_hold_the_same_basis(meinst_reference, adelaidet):
    model = meinst_reference.eval_model()
    basis = read_basis(adelaidet.basis(), DIM, SIZE, sigmoid=True)
    assert torch.equal(model.coding.components, basis.components)
    assert torch.equal(model.coding.means, basis.means)
    assert torch.equal(model.coding.explained_variances, basis.variances)
