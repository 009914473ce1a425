"""SOLOv2 apart from the reference: inputs, outputs, precision, what the contrast gets."""

from dataclasses import replace

import pytest
import torch
from narrow import NARROW
from two_faces import sample

from comics.config import load_config
from comics.modeling.detectors.solov2 import SOLOv2
from comics.modeling.detectors.solov2.grid_detector import pyramid_cells
from comics.modeling.detectors.solov2.heads import InstanceOutput
from comics.modeling.detectors.solov2.selection import MaskDetections
from comics.structures import Faces

STAGES = "['res2', 'res3', 'res4', 'res5']"
TINY = [
    *NARROW,
    "MODEL.RESNETS.OUT_FEATURES", STAGES, "MODEL.FPN.IN_FEATURES", STAGES,
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FPN.TOP_BLOCK", "pool",
    "MODEL.SOLOV2.NUM_GRIDS", "[12, 10, 8, 6, 4]", "MODEL.SOLOV2.INSTANCE_CHANNELS", "32",
    "MODEL.SOLOV2.NUM_INSTANCE_CONVS", "1", "MODEL.SOLOV2.MASK_CHANNELS", "32",
    "MODEL.SOLOV2.NUM_KERNELS", "32", "MODEL.SOLOV2.NUM_MASKS", "32",
    "MODEL.SOLOV2.PRIOR_PROB", "0.3",
]  # fmt: skip


def tiny(*overrides):
    """A model whose random kernels give masks of some shape."""
    torch.manual_seed(0)
    model = SOLOv2.from_config(load_config(overrides=[*TINY, *overrides]))
    torch.nn.init.normal_(model.instance_head.kernels.weight, std=0.2)
    return model


def naive_box(mask):
    rows = [i for i, inside in enumerate(mask.any(dim=1).tolist()) if inside]
    columns = [j for j, inside in enumerate(mask.any(dim=0).tolist()) if inside]
    if not rows:
        return [0.0, 0.0, 0.0, 0.0]
    return [min(columns), min(rows), max(columns) + 1.0, max(rows) + 1.0]


# --- the whole model ---------------------------------------------------------------------------


def test_mixed_sizes_train_and_infer():
    model = tiny().train()
    big, small = sample(), sample((70, 80), seed=1)
    output = model([big[0], small[0]], [big[1], small[1]])
    assert all(torch.isfinite(loss) for loss in output.losses.values())
    model.eval()
    with torch.no_grad():
        found = model([big[0], small[0]], output_sizes=[(128, 192), (35, 40)])
    for faces, size in zip(found, [(128, 192), (35, 40)], strict=True):
        assert faces.image_size == size
        assert len(faces) > 0
        assert faces.masks.flatten(1).any(dim=1).all()
        assert faces.boxes.tolist() == [naive_box(mask) for mask in faces.masks]
        assert (faces.scores.diff() <= 0).all()


def test_a_batch_gives_each_image_its_own_result():
    model = tiny().eval()
    one, other = sample()[0], sample(seed=1)[0]
    with torch.no_grad():
        together = model([one, other])
        alone = [model([one])[0], model([other])[0]]
    for batched, single in zip(together, alone, strict=True):
        torch.testing.assert_close(batched.scores, single.scores, rtol=1e-3, atol=1e-4)
        assert len(batched) == len(single) > 0


def test_an_image_in_a_larger_batch_keeps_its_scale():
    """The enlargement of the masks does not depend on the padding."""
    model = tiny().eval()
    soft = torch.zeros(1, 24, 24)
    soft[0, 2:4, 3:6] = 1.0  # pixels 8..16 and 12..24
    selected = replace_selection(model, soft)
    with torch.no_grad():
        found = selected([sample((20, 30))[0], sample((96, 96))[0]])
    for faces in found:
        assert faces.boxes.tolist() == [[12, 8, 24, 16]]


def replace_selection(model, soft):
    """The model with a selection that finds these soft masks [N, h, w] in every image."""
    count = len(soft)

    class Found:
        mask_threshold = 0.5

        def select(self, class_logits, kernels, mask_features):
            labels = torch.zeros(count, dtype=torch.int64)
            return [MaskDetections(torch.ones(count), labels, soft)] * len(mask_features)

    model.selector = Found()
    return model


def test_faces_without_a_pixel_are_dropped():
    soft = torch.zeros(3, 16, 24)
    soft[0, 2:4, 3:6] = soft[2, 0:2, 0:2] = 1.0
    model = replace_selection(tiny().eval(), soft)
    with torch.no_grad():
        (faces,) = model([sample()[0]])
    assert faces.boxes.tolist() == [[12, 8, 24, 16], [0, 0, 8, 8]]


def test_without_masks_the_boxes_are_the_same():
    with_masks = tiny().eval()
    boxes_only = tiny("MODEL.MASK_ON", "False").eval()
    boxes_only.load_state_dict(with_masks.state_dict())
    image, _ = sample()
    with torch.no_grad():
        full, plain = with_masks([image])[0], boxes_only([image])[0]
    assert plain.masks is None
    assert full.masks.shape == (len(full), 64, 96)
    assert len(full) > 0
    assert torch.equal(plain.boxes, full.boxes)


def test_nothing_found_gives_empty_results_of_the_right_types():
    model = tiny("MODEL.SOLOV2.SCORE_THRESH_TEST", "0.99").eval()
    with torch.no_grad():
        (faces,) = model([sample()[0]], output_sizes=[(30, 40)])
    assert len(faces) == 0
    assert faces.masks.shape == (0, 30, 40)
    assert faces.labels.dtype == torch.int64


def test_bad_targets_are_named():
    model = tiny().train()
    image, faces = sample()
    bare = Faces(faces.boxes, faces.image_size, faces.labels)
    with pytest.raises(ValueError, match="target 1 has 2 faces but no masks"):
        model([image, image], [faces, bare])
    flat = replace(faces, boxes=torch.tensor([[8.0, 8, 8, 40], [0, 0, 9, 9]]))
    with pytest.raises(ValueError, match="target 0 has a box without width or height"):
        model([image], [flat])


def test_bfloat16_autocast_keeps_losses_in_float32_and_near():
    image, faces = sample()
    exact = tiny().train()([image], [faces]).losses
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = tiny().train()([image], [faces])
    assert output.features["p3"].dtype == torch.bfloat16
    for name, loss in output.losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact[name], rtol=0.05, atol=0.02)
    model = tiny().eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = model([image])
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert len(found) > 0


def test_heads_without_norm_have_biases_and_train():
    model = tiny("MODEL.SOLOV2.NORM", "none").train()
    image, faces = sample()
    sum(model([image], [faces]).losses.values()).backward()
    biases = [
        parameter
        for name, parameter in model.named_parameters()
        if "tower" in name and name.endswith("conv.bias")
    ]
    assert len(biases) == 2
    assert all(bias.grad is not None for bias in biases)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.FPN.IN_FEATURES", "['res3', 'res4', 'res5']", "p2.*FPN.IN_FEATURES"),
        ("MODEL.SOLOV2.NUM_GRIDS", "[12, 10, 8, 6]", "NUM_GRIDS"),
        ("MODEL.SOLOV2.FPN_INSTANCE_STRIDES", "[8, 8]", "FPN_INSTANCE_STRIDES"),
        ("MODEL.SOLOV2.MASK_IN_FEATURES", "['p2', 'p4']", "MASK_IN_FEATURES"),
        ("MODEL.SOLOV2.MASK_IN_FEATURES", "['p2']", "MASK_IN_FEATURES"),
        ("MODEL.SOLOV2.NUM_KERNELS", "64", "NUM_KERNELS"),
        ("MODEL.SOLOV2.PRIOR_PROB", "1.0", "PRIOR_PROB"),
        ("MODEL.SOLOV2.NORM", "BN", "NORM"),
        ("MODEL.SOLOV2.NMS_TYPE", "soft", "NMS_TYPE"),
        ("MODEL.SOLOV2.NMS_KERNEL", "cubic", "NMS_KERNEL"),
        ("MODEL.SOLOV2.MASK_TARGETS", "nearest", "MASK_TARGETS"),
    ],
)
def test_settings_that_do_not_fit_are_named(key, value, message):
    with pytest.raises(ValueError, match=message):
        tiny(key, value)


# --- what the contrastive losses get -----------------------------------------------------------


def test_proposals_lie_at_their_grid_cells_and_have_the_boxes_of_their_masks(monkeypatch):
    """Kernels and a mask map by hand: cells of label 0 give a known mask, the others nothing."""
    model = tiny().train()
    image, faces = sample()
    batch = model.preprocess([image, image])
    features = model.extract_features(batch)
    targets = [Faces.empty((64, 96)), faces]
    size = features["p2"].shape[-2:]
    mask_map = torch.full((2, 32, *size), -1.0)
    mask_map[1, 0, 3:9, 4:7] = 1.0
    grids = model.assigner.grids
    kernels = [torch.zeros(2, 32, s, s) for s in grids]
    for kernel in kernels:
        kernel[:, 0] = torch.linspace(-1, 1, kernel.shape[-1])  # negative left of the middle
    logits = [torch.zeros(2, 2, s, s) for s in grids]
    dense = InstanceOutput(logits, kernels)
    monkeypatch.setattr(model, "heads", lambda _: (dense, mask_map))
    output = model.training_output(features, batch, targets)
    assert list(output.proposals) == ["p2", "p3", "p4", "p5", "p6"]
    assigned = model.assigner.assign(targets, (64, 96))
    seen = set()
    for (level, found), pairs, grid in zip(output.proposals.items(), assigned, grids, strict=True):
        height, width = features[level].shape[-2:]
        stride = model.backbone.strides[level]
        assert torch.equal(found.face, pairs.face)
        assert (found.image == 1).all()
        assert not found.boxes.requires_grad
        for cell, place, box in zip(pairs.cell, found.cells, found.boxes, strict=True):
            row, column = divmod(int(cell), grid)
            y, x = (row + 0.5) / grid * 64, (column + 0.5) / grid * 96
            assert int(place) == int(y // stride) * width + int(x // stride)
            assert int(place) < height * width
            positive = column > (grid - 1) / 2
            # -1 * negative kernel: everything but the block
            wanted = [16, 12, 28, 36] if positive else [0, 0, 96, 64]
            assert box.tolist() == wanted
            seen.add(positive)
    assert seen == {True, False}


def test_a_mask_without_a_cell_gives_a_box_without_area():
    model = tiny().train()
    torch.nn.init.constant_(model.instance_head.kernels.bias, -100.0)  # times a map >= 0
    output = model([sample()[0]], [sample()[1]])
    boxes = torch.cat([found.boxes for found in output.proposals.values()])
    assert len(boxes) > 0
    assert not boxes.any()


def test_cells_of_a_level_whose_last_cell_is_cut():
    """p6 of an image 96 pixels high has 2 rows of 64 pixels, the second half outside."""
    grid = 12
    cells = torch.arange(grid * grid)
    places = pyramid_cells(cells, grid, (2, 3), (96 / 64, 160 / 64))
    for cell, place in zip(cells.tolist(), places.tolist(), strict=True):
        row, column = divmod(cell, grid)
        y, x = (row + 0.5) / grid * 96, (column + 0.5) / grid * 160
        assert place == int(y // 64) * 3 + int(x // 64)


def test_mask_features_of_boxes():
    model = tiny().train()
    image, faces = sample()
    output = model([image, image], [faces, Faces.empty((64, 96))])
    assert output.mask_features.shape == (2, 32, 16, 24)
    # a ramp along x is linear, so each bin's mean is the ramp at the bin's centre
    output = replace(output, mask_features=torch.arange(24.0).expand(2, 32, 16, 24))
    pooled = model.roi_mask_features(output, [faces.boxes, torch.zeros(0, 4)], 4)
    assert pooled.shape == (2, 32, 4, 4)
    centres = 8 + 32 * (torch.arange(4) + 0.5) / 4
    torch.testing.assert_close(pooled[0, 0, 0], centres / 4 - 0.5)


def test_class_loss_counts_a_cell_once():
    """Two faces on one cell: two masks to learn, one positive cell."""
    model = tiny().train()
    image, faces = sample()
    twice = faces[[0, 0]]
    once = model([image], [faces[[0]]])
    double = model([image], [twice])
    torch.testing.assert_close(double.losses["loss_cate"], once.losses["loss_cate"])
    torch.testing.assert_close(double.losses["loss_ins"], once.losses["loss_ins"])
    pairs = [sum(len(p.face) for p in output.proposals.values()) for output in (once, double)]
    assert pairs[1] == 2 * pairs[0] > 0
