"""SOLO: masks of cells beside whole convolutions, losses beside loops, and its settings."""

import math
from dataclasses import replace

import pytest
import torch
from narrow import NARROW
from torch.nn import functional
from torch.testing import assert_close
from two_faces import sample

from comics.config import load_config
from comics.modeling.detectors.solo import SOLO
from comics.modeling.detectors.solo.head import MaskCells, map_strides
from comics.structures import Faces

STAGES = "['res2', 'res3', 'res4', 'res5']"
TINY = [
    *NARROW,
    "MODEL.RESNETS.OUT_FEATURES", STAGES, "MODEL.FPN.IN_FEATURES", STAGES,
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FPN.TOP_BLOCK", "pool",
    "MODEL.SOLO.NUM_GRIDS", "[12, 10, 8, 6, 4]", "MODEL.SOLO.CHANNELS", "32",
    "MODEL.SOLO.NUM_CONVS", "1", "MODEL.SOLO.PRIOR_PROB", "0.3",
]  # fmt: skip


def tiny(*overrides):
    """A model whose random filters give masks of some shape."""
    torch.manual_seed(0)
    model = SOLO.from_config(load_config(overrides=[*TINY, *overrides]))
    for parameter in model.head.masks.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


# --- the head ----------------------------------------------------------------------------------


def test_masks_of_cells_are_channels_of_the_convolution():
    torch.manual_seed(0)
    masks = MaskCells(6, 5, decoupled=False)
    mask_map = torch.randn(6, 7, 9)
    every = masks.cells(mask_map[None])[0].sigmoid()
    cells = torch.tensor([24, 0, 7, 7])
    assert_close(masks(mask_map, cells), every[cells].flatten(1))
    assert masks(mask_map, cells[:0]).shape == (0, 63)


def test_decoupled_masks_are_products_of_a_row_and_a_column():
    torch.manual_seed(0)
    masks = MaskCells(6, 5, decoupled=True).double()
    masks_in_32 = MaskCells(6, 5, decoupled=True)
    masks_in_32.load_state_dict(masks.state_dict())
    masks.requires_grad_(False)
    mask_map = torch.randn(6, 3, 4, dtype=torch.float64)
    expected = torch.zeros(25, 3, 4, dtype=torch.float64)
    for row in range(5):
        for column in range(5):
            for y in range(3):
                for x in range(4):
                    values = mask_map[:, y, x]
                    first = float(masks.rows.weight[row, :, 0, 0] @ values + masks.rows.bias[row])
                    second = float(
                        masks.columns.weight[column, :, 0, 0] @ values + masks.columns.bias[column]
                    )
                    product = 1 / (1 + math.exp(-first)) / (1 + math.exp(-second))
                    expected[row * 5 + column, y, x] = product
    found = masks_in_32(mask_map.float(), torch.arange(25))
    assert_close(found, expected.flatten(1).float())
    assert sum(p.numel() for p in masks.parameters()) == 2 * 5 * 7


def test_map_strides_are_those_of_the_maps():
    model = tiny().eval()
    image, _ = sample()
    with torch.no_grad():
        batch = model.preprocess([image])
        dense = model.dense(model.extract_features(batch))
    for level, stride, grid in zip(model.levels, model.map_strides, model.head.grids, strict=True):
        assert dense[f"mask_maps_{level}"].shape == (1, 32, 64 // stride, 96 // stride)
        assert dense[f"class_logits_{level}"].shape == (1, 2, grid, grid)
    assert model.map_strides == map_strides([4, 8, 16, 32, 64]) == (4, 4, 8, 16, 16)


def test_cells_of_all_levels_share_the_finest_map():
    model = tiny().eval()
    sides = [(16, 24), (16, 24), (8, 12), (4, 6), (4, 6)]
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(32, *side, generator=generator) for side in sides]
    every = []
    for masks, one in zip(model.head.masks, maps, strict=True):
        soft = masks.cells(one[None]).sigmoid()
        soft = functional.interpolate(soft, (16, 24), mode="bilinear", align_corners=False)
        every.append(soft[0].flatten(1))
    cells = torch.tensor([359, 0, 143, 144, 244, 307, 308, 343])  # the last and first of levels
    with torch.no_grad():
        found = model.soft_masks(maps)(cells)
    assert_close(found, torch.cat(every)[cells].detach())
    assert model.soft_masks(maps)(cells[:0]).shape == (0, 384)


# --- losses ------------------------------------------------------------------------------------


def naive_losses(model, image, faces):
    """Focal and Dice loss, cell by cell and pixel by pixel, in float64."""
    batch = model.preprocess([image])
    with torch.no_grad():
        features = model.extract_features(batch)
        output = model.head([features[level] for level in model.levels])
    assigned = model.assigner.assign([faces], tuple(batch.tensor.shape[-2:]))
    focal, positives, dice = 0.0, 0, []
    for level, pairs in enumerate(assigned):
        probability = output.class_logits[level][0].double().sigmoid().flatten(1)
        for cell, label in enumerate(pairs.labels[0].tolist()):
            positives += label < 2
            for wanted in (0, 1):
                p = float(probability[wanted, cell])
                if label == wanted:
                    focal += -0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    focal += -0.75 * p**2 * math.log(1 - p)
        stride = model.map_strides[level]
        maps = model.head.masks[level].cells(output.mask_maps[level])[0].detach().double().sigmoid()
        height, width = maps.shape[-2:]
        for cell, face in zip(pairs.cell.tolist(), pairs.face.tolist(), strict=True):
            both = squares = 0.0
            for i in range(height):
                for j in range(width):
                    p = float(maps[cell, i, j])
                    y, x = i * stride + stride // 2, j * stride + stride // 2
                    q = int(faces.masks[face, y - 1 : y + 1, x - 1 : x + 1].sum() >= 2)
                    both, squares = both + p * q, squares + p * p + q
            dice.append(1 - 2 * both / (squares + 0.002))
    return {
        "loss_ins": 3 * sum(dice) / max(len(dice), 1),
        "loss_cate": focal / (positives + 1),
    }


@pytest.mark.parametrize("count", [2, 1, 0])
def test_losses_beside_loops(count):
    model = tiny().train()
    image, faces = sample()
    chosen = faces[torch.arange(count)]
    losses = model([image], [chosen]).losses
    expected = naive_losses(model, image, chosen)
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name
    assert (losses["loss_ins"] > 0) == (count > 0)


def test_gradients_of_masks_go_to_the_filters_of_positive_cells_alone():
    model = tiny().train()
    image, faces = sample()
    output = model([image], [faces[[0]]])
    batch = model.preprocess([image])
    assigned = model.assigner.assign([faces[[0]]], tuple(batch.tensor.shape[-2:]))
    output.losses["loss_ins"].backward()
    for masks, pairs in zip(model.head.masks, assigned, strict=True):
        weight = masks.cells.weight.grad
        used = weight.abs().flatten(1).sum(dim=1).nonzero().flatten().tolist()
        assert used == sorted(set(pairs.cell.tolist()))
    assert model.head.class_logits.weight.grad is None
    assert any(len(pairs.cell) for pairs in assigned)


def test_proposals_are_the_assigned_pairs_with_the_boxes_of_their_masks():
    model = tiny().train()
    image, faces = sample()
    output = model([image, image], [Faces.empty((64, 96)), faces])
    batch = model.preprocess([image])
    assigned = model.assigner.assign([faces], tuple(batch.tensor.shape[-2:]))
    assert list(output.proposals) == list(model.levels)
    for pairs, found in zip(assigned, output.proposals.values(), strict=True):
        assert torch.equal(found.face, pairs.face)
        assert (found.image == 1).all()
        assert not found.boxes.requires_grad
    assert sum(len(found.face) for found in output.proposals.values()) > 2


def test_mask_features_are_read_from_the_level_of_a_faces_size():
    model = tiny().train()
    image, faces = sample()
    output = model([image], [faces])
    marked = [torch.full_like(m, float(i)) for i, m in enumerate(output.mask_features)]
    output = replace(output, mask_features=marked)
    boxes = torch.tensor([[0.0, 0, 40, 40], [0, 0, 96, 96], [0, 0, 97, 97], [0, 0, 500, 500]])
    pooled = model.roi_mask_features(output, [boxes], 20)
    assert pooled.shape == (4, 32, 20, 20)
    assert pooled[:, 0, 0, 0].tolist() == [0, 0, 1, 3]


# --- the whole model -----------------------------------------------------------------------------


@pytest.mark.parametrize("decoupled", ["False", "True"])
def test_mixed_sizes_train_and_infer(decoupled):
    model = tiny("MODEL.SOLO.DECOUPLED", decoupled).train()
    big, small = sample(), sample((70, 80), seed=1)
    output = model([big[0], small[0]], [big[1], small[1]])
    assert all(torch.isfinite(loss) for loss in output.losses.values())
    sum(output.losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.eval()
    with torch.no_grad():
        found = model([big[0], small[0]], output_sizes=[(128, 192), (35, 40)])
    for faces, size in zip(found, [(128, 192), (35, 40)], strict=True):
        assert faces.image_size == size
        assert len(faces) > 0
        assert faces.masks.shape == (len(faces), *size)
        assert (faces.scores.diff() <= 0).all()


def test_a_face_under_the_finest_stride_trains():
    model = tiny().train()
    image, _ = sample()
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[0, 30:32, 41:43] = True
    faces = Faces(torch.tensor([[41.0, 30, 43, 32]]), (64, 96), torch.tensor([1]), masks=mask)
    output = model([image], [faces])
    assert all(torch.isfinite(loss) for loss in output.losses.values())
    assert sum(len(found.face) for found in output.proposals.values()) > 0


def test_greedy_suppression_keeps_no_two_alike_and_matrix_lowers_scores():
    image, _ = sample()
    with torch.no_grad():
        (greedy,) = tiny().eval()([image])
        (matrix,) = tiny("MODEL.SOLO.NMS_TYPE", "matrix").eval()([image])
    masks = greedy.masks.flatten(1).float()
    common = masks @ masks.T
    area = masks.sum(dim=1)
    iou = common / (area[:, None] + area - common).clamp(min=1)
    same = greedy.labels[:, None] == greedy.labels
    # pixels of drawn masks, cells when suppressed: a little more than the threshold is possible
    assert (iou * same).triu(diagonal=1).max() < 0.6
    assert len(matrix) > 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.FPN.IN_FEATURES", "['res3', 'res4', 'res5']", "p2.*FPN.IN_FEATURES"),
        ("MODEL.SOLO.NUM_GRIDS", "[12, 10, 8, 6]", "NUM_GRIDS"),
        ("MODEL.SOLO.FPN_INSTANCE_STRIDES", "[8, 8]", "FPN_INSTANCE_STRIDES"),
        ("MODEL.SOLO.PRIOR_PROB", "1.0", "MODEL.SOLO.PRIOR_PROB"),
        ("MODEL.SOLO.NORM", "BN", "MODEL.SOLO.NORM"),
        ("MODEL.SOLO.NMS_TYPE", "soft", "MODEL.SOLO.NMS_TYPE"),
        ("MODEL.SOLO.NMS_KERNEL", "cubic", "MODEL.SOLO.NMS_KERNEL"),
    ],
)
def test_settings_that_do_not_fit_are_named(key, value, message):
    with pytest.raises(ValueError, match=message):
        tiny(key, value)
