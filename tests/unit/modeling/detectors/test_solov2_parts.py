"""The parts of SOLOv2 against loops in double precision."""

import math

import pytest
import torch
from torch.nn import functional

from comics.modeling.detectors.solov2.heads import with_coordinates
from comics.modeling.detectors.solov2.selection import (
    MaskSelector,
    greedy_nms,
    matrix_decay,
    same_class_overlap,
    suppress_points,
)
from comics.modeling.detectors.solov2.targets import CellAssigner, shrink_masks
from comics.ops.mask_parts import draw_parts, grid_parts, mask_boxes, part_boxes
from comics.structures import Faces


def random_masks(count, height, width, seed=0):
    """Blobs of several sizes, the last one empty."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 5, 5, generator=generator)
    masks = functional.interpolate(coarse, (height, width), mode="bilinear")[:, 0] > 0.55
    masks[-1] = False
    return masks


def naive_box(mask):
    rows = [i for i, inside in enumerate(mask.any(dim=1).tolist()) if inside]
    columns = [j for j, inside in enumerate(mask.any(dim=0).tolist()) if inside]
    if not rows:
        return [0.0, 0.0, 0.0, 0.0]
    return [min(columns), min(rows), max(columns) + 1.0, max(rows) + 1.0]


# --- targets and losses ------------------------------------------------------------------------


def naive_cells(box, mask, grid, low, high, sigma, padded):
    """Cells (row, column) of one face, in float64 and loops."""
    width, height = box[2] - box[0], box[3] - box[1]
    points = mask.nonzero().tolist()
    if not low <= math.sqrt(width * height) <= high or not points:
        return []
    y = sum(p[0] for p in points) / len(points)
    x = sum(p[1] for p in points) / len(points)

    def span(centre, side, extent):
        middle = math.floor(centre / extent * grid)
        first = max(0, math.floor((centre - sigma * side / 2) / extent * grid), middle - 1)
        last = min(grid - 1, math.floor((centre + sigma * side / 2) / extent * grid), middle + 1)
        return range(first, last + 1)

    return [(r, c) for r in span(y, height, padded[0]) for c in span(x, width, padded[1])]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sigma", [0.0, 0.2, 1.5])
def test_assignment_is_that_of_loops(seed, sigma):
    generator = torch.Generator().manual_seed(seed)
    assigner = CellAssigner((9, 5), ((1, 40), (30, 200)), sigma, num_classes=2)
    targets = []
    for size in ((61, 90), (64, 53)):
        masks = random_masks(5, *size, seed=seed)
        corner = torch.rand(5, 2, generator=generator) * 30
        boxes = torch.cat((corner, corner + 5 + torch.rand(5, 2, generator=generator) * 50), 1)
        labels = torch.randint(0, 2, (5,), generator=generator)
        targets.append(Faces(boxes, size, labels, masks=masks))
    targets.insert(1, Faces.empty((10, 10)))
    assigned = assigner.assign(targets, (64, 96))
    pairs_seen = 0
    for level, (grid, (low, high)) in enumerate(
        zip(assigner.grids, assigner.scale_ranges, strict=True)
    ):
        found = assigned[level]
        wanted = []
        labels = torch.full((3, grid * grid), 2)
        for image, faces in enumerate(targets):
            for face in range(len(faces)):
                box = faces.boxes[face].double().tolist()
                cells = naive_cells(box, faces.masks[face], grid, low, high, sigma, (64, 96))
                for row, column in cells:
                    wanted.append((image, row * grid + column, face))
                    labels[image, row * grid + column] = faces.labels[face]
        triples = torch.stack((found.image, found.cell, found.face), dim=1).tolist()
        assert triples == [list(t) for t in wanted]
        assert torch.equal(found.labels, labels)
        pairs_seen += len(wanted)
    assert pairs_seen > 0


@pytest.mark.parametrize(("height", "width"), [(16, 24), (17, 23), (1, 2), (15, 18)])
def test_aligned_masks_are_bilinear_at_the_cells_centres(height, width):
    masks = torch.rand(3, height, width, generator=torch.Generator().manual_seed(5)) > 0.4
    size = (-(-height // 4) + 1, -(-width // 4) + 2)
    found = shrink_masks(masks, 4, size, "aligned")
    padded = torch.zeros(3, size[0] * 4, size[1] * 4, dtype=torch.float64)
    padded[:, :height, :width] = masks
    # the scale is exactly 4, so this samples at (i + 0.5) * 4
    smooth = functional.interpolate(padded[:, None], size, mode="bilinear", align_corners=False)
    assert torch.equal(found, smooth[:, 0] >= 0.5)


def test_coordinates_run_from_minus_one_to_one():
    feature = torch.zeros(2, 3, 4, 5)
    found = with_coordinates(feature)
    assert found.shape == (2, 5, 4, 5)
    assert found[1, 3, 2].tolist() == pytest.approx([-1, -0.5, 0, 0.5, 1])
    assert found[0, 4, :, 3].tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert with_coordinates(torch.zeros(1, 3, 1, 1))[0, 3:].flatten().tolist() == [-1, -1]


# --- selection ---------------------------------------------------------------------------------


def naive_iou(one, other):
    return (one & other).sum().item() / max((one | other).sum().item(), 1)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_matrix_decay_is_that_of_loops(kernel):
    masks = random_masks(8, 9, 11, seed=2).flatten(1)
    masks[3] = masks[0]  # a duplicate: the linear decay of what comes after divides by zero
    labels = torch.tensor([0, 1, 0, 0, 1, 1, 0, 0])
    overlap = same_class_overlap(masks, labels)
    found = matrix_decay(overlap, kernel, 2.0)

    def o(i, j):
        return naive_iou(masks[i], masks[j]) if i < j and labels[i] == labels[j] else 0.0

    for j in range(8):
        factors = []
        for i in range(8):
            covered = max(o(k, i) for k in range(8))
            if kernel == "gaussian":
                factors.append(math.exp(-2 * (o(i, j) ** 2 - covered**2)))
            elif covered < 1:
                factors.append((1 - o(i, j)) / (1 - covered))
        assert found[j].item() == pytest.approx(min(factors), rel=1e-4, abs=1e-6)
    assert matrix_decay(overlap[:0, :0], kernel, 2.0).shape == (0,)


def test_greedy_suppression_is_that_of_loops():
    masks = random_masks(12, 9, 11, seed=4).flatten(1)
    labels = torch.tensor([0, 1] * 6)
    kept = []
    for j in range(12):
        rivals = [i for i in kept if labels[i] == labels[j]]
        if all(naive_iou(masks[i], masks[j]) <= 0.3 for i in rivals):
            kept.append(j)
    assert greedy_nms(same_class_overlap(masks, labels), 0.3).tolist() == kept
    assert 2 < len(kept) < 12


def test_points_survive_where_no_neighbour_before_them_is_larger():
    x = torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    found = suppress_points(x)
    for b, k, i, j in torch.cartesian_prod(*(torch.arange(n) for n in x.shape)).tolist():
        before = x[b, k, max(i - 1, 0) : i + 1, max(j - 1, 0) : j + 1].max()
        assert found[b, k, i, j] == (x[b, k, i, j] if x[b, k, i, j] == before else 0)


@pytest.mark.parametrize("at_once", [3, 256])
def test_selection_is_that_of_loops(monkeypatch, at_once):
    """Scores and order without suppression (mask NMS that nothing is strict enough for)."""
    monkeypatch.setattr("comics.modeling.detectors.solov2.selection.MASKS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(3)
    logits = [torch.randn(1, 2, s, s, generator=generator) for s in (4, 3)]
    kernels = [torch.randn(1, 6, s, s, generator=generator) for s in (4, 3)]
    features = torch.randn(1, 6, 7, 8, generator=generator)
    selector = MaskSelector(
        (20, 30),
        score_threshold=0.4,
        mask_threshold=0.55,
        pre_nms_topk=9,
        max_detections=7,
        nms_type="mask",
    )
    monkeypatch.setattr(
        "comics.modeling.detectors.solov2.selection.greedy_nms",
        lambda overlap, threshold: torch.arange(len(overlap)),
    )
    (found,) = selector.select(logits, kernels, features)
    wanted = []
    for level, smallest in enumerate((20, 30)):
        probability = suppress_points(logits[level].sigmoid())[0]
        side = probability.shape[-1]
        for label in range(2):
            for i in range(side):
                for j in range(side):
                    p = probability[label, i, j].item()
                    soft = torch.einsum("e,ehw->hw", kernels[level][0, :, i, j], features[0])
                    soft = soft.sigmoid()
                    inside = soft > 0.55
                    if p > 0.4 and inside.sum() > smallest:
                        wanted.append((p * soft[inside].mean().item(), label, soft))
    wanted.sort(key=lambda entry: -entry[0])
    assert len(wanted) > 7
    assert found.scores.tolist() == pytest.approx([w[0] for w in wanted[:7]], rel=1e-5)
    assert found.labels.tolist() == [w[1] for w in wanted[:7]]
    torch.testing.assert_close(found.masks, torch.stack([w[2] for w in wanted[:7]]))


def enlarge_masks(soft, *, stride, size, output_size, threshold):
    parts = grid_parts(
        soft,
        stride=stride,
        size=size,
        output_size=output_size,
        aligned=False,
        threshold=threshold,
    )
    return draw_parts(parts, output_size), part_boxes(parts)


def test_boxes_of_masks():
    masks = random_masks(6, 13, 17, seed=6)
    masks[0] = False
    masks[0, 12, 16] = True  # a single pixel in the last corner
    assert mask_boxes(masks).tolist() == [naive_box(mask) for mask in masks]
    assert mask_boxes(masks[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("size", "output"),
    [((32, 48), (32, 48)), ((30, 45), (77, 101)), ((29, 41), (9, 13)), ((5, 48), (40, 3))],
)
def test_enlarged_masks_are_two_bilinear_steps(size, output):
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(6, 1, 4, 5, generator=generator, dtype=torch.float64)
    soft = functional.interpolate(coarse, (8, 12), mode="bilinear")[:, 0]
    soft[1] = 0.0
    soft[2] = 0.0
    soft[2, 3, 4] = 1.0  # a single cell
    soft[3] = 0.9
    fine = functional.interpolate(soft[:, None], scale_factor=4.0, mode="bilinear")
    fine = fine[:, :, : size[0], : size[1]]
    wanted = functional.interpolate(fine, output, mode="bilinear", align_corners=False)[:, 0]
    found, boxes = enlarge_masks(
        soft.float(), stride=4, size=size, output_size=output, threshold=0.5
    )
    assert found.shape == (6, *output)
    certain = (wanted - 0.5).abs() > 1e-5
    assert torch.equal(found[certain], (wanted > 0.5)[certain])
    assert certain.float().mean() > 0.99
    assert found.any()
    assert not found[1].any()
    for mask, box in zip(found, boxes.tolist(), strict=True):
        if mask.any():
            assert box == naive_box(mask)
        else:
            assert box[0] == box[2]


def test_no_masks_to_enlarge():
    none = torch.zeros(0, 8, 12)
    found, boxes = enlarge_masks(none, stride=4, size=(30, 45), output_size=(60, 90), threshold=0.5)
    assert found.shape == (0, 60, 90)
    assert boxes.shape == (0, 4)
