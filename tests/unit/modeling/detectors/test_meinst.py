"""MEInst apart from the reference: the mask code, its file, and the head."""

import logging

import numpy as np
import pytest
import torch
from narrow import NARROW
from scipy.fft import dctn
from two_faces import sample

from comics.config import load_config
from comics.modeling.build import load_model
from comics.modeling.detectors.base import TrainingOutput
from comics.modeling.detectors.fcos import FCOS, Detections
from comics.modeling.detectors.meinst import MEInst
from comics.modeling.detectors.meinst.coding import (
    MaskBasis,
    MaskBasisError,
    MaskCoding,
    cosine_basis,
    read_basis,
    soft_logits,
)
from comics.modeling.detectors.meinst.detector import GlobalConv, with_fcos_keys
from comics.modeling.layers import DeformableConv
from comics.modeling.weights import save_weights
from comics.structures import Faces

TINY = [
    *NARROW,
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.MEInst.NUM_CLS_CONVS", "1",
    "MODEL.MEInst.NUM_BOX_CONVS", "1", "MODEL.MEInst.NUM_MASK_CONVS", "1",
    "MODEL.MEInst.DIM_MASK", "6", "MODEL.MEInst.MASK_SIZE", "8",
    "MODEL.MEInst.PRIOR_PROB", "0.3", "MODEL.META_ARCHITECTURE", "MEInst",
]  # fmt: skip
DIM, SIZE = 6, 8


def settings(*overrides):
    return load_config(overrides=[*TINY, *map(str, overrides)])


def tiny(*overrides):
    torch.manual_seed(0)
    model = MEInst.from_config(settings(*overrides))
    torch.nn.init.constant_(model.head.box_distances.bias, 2.0)  # boxes of some size
    return model


def random_basis(dim=DIM, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(size**2, size**2, generator=generator)
    return MaskBasis(
        torch.linalg.qr(square).Q[:dim].contiguous(),
        torch.randn(size**2, generator=generator),
        torch.rand(dim, generator=generator) + 0.5,
    )


def write_basis(path, basis, **changes):
    arrays = {
        "components_c": basis.components.numpy()[None],
        "mean_c": basis.means.numpy()[None],
        "explained_variance_c": basis.variances.numpy()[None],
        "ratio_c": basis.variances.numpy()[None],
    }
    arrays |= changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


# --- the code -----------------------------------------------------------------------------------


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_code_of_every_coefficient_gives_the_mask_back(whiten, sigmoid):
    coding = MaskCoding(SIZE**2, SIZE, whiten=whiten, sigmoid=sigmoid)
    masks = torch.rand(5, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) > 0.5
    decoded = coding.decode(coding.encode(masks))
    assert torch.equal(decoded > 0.5, masks)
    certainty = torch.where(masks, decoded, 1 - decoded)
    assert certainty.min() > 0.94
    assert certainty.max() < 0.995


@pytest.mark.parametrize("whiten", [False, True])
def test_codes_equal_a_naive_loop(whiten):
    basis = random_basis()
    coding = MaskCoding(DIM, SIZE, whiten=whiten, sigmoid=False)
    coding.set_basis(basis)
    masks = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) > 0.5
    codes = coding.encode(masks)
    raw = coding.reconstruct(codes)
    for p in range(3):
        expected = [0.0] * DIM
        for d in range(DIM):
            for k in range(SIZE**2):
                pixel = float(masks[p].flatten()[k]) - basis.means[k].item()
                expected[d] += basis.components[d, k].item() * pixel
        scale = [basis.variances[d].item() ** 0.5 if whiten else 1.0 for d in range(DIM)]
        assert codes[p].tolist() == pytest.approx(
            [e / s for e, s in zip(expected, scale, strict=True)], abs=1e-4
        )
        for k in (0, 9, 63):
            value = basis.means[k].item() + sum(
                expected[d] * basis.components[d, k].item() for d in range(DIM)
            )
            assert raw[p].flatten()[k].item() == pytest.approx(value, abs=1e-4)
    assert coding.decode(100 * codes).max() <= 0.99
    assert coding.decode(100 * codes).min() >= 0.01


def test_soft_logits_are_random_within_their_range():
    masks = torch.tensor([[True, False]]).expand(500, 2)
    probability = soft_logits(masks, torch.Generator().manual_seed(0)).sigmoid()
    inside, outside = probability[:, 0], 1 - probability[:, 1]
    for certain in (inside, outside):
        assert 0.95 - 1e-6 <= certain.min() < 0.96
        assert certain.max() == pytest.approx(0.99, abs=1e-6)
        # e is 0.05 u raised to 0.01: a fifth of the draws lie there
        assert (certain > 0.99 - 1e-6).float().mean().item() == pytest.approx(0.2, abs=0.06)


def test_the_basis_without_a_file_is_the_discrete_cosine_transform():
    basis = cosine_basis(20, SIZE)
    images = basis.components.double().unflatten(1, (SIZE, SIZE)).numpy()
    frequencies = []
    for image in images:
        spectrum = dctn(image, norm="ortho")
        peak = np.unravel_index(np.abs(spectrum).argmax(), spectrum.shape)
        assert spectrum[peak] == pytest.approx(1, abs=1e-6)
        assert np.abs(spectrum).sum() == pytest.approx(1, abs=1e-4)
        frequencies.append(peak[0] ** 2 + peak[1] ** 2)
    every = sorted(u * u + v * v for u in range(SIZE) for v in range(SIZE))
    assert frequencies == every[:20]
    assert (basis.variances.diff() <= 0).all()


@pytest.mark.parametrize(("sigmoid", "energy"), [(False, 0.25), (True, 3.66**2)])
def test_variances_of_all_frequencies_add_up_to_a_mask(sigmoid, energy):
    basis = cosine_basis(SIZE**2, SIZE, sigmoid=sigmoid)
    assert basis.variances.sum().item() == pytest.approx(energy * SIZE**2, rel=1e-2)


@pytest.mark.parametrize("dim", [0, SIZE**2 + 1])
def test_impossible_sizes_are_refused(dim):
    with pytest.raises(ValueError, match="DIM_MASK"):
        MaskCoding(dim, SIZE)


# --- its file -----------------------------------------------------------------------------------


def test_training_reads_the_file_and_a_model_file_carries_it(tmp_path):
    basis = random_basis()
    path = write_basis(tmp_path / "basis.npz", basis)
    image, faces = sample()
    cfg = settings("MODEL.MEInst.PATH_COMPONENTS", path)
    model = tiny("MODEL.MEInst.PATH_COMPONENTS", path).train()
    model([image], [faces])
    assert torch.equal(model.coding.components, basis.components)
    save_weights(tmp_path / "model.safetensors", model.state_dict(), cfg, {})
    path.unlink()
    loaded, _, _ = load_model(tmp_path / "model.safetensors")
    for name in ("components", "means", "explained_variances"):
        assert torch.equal(getattr(loaded.coding, name), getattr(model.coding, name))
    model.eval()
    with torch.no_grad():
        before, after = model([image])[0], loaded([image])[0]
    torch.testing.assert_close(before.boxes, after.boxes, rtol=1e-4, atol=1e-3)
    assert before.masks.any()
    assert (before.masks != after.masks).float().mean() < 1e-3


def test_the_file_is_read_once(tmp_path):
    path = write_basis(tmp_path / "basis.npz", random_basis())
    model = tiny("MODEL.MEInst.PATH_COMPONENTS", path).train()
    image, faces = sample()
    model([image], [faces])
    path.unlink()
    model([image], [faces])
    assert torch.equal(model.coding.components, random_basis().components)


def test_a_larger_file_serves_a_shorter_code(tmp_path):
    basis = random_basis(dim=10)
    path = write_basis(tmp_path / "basis.npz", basis, sigmoid=np.asarray(True))
    found = read_basis(path, DIM, SIZE, sigmoid=True)
    assert torch.equal(found.components, basis.components[:DIM])
    assert torch.equal(found.variances, basis.variances[:DIM])
    assert torch.equal(found.means, basis.means)


def test_an_absent_file_stops_training_but_not_inference(tmp_path):
    path = tmp_path / "absent.npz"
    model = tiny("MODEL.MEInst.PATH_COMPONENTS", path)
    image, faces = sample()
    with torch.no_grad():
        model.eval()([image])
    with pytest.raises(OSError, match=r"PATH_COMPONENTS.*absent\.npz.*make_mask_codes\.py"):
        model.train()([image], [faces])


def test_a_run_that_continues_does_not_need_the_file(tmp_path, caplog):
    earlier = tiny()
    earlier.coding.set_basis(random_basis())
    model = tiny("MODEL.MEInst.PATH_COMPONENTS", tmp_path / "gone.npz")
    model.load_state_dict(earlier.state_dict())
    image, faces = sample()
    with caplog.at_level(logging.WARNING):
        model.train()([image], [faces])
    assert "gone.npz" in caplog.text
    assert torch.equal(model.coding.components, random_basis().components)


@pytest.mark.parametrize("keep", [False, True])
def test_loaded_weights_or_the_file_as_asked(tmp_path, keep):
    path = write_basis(tmp_path / "basis.npz", random_basis(seed=1))
    earlier = tiny()
    earlier.coding.set_basis(random_basis(seed=2))
    model = tiny("MODEL.MEInst.PATH_COMPONENTS", path, "MODEL.MEInst.FLAG_PARAMETERS", keep)
    model.load_state_dict(earlier.state_dict())
    image, faces = sample()
    model.train()([image], [faces])
    assert torch.equal(model.coding.components, random_basis(seed=2 if keep else 1).components)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean_c": None}, "lacks.*mean_c"),
        ({"mean_c": np.zeros((1, 63), np.float32)}, "shapes"),
        ({"components_c": np.zeros((DIM, SIZE**2), np.float32)}, "shapes"),
        ({"mean_c": np.full((1, SIZE**2), np.nan, np.float32)}, "not finite"),
        ({"explained_variance_c": np.zeros((1, DIM), np.float32)}, "not positive"),
        ({"sigmoid": np.asarray(False)}, "sigmoid False"),
        ({"mean_c": np.array([[None] * SIZE**2])}, "not an .npz"),
    ],
)
def test_unfit_files_are_named(tmp_path, changes, message):
    path = write_basis(tmp_path / "basis.npz", random_basis(), **changes)
    with pytest.raises(MaskBasisError, match=message) as caught:
        read_basis(path, DIM, SIZE, sigmoid=True)
    assert "basis.npz" in str(caught.value)


def test_files_of_another_size_or_no_archives_are_named(tmp_path):
    path = write_basis(tmp_path / "basis.npz", random_basis())
    with pytest.raises(MaskBasisError, match="6 components of 64 pixels"):
        read_basis(path, DIM + 1, SIZE, sigmoid=True)
    with pytest.raises(MaskBasisError, match="MASK_SIZE for 9 x 9"):
        read_basis(path, DIM, 9, sigmoid=True)
    for content in (b"", b"text", path.read_bytes()[:200]):
        broken = tmp_path / "broken.npz"
        broken.write_bytes(content)
        with pytest.raises(MaskBasisError, match=r"broken\.npz"):
            read_basis(broken, DIM, SIZE, sigmoid=True)


# --- the head -----------------------------------------------------------------------------------


@pytest.mark.parametrize("gcn", [False, True])
@torch.no_grad()
def test_codes_at_cells_equal_the_dense_prediction(gcn):
    model = tiny("MODEL.MEInst.USE_GCN_IN_MASK", gcn, "MODEL.MEInst.GCN_KERNEL_SIZE", 5)
    torch.nn.init.normal_(next(model.head.code.parameters()))
    generator = torch.Generator().manual_seed(3)
    towers = [torch.randn(2, 32, *size, generator=generator) for size in ((4, 6), (2, 3), (1, 1))]
    level = torch.tensor([2, 0, 1, 0, 1])
    image = torch.tensor([0, 1, 1, 0, 0])
    cell = torch.tensor([0, 23, 4, 0, 2])
    codes = model.head.codes_at(model.head.code_maps(towers), level, image, cell)
    for code, index, row, column in zip(codes, level, image, cell, strict=True):
        dense = model.head.code(towers[index]).flatten(2)[row, :, column]
        torch.testing.assert_close(code, dense, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_global_convolution_is_the_sum_of_two_rank_limited_kernels():
    torch.manual_seed(0)
    layer = GlobalConv(3, 4, 5)
    kernel = torch.zeros(4, 3, 5, 5)
    for first, second in (layer.tall_first, layer.wide_first):
        for part in (first, second):
            torch.nn.init.zeros_(part.bias)  # a bias would differ at the border
        kernel += torch.einsum("dmij,mckl->dcikjl", second.weight, first.weight).reshape(
            kernel.shape
        )
    x = torch.randn(2, 3, 7, 6)
    expected = torch.nn.functional.conv2d(x, kernel, padding=2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


VARIANTS = {
    "deformable": ["MODEL.MEInst.USE_DEFORMABLE", "True"],
    "modulated": ["MODEL.MEInst.USE_DEFORMABLE", "True", "MODEL.MEInst.TYPE_DEFORMABLE", "DCNv2"],
    "large_kernels": ["MODEL.MEInst.USE_GCN_IN_MASK", "True"],
    "loss_on_mask": ["MODEL.MEInst.LOSS_ON_MASK", "True"],
    "no_whitening": ["MODEL.MEInst.WHITEN", "False"],
    "no_sigmoid": ["MODEL.MEInst.SIGMOID", "False"],
    "neither": ["MODEL.MEInst.WHITEN", "False", "MODEL.MEInst.SIGMOID", "False"],
    "no_norm": ["MODEL.MEInst.NORM", "none", "MODEL.MEInst.USE_SCALE", "False"],
    "batch_norm": ["MODEL.MEInst.NORM", "BN", "MODEL.MEInst.NUM_SHARE_CONVS", "1"],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_setting_trains_and_infers(name):
    model = tiny(*VARIANTS[name]).train()
    big, other = sample(), sample((70, 80), seed=1)
    for targets in ([big[1], other[1]], [Faces.empty((64, 96)), Faces.empty((70, 80))]):
        model.zero_grad()
        losses = model([big[0], other[0]], targets).losses
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        assert [n for n, grad in trained.items() if grad is None] == []
        assert all(torch.isfinite(grad).all() for grad in trained.values())
    model.eval()
    with torch.no_grad():
        found = model([big[0], other[0]], output_sizes=[(128, 192), (35, 40)])
    for faces, size in zip(found, [(128, 192), (35, 40)], strict=True):
        assert len(faces) > 0
        assert faces.masks.shape == (len(faces), *size)
        assert ((faces.boxes[:, 2:] - faces.boxes[:, :2]) > 0).all()


@pytest.mark.parametrize(("last", "expected"), [(True, 4), (False, 7)])
def test_which_convolutions_are_deformable(last, expected):
    depths = ["CLS", 1, "BOX", 2, "SHARE", 1, "MASK", 3]
    overrides = [
        word
        for name, depth in zip(depths[::2], depths[1::2], strict=True)
        for word in (f"MODEL.MEInst.NUM_{name}_CONVS", depth)
    ]
    model = tiny(
        *overrides, *("MODEL.MEInst.USE_DEFORMABLE", True, "MODEL.MEInst.LAST_DEFORMABLE", last)
    )
    found = [n for n, m in model.named_modules() if isinstance(m, DeformableConv)]
    assert len(found) == expected
    assert "head.mask_tower.2.conv" in found
    assert model.head.mask_tower[2].conv.conv.bias is None
    assert not model.head.mask_tower[2].conv.offset.weight.any()


def test_deformable_fcos_has_a_modulated_last_convolution():
    model = FCOS.from_config(settings("MODEL.FCOS.USE_DEFORMABLE", True))
    names = {n for n, m in model.named_modules() if isinstance(m, DeformableConv)}
    assert names == {"head.class_tower.3.conv", "head.box_tower.3.conv"}
    layer = model.head.box_tower[3].conv
    assert layer.offset.out_channels == 27
    assert layer.conv.bias is not None
    image, faces = sample()
    sum(model.train()([image], [faces]).losses.values()).backward()
    assert layer.offset.weight.grad.abs().sum() > 0


# --- the detector -------------------------------------------------------------------------------


def test_a_batch_gives_each_image_its_own_result():
    model = tiny().eval()
    one, other = sample()[0], sample(seed=1)[0]
    with torch.no_grad():
        together = model([one, other])
        alone = [model([one])[0], model([other])[0]]
    for batched, single in zip(together, alone, strict=True):
        torch.testing.assert_close(batched.boxes, single.boxes, rtol=1e-4, atol=1e-3)
        assert (batched.masks != single.masks).float().mean() < 1e-3


def test_without_masks_only_boxes_are_inferred():
    image, _ = sample()
    with torch.no_grad():
        full = tiny().eval()([image])[0]
        plain = tiny("MODEL.MASK_ON", "False").eval()([image])[0]
    assert plain.masks is None
    assert torch.equal(plain.boxes, full.boxes)


def test_faces_without_masks_are_refused_in_training():
    image, faces = sample()
    bare = Faces(faces.boxes, faces.image_size, faces.labels)
    with pytest.raises(ValueError, match="target 1 has 2 faces but no masks"):
        tiny().train()([image, image], [faces, bare])


def test_bfloat16_autocast_keeps_losses_in_float32_and_near():
    image, faces = sample()
    results = []
    for enabled in (False, True):
        model = tiny("MODEL.MEInst.USE_DEFORMABLE", True).train()
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            results.append(model([image], [faces]).losses)
    for name, loss in results[1].items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, results[0][name], rtol=0.05, atol=0.02)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = tiny().eval()([image])[0]
    assert found.boxes.dtype == found.scores.dtype == torch.float32


@pytest.mark.parametrize(("clipped", "first"), [(True, 16), (False, 0)])
def test_masks_at_the_border_are_pasted_as_asked(monkeypatch, clipped, first):
    """The right half of a box that reaches over the left border, in an image twice as large."""
    model = tiny("MODEL.MEInst.PASTE_CLIPPED", clipped).eval()
    zero = torch.zeros(1, dtype=torch.int64)
    found = Detections(torch.tensor([[-16.0, 8, 16, 24]]), torch.ones(1), zero, zero, zero)
    soft = torch.zeros(1, 8, 8)
    soft[:, :, 4:] = 1.0
    monkeypatch.setattr(model, "detections", lambda dense: [found])
    monkeypatch.setattr(model, "square_masks", lambda *arguments: [soft])
    with torch.no_grad():
        faces = model([sample()[0]], output_sizes=[(128, 192)])[0]
    middle = faces.masks[0, 32]  # bilinear sampling rounds a mask's corners
    assert middle.nonzero()[:, 0].tolist() == list(range(first, 32))


def test_mask_features_are_read_from_the_level_of_the_face():
    """Each level holds a ramp along x, in pixels, plus a constant that names the level."""
    model = tiny()
    maps = []
    for index, stride in enumerate((8, 16, 32, 64, 128)):
        centres = (torch.arange(1024 // stride) + 0.5) * stride
        maps.append((centres + 10_000 * index).expand(2, 1, 1024 // stride, -1))
    output = TrainingOutput({}, {}, mask_features=maps)
    widths = [40, 128, 130, 256, 600, 1000]  # half of the longer side against 64, 128, 256, 512
    levels = [0, 0, 1, 1, 3, 3]
    boxes = torch.tensor([[10.0, 10, 10 + w, 30 + w / 2] for w in widths])
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    given = [boxes[order[:4]], boxes[order[4:]]]
    pooled = model.roi_mask_features(output, given, 4)
    assert pooled.shape == (6, 1, 4, 4)
    for row, index in enumerate(order.tolist()):
        bins = 10 + widths[index] * (torch.arange(4) + 0.5) / 4
        expected = bins + 10_000 * levels[index]
        inner = slice(1, 3)  # the outer bins may reach beyond the first cell's centre
        torch.testing.assert_close(pooled[row, 0, 1, inner], expected[inner], rtol=1e-6, atol=0.05)


def test_mask_features_carry_gradients_and_may_be_none():
    model = tiny().train()
    image, faces = sample()
    output = model([image, image], [faces, Faces.empty((64, 96))])
    assert [m.shape[0] for m in output.mask_features] == [2] * 5
    model.zero_grad()
    none = [torch.zeros(0, 4), torch.zeros(0, 4)]
    assert model.roi_mask_features(output, none, 4).shape == (0, 32, 4, 4)
    model.roi_mask_features(output, [faces.boxes, none[0]], 4).square().sum().backward()
    assert model.head.mask_tower[0].conv.weight.grad.abs().sum() > 0


def test_keys_of_meinst_reach_the_parts_that_it_shares_with_fcos():
    cfg = settings("MODEL.MEInst.NMS_TH", 0.3, "MODEL.MEInst.POS_RADIUS", 2.5)
    model = MEInst.from_config(cfg)
    assert model.selector.nms_threshold == 0.3
    assert model.assigner.radius == 2.5
    shared = cfg.MODEL.FCOS.keys() & cfg.MODEL.MEInst.keys()
    assert len(shared) > 15
    seen = with_fcos_keys(cfg)
    assert all(seen.MODEL.FCOS[key] == cfg.MODEL.MEInst[key] for key in shared)
    assert cfg.MODEL.FCOS.NMS_TH == 0.6


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.MEInst.MASK_LOSS_TYPE", "l1", "MASK_LOSS_TYPE"),
        ("MODEL.MEInst.GCN_KERNEL_SIZE", 4, "GCN_KERNEL_SIZE"),
        ("MODEL.MEInst.TYPE_DEFORMABLE", "DCN", "DCN"),
        ("MODEL.MEInst.DIM_MASK", 65, "DIM_MASK"),
        ("MODEL.FCOS.BOX_QUALITY", "iou", "ctrness"),
    ],
)
def test_unfit_settings_are_named(key, value, message):
    switches = ("MODEL.MEInst.USE_GCN_IN_MASK", True, "MODEL.MEInst.USE_DEFORMABLE", True)
    with pytest.raises(ValueError, match=message):
        MEInst.from_config(settings(*switches, key, value))
