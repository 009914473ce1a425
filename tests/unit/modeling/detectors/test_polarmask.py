"""PolarMask: rays by hand and beside loops, its losses beside loops, contours drawn and boxed."""

import math
from dataclasses import replace

import pytest
import torch
from narrow import NARROW
from torch.testing import assert_close
from two_faces import sample

from comics.config import load_config
from comics.modeling.detectors.candidates import Candidates, PolygonMasks
from comics.modeling.detectors.fcos import level_major
from comics.modeling.detectors.polarmask import PolarMask
from comics.modeling.detectors.polarmask.rays import (
    box_distances,
    contour,
    polar_centerness,
    polar_iou_loss,
    ray_lengths,
)
from comics.ops.mask_parts import draw_parts, polygon_parts
from comics.structures import Faces

TINY = [
    *NARROW,
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FCOS.NUM_CLS_CONVS", "1",
    "MODEL.FCOS.NUM_BOX_CONVS", "1", "MODEL.FCOS.PRIOR_PROB", "0.3",
    "MODEL.FCOS.POST_NMS_TOPK_TEST", "20", "MODEL.POLARMASK.NUM_RAYS", "12",
]  # fmt: skip


def tiny(*overrides):
    torch.manual_seed(0)
    return PolarMask.from_config(load_config(overrides=[*TINY, *overrides]))


# --- rays --------------------------------------------------------------------------------------


def test_rays_of_a_rectangle_by_hand():
    masks = torch.zeros(1, 60, 80, dtype=torch.bool)
    masks[0, 10:40, 20:70] = True
    centres = torch.tensor([[30.0, 20.0]])
    rays = ray_lengths(masks, torch.tensor([0]), centres, 8, step=0.1)[0]
    diagonal = math.sqrt(2)
    expected = [40, 20 * diagonal, 20, 10 * diagonal, 10, 10 * diagonal, 10, 10 * diagonal]
    assert_close(rays, torch.tensor(expected), rtol=0, atol=0.12)


def test_rays_beside_a_loop():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 1, 6, 6, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, (30, 40), mode="bilinear")[:, 0] > 0.5
    face = torch.randint(2, (70,), generator=generator)
    centres = torch.rand(70, 2, generator=generator) * torch.tensor([40.0, 30.0])
    found = ray_lengths(masks, face, centres, 5, step=0.5)
    for p in range(70):
        for k in range(5):
            angle, longest = 2 * math.pi * k / 5, 0.5
            for s in range(120):
                x = float(centres[p, 0]) + 0.5 * s * math.cos(angle)
                y = float(centres[p, 1]) + 0.5 * s * math.sin(angle)
                i, j = math.floor(y), math.floor(x)
                if 0 <= i < 30 and 0 <= j < 40 and masks[face[p], i, j]:
                    longest = max(longest, 0.5 * s + 0.25)
            assert found[p, k].item() == pytest.approx(longest, abs=1e-4), (p, k)


def test_a_centre_outside_the_mask():
    """Rays that meet the mask go to its far side; those that do not are as short as can be."""
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    masks[0, 10:20, 20:30] = True  # the second mask is empty
    centres = torch.tensor([[10.0, 15.0], [10.0, 15.0]])
    rays = ray_lengths(masks, torch.tensor([0, 1]), centres, 4, step=0.5)
    assert rays[0].tolist() == pytest.approx([19.75, 0.5, 0.5, 0.5])
    assert rays[1].tolist() == [0.5] * 4
    assert ray_lengths(masks, torch.zeros(0).long(), centres[:0], 4, step=0.5).shape == (0, 4)


def test_contours_reach_as_far_as_their_boxes():
    generator = torch.Generator().manual_seed(0)
    rays = torch.rand(6, 9, generator=generator) * 30 + 1
    centres = torch.rand(6, 2, generator=generator) * 50
    points = contour(centres, rays)
    for p in range(6):
        for k in range(9):
            angle = 2 * math.pi * k / 9
            expected = centres[p] + rays[p, k] * torch.tensor([math.cos(angle), math.sin(angle)])
            assert_close(points[p, k], expected)
    boxes = torch.cat((points.amin(dim=1), points.amax(dim=1)), dim=1)
    distances = box_distances(rays)
    assert (distances >= 0).all()
    assert_close(torch.cat((centres - distances[:, :2], centres + distances[:, 2:]), 1), boxes)


# --- losses ------------------------------------------------------------------------------------


def test_polar_loss_and_centerness_beside_loops():
    generator = torch.Generator().manual_seed(0)
    predicted = torch.rand(5, 7, generator=generator, dtype=torch.float64) + 0.1
    wanted = torch.rand(5, 7, generator=generator, dtype=torch.float64) + 0.1
    wanted[4] = predicted[4]
    loss, centre = polar_iou_loss(predicted, wanted), polar_centerness(wanted)
    for p in range(5):
        pairs = list(zip(predicted[p].tolist(), wanted[p].tolist(), strict=True))
        expected = math.log(sum(map(max, pairs)) / sum(map(min, pairs)))
        assert loss[p].item() == pytest.approx(expected, abs=1e-12)
        lengths = wanted[p].tolist()
        assert centre[p].item() == pytest.approx(math.sqrt(min(lengths) / max(lengths)))
    assert loss[4] == 0


def test_losses_of_a_batch_beside_loops():
    model = tiny().train()
    image, faces = sample()
    targets = [faces, Faces.empty((64, 96))]
    batch = model.preprocess([image, image])
    with torch.no_grad():
        dense = model.polar_training(model.extract_features(batch), targets)
    assigned, head = dense.targets, dense.head
    logits = level_major(head.class_logits).double().sigmoid()
    rays, quality = level_major(head.distances).double(), level_major(head.quality_logits).double()
    focal = mask = centre_loss = total = 0.0
    for n, label in enumerate(assigned.labels.tolist()):
        for k in range(2):
            p = float(logits[n, k])
            focal -= 0.25 * (1 - p) ** 2 * math.log(p) if k == label else (
                0.75 * p**2 * math.log(1 - p)
            )  # fmt: skip
        if label == 2:
            continue
        face, stride = assigned.face[n], float(assigned.strides[n])
        lengths = ray_lengths(
            faces.masks, face[None], assigned.points[n][None], 12, step=0.5
        )[0]  # fmt: skip
        lengths = [float(one) / stride for one in lengths]
        weight = math.sqrt(min(lengths) / max(lengths))
        pairs = list(zip(rays[n].tolist(), lengths, strict=True))
        mask += weight * math.log(sum(map(max, pairs)) / sum(map(min, pairs)))
        total += weight
        p = 1 / (1 + math.exp(-float(quality[n, 0])))
        centre_loss -= weight * math.log(p) + (1 - weight) * math.log(1 - p)
    count = len(assigned.positive)
    assert count > 3
    expected = {
        "loss_polar_cls": focal / count,
        "loss_polar_mask": mask / total,
        "loss_polar_ctr": centre_loss / count,
    }
    assert set(dense.loss.losses) == set(expected)
    for name, value in expected.items():
        assert dense.loss.losses[name].item() == pytest.approx(value, rel=1e-4), name


def test_locations_lie_around_the_centre_of_mass():
    model = tiny().train()
    image, faces = sample((128, 128))
    masks = torch.zeros(1, 128, 128, dtype=torch.bool)
    masks[0, 10:110, 10:30] = masks[0, 90:110, 10:110] = True  # an L: its box's middle is outside
    faces = Faces(torch.tensor([[10.0, 10, 110, 110]]), (128, 128), torch.tensor([1]), masks=masks)
    output = model([image], [faces])
    rows, columns = masks[0].nonzero(as_tuple=True)
    mass = torch.tensor([columns.float().mean(), rows.float().mean()])
    cells = output.proposals["p3"].cells
    points = torch.stack((cells % 16, cells // 16), 1) * 8 + 4
    assert len(cells) > 0
    assert ((points - mass).abs() <= 12).all()


def test_gradients_and_faces_without_a_pixel():
    model = tiny().train()
    image, faces = sample()
    output = model([image], [faces])
    output.losses["loss_polar_mask"].backward(retain_graph=True)
    assert model.head.box_distances.weight.grad.abs().sum() > 0
    assert model.head.class_logits.weight.grad is None
    assert model.head.quality.weight.grad is None
    empty = replace(faces, masks=torch.zeros_like(faces.masks))
    losses = model([image], [empty]).losses
    assert losses["loss_polar_mask"].item() == 0  # no contour to teach
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_a_face_under_the_finest_stride_trains():
    model = tiny().train()
    image, _ = sample()
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[0, 27:30, 43:46] = True
    faces = Faces(torch.tensor([[43.0, 27, 46, 30]]), (64, 96), torch.tensor([1]), masks=mask)
    output = model([image], [faces])
    assert len(output.proposals["p3"].cells) == 1  # the location at (44, 28)
    assert 0 < output.losses["loss_polar_mask"] < 10
    sum(output.losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


# --- contours as masks ---------------------------------------------------------------------------


def naive_inside(points, y, x):
    """Even-odd rule at a pixel's centre."""
    inside = False
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if (y0 > y) != (y1 > y) and x0 + (x1 - x0) * (y - y0) / (y1 - y0) > x:
            inside = not inside
    return inside


def test_polygons_beside_a_loop():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[12.0, 10.0], [2.0, 18.0], [-40.0, 5.0], [10.5, 10.5]])
    rays = torch.rand(4, 9, generator=generator, dtype=torch.float64) * 14 + 1
    points = contour(centres.double(), rays)
    masks = draw_parts(polygon_parts(points, (20, 24)), (20, 24))
    for n in range(4):
        corners = [tuple(corner) for corner in points[n].tolist()]
        for i in range(20):
            for j in range(24):
                assert bool(masks[n, i, j]) == naive_inside(corners, i + 0.5, j + 0.5)
    assert masks[0].any() and masks[1].any() and not masks[2].any()


def test_a_drawn_contour_is_the_mask_that_it_was_measured_on():
    rows, columns = torch.meshgrid(torch.arange(80), torch.arange(100), indexing="ij")
    disc = ((columns + 0.5 - 45) / 25) ** 2 + ((rows + 0.5 - 40) / 30) ** 2 < 1
    centres = torch.tensor([[45.0, 40.0]])
    rays = ray_lengths(disc[None], torch.tensor([0]), centres, 36, step=0.5)
    points = contour(centres, rays)
    box = torch.tensor([[20.0, 10, 70, 70]])
    found = Candidates.of(box, torch.ones(1), torch.ones(1).long(), (80, 100), PolygonMasks(points))
    for size in ((80, 100), (160, 50)):
        (mask,) = found.drawn(size).masks
        rows, columns = torch.meshgrid(*(torch.arange(s) for s in size), indexing="ij")
        x, y = (columns + 0.5) * 100 / size[1], (rows + 0.5) * 80 / size[0]
        wanted = ((x - 45) / 25) ** 2 + ((y - 40) / 30) ** 2 < 1
        assert (mask & wanted).sum() / (mask | wanted).sum() > 0.95
    assert len(found[torch.tensor([], dtype=torch.int64)].drawn((80, 100)).masks) == 0


def test_mixed_sizes_infer_and_boxes_hold_their_masks():
    model = tiny().eval()
    torch.nn.init.normal_(model.head.box_distances.weight, std=0.1)
    big, small = sample(), sample((70, 80), seed=1)
    with torch.no_grad():
        found = model([big[0], small[0]])
    for faces, size in zip(found, [(64, 96), (70, 80)], strict=True):
        assert len(faces) > 0
        assert faces.masks.shape == (len(faces), *size)
        for box, mask in zip(faces.boxes.tolist(), faces.masks, strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            assert len(rows) == 0 or box[0] <= columns.min() + 0.5 <= columns.max() + 0.5 <= box[2]
            assert len(rows) == 0 or box[1] <= rows.min() + 0.5 <= rows.max() + 0.5 <= box[3]


def test_without_masks_boxes_are_the_same():
    with_masks, plain = tiny().eval(), tiny("MODEL.MASK_ON", "False").eval()
    plain.load_state_dict(with_masks.state_dict())
    image, _ = sample()
    with torch.no_grad():
        (ours,), (theirs,) = with_masks([image]), plain([image])
    assert theirs.masks is None
    assert torch.equal(ours.boxes, theirs.boxes)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.POLARMASK.NUM_RAYS", "2", "NUM_RAYS"),
        ("MODEL.POLARMASK.RAY_STEP", "0.0", "RAY_STEP"),
    ],
)
def test_settings_that_do_not_fit_are_named(key, value, message):
    with pytest.raises(ValueError, match=message):
        tiny(key, value)
