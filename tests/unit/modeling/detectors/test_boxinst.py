"""CondInst's masks from boxes alone: the losses by definition, and by the reference."""

import math

import pytest
import torch
from narrow import NARROW

from comics.config import load_config
from comics.modeling.detectors.base import ImageBatch
from comics.modeling.detectors.condinst import CondInst
from comics.modeling.detectors.condinst.boxinst import (
    BoxSupervision,
    box_bitmaps,
    colour_similarity,
    pairwise_disagreement,
    projection_loss,
    rgb_pixels,
)
from comics.structures import Faces

TINY = [
    *NARROW,
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FCOS.NUM_CLS_CONVS", "1",
    "MODEL.FCOS.NUM_BOX_CONVS", "1", "MODEL.CONDINST.MASK_BRANCH.CHANNELS", "16",
    "MODEL.CONDINST.MASK_BRANCH.NUM_CONVS", "1", "MODEL.BOXINST.ENABLED", "True",
]  # fmt: skip
OFFSETS = [(y, x) for y in (-2, 0, 2) for x in (-2, 0, 2) if (y, x) != (0, 0)]


def neighbour(maps, row, column, offset):
    """Value at an offset from a cell, None outside the map."""
    y, x = row + offset[0], column + offset[1]
    inside = 0 <= y < maps.shape[-2] and 0 <= x < maps.shape[-1]
    return maps[..., y, x] if inside else None


def test_pairwise_disagreement_equals_a_loop():
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)) * 3
    found = pairwise_disagreement(logits, 3, 2)
    p = logits.double().sigmoid()
    for n in range(2):
        for row in range(4):
            for column in range(5):
                for e, offset in enumerate(OFFSETS):
                    here, other = p[n, row, column], neighbour(p[n], row, column, offset)
                    agree = 1.0
                    if other is not None:
                        agree = (here * other + (1 - here) * (1 - other)).item()
                    value = found[n, e, row, column].item()
                    assert value == pytest.approx(-math.log(agree), abs=1e-5)


def test_colour_similarity_equals_a_loop():
    lab = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3
    trusted = torch.ones(1, 4, 5, dtype=torch.bool)
    trusted[0, 3] = False
    found = colour_similarity(lab, trusted, 3, 2)
    for row in range(4):
        for column in range(5):
            for e, offset in enumerate(OFFSETS):
                other = neighbour(lab[0].double(), row, column, offset)
                expected = 0.0
                if other is not None and neighbour(trusted[0], row, column, offset):
                    expected = math.exp(-(lab[0, :, row, column] - other).norm().item() / 2)
                assert found[0, e, row, column].item() == pytest.approx(expected, abs=1e-6)


def test_projections_of_a_box_cost_nothing_and_of_its_outline_neither():
    boxes = torch.zeros(2, 6, 8, dtype=torch.bool)
    boxes[:, 1:4, 2:7] = True
    soft = boxes.float()
    soft[1, 2, 3:6] = 0  # a hole
    torch.testing.assert_close(projection_loss(soft, boxes), torch.zeros(2), rtol=0, atol=1e-5)
    missed = boxes.float()
    missed[:, :, 2:4] = 0  # three of five columns, all rows
    expected = 1 - 2 * 3 / (3 + 5)
    torch.testing.assert_close(projection_loss(missed, boxes), torch.full((2,), expected))


def test_box_bitmaps_cover_the_pixels_that_a_box_touches():
    boxes = torch.tensor([[2.0, 1, 5, 3], [0.5, 0.2, 3.7, 2.9], [-3, -2, 40, 50], [4, 4, 4.5, 4.5]])
    found = box_bitmaps(boxes, (6, 8))
    for box, bitmap in zip(boxes.tolist(), found, strict=True):
        for y in range(6):
            for x in range(8):
                inside_x = math.floor(box[0]) <= x < math.floor(box[2] + 1)
                inside_y = math.floor(box[1]) <= y < math.floor(box[3] + 1)
                assert bitmap[y, x].item() == (inside_x and inside_y)
    assert box_bitmaps(torch.zeros(0, 4), (6, 8)).shape == (0, 6, 8)


@pytest.mark.parametrize("pixel_format", ["RGB", "BGR"])
def test_similar_neighbours_are_found_in_the_images_as_they_were(pixel_format):
    """A red and a green half, 16 x 24 pixels, the last 4 rows not trusted."""
    image = torch.zeros(1, 3, 32, 32)
    image[0, 0, :16, :12] = 200.0
    image[0, 1, :16, 12:24] = 200.0
    mean, std = torch.tensor([100.0, 110, 120]), torch.tensor([50.0, 60, 70])
    ordered = image.flip(1) if pixel_format == "BGR" else image
    normalised = (ordered - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    normalised[:, :, 16:] = normalised[:, :, :, 24:] = 0  # padding
    batch = ImageBatch(normalised, [(16, 24)])
    pixels = rgb_pixels(batch, mean.view(3, 1, 1), std.view(3, 1, 1), pixel_format)
    torch.testing.assert_close(pixels[0, :, :16, :24], image[0, :, :16, :24], rtol=0, atol=1e-3)
    supervision = BoxSupervision(dilation=1, bottom_rows=4)
    similar = supervision.similar_neighbours(pixels, batch.sizes, 4)
    assert similar.shape == (1, 8, 8, 8)
    right, below = similar[0, 4], similar[0, 6]
    assert right[:3, :5].tolist() == [[True, True, False, True, True]] * 3
    assert below[:3, :6].tolist() == [[True] * 6, [True] * 6, [False] * 6]


def test_losses_without_faces_are_zero_and_differentiable():
    logits = torch.zeros(0, 4, 5, requires_grad=True)
    nothing = torch.zeros(0, 4, 5, dtype=torch.bool)
    neighbours = torch.zeros(0, 8, 4, 5, dtype=torch.bool)
    losses = BoxSupervision().losses(logits, nothing, neighbours, torch.ones(1))
    assert [loss.item() for loss in losses.values()] == [0, 0]
    sum(losses.values()).backward()
    assert logits.grad.shape == logits.shape


def test_pairwise_loss_is_a_weighted_mean_that_warms_up():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, generator=generator)
    boxes = torch.rand(2, 4, 5, generator=generator) > 0.3
    similar = torch.rand(2, 8, 4, 5, generator=generator) > 0.5
    errors = pairwise_disagreement(logits, 3, 2)
    counted = similar & boxes[:, None]
    expected = errors[counted].double().mean().item()
    for step, share in ((1, 0.25), (3, 0.75), (4, 1.0), (9, 1.0)):
        losses = BoxSupervision(warmup=4).losses(
            logits, boxes, similar, torch.tensor([float(step)])
        )
        assert losses["loss_pairwise"].shape == ()
        assert losses["loss_pairwise"].item() == pytest.approx(share * expected, rel=1e-5)


def test_components_of_the_reference(components):
    case = components["boxinst_color_similarity"]
    similarity = colour_similarity(
        case["lab"], case["valid"][None] > 0, case["size"], case["dilation"]
    )
    torch.testing.assert_close(similarity, case["out"])
    terms = components["mask_terms"]
    disagreement = pairwise_disagreement(terms["logits"][:, 0], 3, 2)
    torch.testing.assert_close(disagreement, terms["boxinst_pairwise_3_2"], rtol=1e-4, atol=1e-6)
    projection = projection_loss(terms["scores"][:, 0], terms["gt"][:, 0] > 0).mean()
    torch.testing.assert_close(projection, terms["boxinst_project"])


def test_training_reads_no_masks():
    torch.manual_seed(0)
    model = CondInst.from_config(load_config(overrides=TINY)).train()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    boxes = torch.tensor([[8.0, 8, 40, 40], [30, 20, 70, 60]])
    faces = Faces(boxes, (64, 96), torch.tensor([0, 1]))
    none = Faces(torch.zeros(0, 4), (64, 96), torch.zeros(0, dtype=torch.int64))
    for targets in ([faces, none], [none, none]):
        model.zero_grad()
        losses = model([image, image], targets).losses
        assert {"loss_prj", "loss_pairwise"} < losses.keys() and "loss_mask" not in losses
        sum(losses.values()).backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    assert model.mask_head.iterations.item() == 2


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SIZE", "4", "SIZE must be odd"),
        ("DILATION", "0", "DILATION"),
        ("WARMUP_ITERS", "0", ">= 1"),
    ],
)
def test_settings_that_do_not_fit_are_named(key, value, message):
    with pytest.raises(ValueError, match=message):
        BoxSupervision.from_config(
            load_config(overrides=[*TINY, f"MODEL.BOXINST.PAIRWISE.{key}", value])
        )
