import math

import numpy as np
import pytest
import torch
from torch import nn

from comics.modeling.contrast import PixelContrast, ProposalContrast
from comics.modeling.detectors.base import LevelBoxes, LevelProposals
from comics.modeling.regions import FaceRegions, face_regions, split_regions
from comics.structures import Faces

LEVELS = ("p3", "p4")
WEIGHTS = (0.25, 1.0)
CHANNELS, DIM = 6, 4


def unit64(vector):
    return vector.double() / vector.double().norm()


def contrast(**kwargs):
    defaults = {"in_channels": CHANNELS, "levels": LEVELS, "level_weights": WEIGHTS, "dim": DIM,
                "temperature": 0.3, "match": "assigned", "bank_size": 16, "enqueue": 3}  # fmt: skip
    return ProposalContrast(**{**defaults, **kwargs})


def key_projections(module):
    """Another set of weights than the query's, without gradient, as a key encoder has."""
    torch.manual_seed(99)
    layers = {name: nn.Linear(CHANNELS, DIM) for name in module.projections}
    return nn.ModuleDict(layers).requires_grad_(False)


def two_faces(labels=(0, 1), size=(64, 64)):
    boxes = torch.tensor([[0.0, 0, 32, 32], [32, 32, 64, 64]])[: len(labels)]
    return Faces(boxes, size, torch.tensor(labels))


TARGETS = [two_faces((1,)), two_faces((0, 1)), two_faces((1, 0))]


def step(seed, targets=TARGETS, per_level=8):
    """Features of both views and random proposals that belong to random faces."""
    torch.manual_seed(seed)
    query, key, proposals = {}, {}, {}
    for level, side in (("p3", 8), ("p4", 4)):
        query[level] = torch.randn(len(targets), CHANNELS, side, side, requires_grad=True)
        key[level] = torch.randn(len(targets), CHANNELS, side, side)
        image = torch.randint(0, len(targets), (per_level,))
        face = torch.stack([torch.randint(0, len(targets[i]), ()) for i in image])
        cells = torch.randperm(side * side)[:per_level]
        boxes = torch.stack([targets[i].boxes[f] for i, f in zip(image, face, strict=True)])
        proposals[level] = LevelProposals(image, face, boxes, cells)
    return query, key, proposals


def naive_loss(module, keys, query, key, proposals, targets, banks, same=False):
    """Loops in float64 over proposals and negatives: InfoNCE of each, and sum of weighted v."""
    surrogate, info = 0.0, []
    for level, weight in zip(LEVELS, WEIGHTS, strict=True):
        values = []
        p = proposals[level]
        width = query[level].shape[-1]
        for image, face, cell in zip(p.image, p.face, p.cells, strict=True):
            row, column = divmod(int(cell), width)
            q = query[level][image, :, row, column].double()
            k = key[level][image, :, row, column].double()
            q = unit64(module.projections[level].weight.double() @ q
                       + module.projections[level].bias.double())  # fmt: skip
            k = unit64(keys[level].weight.double() @ k + keys[level].bias.double())
            label = int(targets[image].labels[face])
            negatives = banks[level][label if same else 1 - label]
            if len(negatives) == 0:
                continue
            z = [(q @ unit64(n) - q @ k) / module.temperature for n in negatives]
            values.append(torch.stack(z).exp().sum().log())
            info.append(math.log1p(float(values[-1].detach().exp())))
        if values:
            surrogate = surrogate + weight * torch.stack(values).mean()
    return surrogate, info


def bank_rows(module):
    return {level: [module.banks[level].rows(c) for c in (0, 1)] for level in LEVELS}


@pytest.mark.parametrize("negatives", ["opposite", "same"])
@pytest.mark.parametrize("temperature", [0.07, 0.7])
def test_proposal_loss_has_value_one_per_level_and_the_gradient_of_v(temperature, negatives):
    module = contrast(temperature=temperature, negatives=negatives)
    keys = key_projections(module)
    query, key, proposals = step(0)
    module(query, key, keys, proposals, TARGETS)
    query, key, proposals = step(1)
    banks = bank_rows(module)
    parameters = list(module.projections.parameters())
    same = negatives == "same"
    wanted, info = naive_loss(module, keys, query, key, proposals, TARGETS, banks, same)
    loss, metrics = module(query, key, keys, proposals, TARGETS)
    assert loss.item() == pytest.approx(sum(WEIGHTS))
    assert metrics["proposal_info_nce"].item() == pytest.approx(sum(info) / len(info), rel=1e-4)
    assert metrics["proposal_pairs"].item() == len(info) == 16
    inputs = [*query.values(), *parameters]
    got = torch.autograd.grad(loss, inputs)
    expected = torch.autograd.grad(wanted, inputs)
    for one, other in zip(got, expected, strict=True):
        assert other.abs().sum() > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_keys_enter_the_bank_of_their_class_after_the_loss():
    module = contrast(enqueue=100)
    keys = key_projections(module)
    query, key, proposals = step(0)
    loss, metrics = module(query, key, keys, proposals, TARGETS)
    assert loss.item() == 0  # the banks were empty when the loss was taken
    assert metrics["proposal_pairs"] == metrics["proposal_info_nce"] == 0
    loss.backward()
    for parameter in module.projections.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    for level in LEVELS:
        p = proposals[level]
        found = [[], []]
        for image, face, cell in zip(p.image, p.face, p.cells, strict=True):
            feature = key[level].flatten(2)[image, :, cell]
            found[int(TARGETS[image].labels[face])].append(unit64(keys[level](feature)))
        for label in (0, 1):
            rows = module.banks[level].rows(label)
            assert not rows.requires_grad
            torch.testing.assert_close(rows.double(), torch.stack(found[label]), atol=1e-6, rtol=0)


def test_only_proposals_that_overlap_their_face_are_used():
    module = contrast(match="iou", match_iou=0.6, enqueue=100)
    query, key, proposals = step(0)
    kept = 0
    for level, p in proposals.items():
        shift = torch.linspace(0, 16, len(p.boxes))  # IoU = (32 - s) / (32 + s), 0.6 at s = 8
        boxes = p.boxes + torch.stack((shift, shift * 0, shift, shift * 0), dim=1)
        boxes[-1] = torch.tensor([5.0, 5.0, 5.0, 5.0])
        proposals[level] = LevelProposals(p.image, p.face, boxes, p.cells)
        kept += sum((32 - s) / (32 + s) > 0.6 for s in shift[:-1].tolist())
    module(query, key, key_projections(module), proposals, TARGETS)
    held = sum(len(module.banks[level].rows(c)) for level in LEVELS for c in (0, 1))
    assert held == kept
    assert kept == 8


@pytest.mark.parametrize("labels", [(0,), (1,)])
def test_one_class_gives_a_connected_zero(labels):
    module = contrast()
    keys = key_projections(module)
    targets = [two_faces(labels)] * 2
    for seed in range(2):
        query, key, proposals = step(seed, targets)
        loss, _ = module(query, key, keys, proposals, targets)
        loss.backward()
        assert loss.item() == 0
        assert all(torch.equal(p.grad, p * 0) for p in module.projections.parameters())
        assert all(torch.equal(q.grad, q * 0) for q in query.values())
    assert len(module.banks["p3"].rows(labels[0])) == 6
    assert len(module.banks["p3"].rows(1 - labels[0])) == 0


@pytest.mark.parametrize("levels", [{}, "empty"])
def test_no_faces_give_a_connected_zero_and_change_nothing(levels):
    module = contrast()
    targets = [Faces.empty((64, 64)), Faces.empty((64, 64))]
    query, key, _ = step(0, [two_faces((0,))] * 2)
    none = torch.zeros(0, dtype=torch.int64)
    empty = {level: LevelProposals(none, none, torch.zeros(0, 4), none) for level in LEVELS}
    before = {name: value.clone() for name, value in module.state_dict().items()}
    proposals = empty if levels else {}
    loss, _ = module(query, key, key_projections(module), proposals, targets)
    loss.backward()
    assert loss.item() == 0
    assert all(torch.equal(p.grad, p * 0) for p in module.projections.parameters())
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_an_overflow_in_the_key_view_does_not_enter_the_state():
    module = contrast()
    keys = key_projections(module)
    for seed in range(2):
        query, key, proposals = step(seed)
        key["p3"][proposals["p3"].image[0], :, :, :] = float("inf")
        module(query, key, keys, proposals, TARGETS)
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    assert len(module.banks["p4"].rows(0)) > 0


def test_two_stage_proposals_are_averaged_over_their_boxes():
    module = contrast(levels=["p3"], level_weights=[1.0], enqueue=100)
    keys = key_projections(module)
    targets = [two_faces((0, 1))]
    key = {"p3": torch.randn(1, CHANNELS, 8, 8)}
    index = torch.tensor([0, 0])
    # boxes that cover whole cells: their mean is the mean over those cells
    boxes = torch.tensor([[8.0, 16, 24, 32], [32.0, 32, 64, 64]])
    proposals = {"p3": LevelProposals(index, torch.tensor([0, 1]), boxes, None)}
    module(key, key, keys, proposals, targets)
    for label, (rows, columns) in enumerate(((slice(2, 4), slice(1, 3)), (slice(4, 8),) * 2)):
        mean = key["p3"][0, :, rows, columns].mean(dim=(1, 2))
        expected = unit64(keys["p3"](mean))
        torch.testing.assert_close(module.banks["p3"].rows(label)[0].double(), expected)


def test_one_scale_shares_projection_and_bank_between_levels():
    module = contrast(multi_scale=False, enqueue=100, bank_size=100)
    keys = key_projections(module)
    assert list(module.projections) == list(module.banks) == ["all"]
    for seed in range(2):
        query, key, proposals = step(seed)
        loss, metrics = module(query, key, keys, proposals, TARGETS)
    assert loss.item() == pytest.approx(1.0)
    assert metrics["proposal_pairs"] == 16
    assert sum(len(module.banks["all"].rows(c)) for c in (0, 1)) == 32


def moved(negatives):
    """Cosines within a class and between classes, before and after steps on the features alone.

    Each face is one cell of a 1 x 8 map; the key view is what the query view was a step ago.
    """
    torch.manual_seed(5)
    module = contrast(in_channels=DIM, levels=["p3"], level_weights=[1.0], temperature=0.2,
                      negatives=negatives, enqueue=8, bank_size=32)  # fmt: skip
    torch.nn.init.eye_(module.projections["p3"].weight)
    torch.nn.init.zeros_(module.projections["p3"].bias)
    labels = torch.arange(8) % 2
    faces = Faces(torch.tensor([[0.0, 0, 8, 8]]).repeat(8, 1), (8, 64), labels)
    zeros, cells = torch.zeros(8, dtype=torch.int64), torch.arange(8)
    proposals = {"p3": LevelProposals(zeros, cells, faces.boxes, cells)}
    feature = torch.nn.Parameter(torch.randn(1, DIM, 1, 8))
    optimizer = torch.optim.SGD([feature], 0.5)

    def cosines():
        unit = torch.nn.functional.normalize(feature.detach()[0, :, 0].T, dim=1)
        table = unit @ unit.T
        together = labels[:, None] == labels
        within = table[together & ~torch.eye(8, dtype=torch.bool)].mean()
        return within.item(), table[~together].mean().item()

    before = cosines()
    for _ in range(60):
        key = {"p3": feature.detach().clone()}
        loss, _ = module({"p3": feature}, key, module.projections, proposals, [faces])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, cosines()


def test_opposite_negatives_part_the_classes_and_the_literal_ones_the_class():
    """What the paper's sentence, read literally, would do: push faces of one class apart."""
    (within, between), (within_after, between_after) = moved("opposite")
    assert between_after < between - 0.2
    assert within_after > within
    (within, between), (within_after, between_after) = moved("same")
    assert within_after < within - 0.1


def test_levels_without_proposals_give_their_weight_to_the_others():
    """With the key, Sigma omega counts whichever levels have faces; without, omega is fixed."""
    gradients = {}
    for share in (False, True):
        torch.manual_seed(0)
        module = contrast(share_empty_levels=share)
        keys = key_projections(module)
        for seed in range(2):
            query, key, proposals = step(seed)
            if seed:
                del proposals["p4"]
            loss, _ = module(query, key, keys, proposals, TARGETS)
        assert loss.item() == pytest.approx(sum(WEIGHTS) if share else WEIGHTS[0])
        loss.backward()
        gradients[share] = query["p3"].grad
        assert torch.equal(query["p4"].grad, torch.zeros_like(query["p4"]))
    torch.testing.assert_close(gradients[True], gradients[False] * sum(WEIGHTS) / WEIGHTS[0])


def test_a_step_without_any_term_shares_nothing():
    module = contrast(share_empty_levels=True)
    query, key, proposals = step(0)
    loss, _ = module(query, key, key_projections(module), proposals, TARGETS)  # empty banks
    loss.backward()
    assert loss.item() == 0
    assert all(torch.equal(p.grad, p * 0) for p in module.projections.parameters())


def test_the_overlap_asked_for_rises_while_the_warm_up_lasts():
    module = contrast(match="iou", match_iou=0.6, match_warmup=4, enqueue=100, bank_size=100)
    keys, found = key_projections(module), []
    for iteration in range(6):
        query, key, proposals = step(iteration)
        for level, p in proposals.items():
            shift = torch.linspace(0, 30, len(p.boxes))  # IoU = (32 - s) / (32 + s)
            boxes = p.boxes + torch.stack((shift, shift * 0, shift, shift * 0), dim=1)
            proposals[level] = LevelProposals(p.image, p.face, boxes, p.cells)
        wanted = 0.6 * min(iteration / 4, 1)
        assert module.iou_threshold == pytest.approx(wanted)
        module(query, key, keys, proposals, TARGETS)
        overlaps = [(32 - s) / (32 + s) for s in torch.linspace(0, 30, 8).tolist()] * 2
        held = sum(len(module.banks[level].rows(c)) for level in LEVELS for c in (0, 1))
        found.append(held - sum(found))
        assert found[-1] == sum(overlap > wanted for overlap in overlaps)
        for _ in range(2):  # accumulated passes are one step
            assert module.iou_threshold == pytest.approx(wanted)
        module.after_optimizer_step()
    assert found[0] == 16 > found[2] > found[5] == found[4]


def test_the_warm_up_is_resumed_and_leaves_no_trace_without():
    first, second = contrast(match_warmup=4), contrast(match_warmup=4)
    first.after_optimizer_step()
    second.load_state_dict(first.state_dict())
    assert second.iou_threshold == pytest.approx(0.15)
    assert not any("steps" in name for name in contrast().state_dict())  # former checkpoints fit


def test_any_face_and_either_view_count():
    """The literal rule, beside loops: each cell belongs to the face that it overlaps most."""
    module = contrast(match="any", match_iou=0.3, enqueue=200, bank_size=1000, levels=["p3"],
                      level_weights=[1.0])  # fmt: skip
    assert module.needs_every_proposal
    targets = [two_faces((1, 0)), Faces.empty((64, 64)), two_faces((0,))]
    torch.manual_seed(3)
    feature = {"p3": torch.randn(3, CHANNELS, 8, 8)}
    image = torch.arange(3).repeat_interleave(64)
    cells = torch.arange(64).repeat(3)
    views = []
    for _ in range(2):
        low = torch.rand(192, 2) * 40
        boxes = torch.cat((low, low + 16 + 24 * torch.rand(192, 2)), dim=1)
        views.append({"p3": LevelBoxes(image, boxes, cells)})

    def iou(one, other):
        sides = [min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1)]
        both = max(sides[0], 0) * max(sides[1], 0)
        areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
        return both / (sum(areas) - both)

    wanted = [[], []]
    for row in range(192):
        best, label = 0.0, None
        for view in views:
            box = view["p3"].boxes[row].tolist()
            faces = targets[int(image[row])]
            for face, name in zip(faces.boxes.tolist(), faces.labels.tolist(), strict=True):
                if iou(box, face) > best:
                    best, label = iou(box, face), name
        if best > 0.3:
            vector = feature["p3"][image[row]].flatten(1)[:, cells[row]]
            wanted[label].append(unit64(module.projections["p3"](vector).detach()))
    module(feature, feature, module.projections, {}, targets, views)
    assert min(len(rows) for rows in wanted) > 3
    for label in (0, 1):
        rows = module.banks["p3"].rows(label).double()
        assert len(rows) == len(wanted[label])
        likeness = rows @ torch.stack(wanted[label]).T
        assert likeness.amax(dim=0).min() > 1 - 1e-5
        assert likeness.amax(dim=1).min() > 1 - 1e-5


def test_loss_is_float32_under_autocast():
    module = contrast()
    keys = key_projections(module)
    for seed in range(2):
        query, key, proposals = step(seed)
        query = {level: feature.bfloat16() for level, feature in query.items()}
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = module(query, key, keys, proposals, TARGETS)
    assert loss.dtype == torch.float32
    assert module.banks["p3"].rows(0).dtype == torch.float32


def test_proposal_contrast_faults_are_named():
    with pytest.raises(ValueError, match=r"PROPOSAL.MATCH.*'nearest'"):
        contrast(match="nearest")
    with pytest.raises(ValueError, match=r"PROPOSAL.NEGATIVES.*'none'"):
        contrast(negatives="none")
    with pytest.raises(ValueError, match=r"PROTOTYPE_UPDATE.*'step'"):
        contrast(prototype_update="step")
    with pytest.raises(ValueError, match="MATCH_WARMUP_ITERS must be >= 0, got -1"):
        contrast(match_warmup=-1)
    with pytest.raises(ValueError, match="2 levels"):
        contrast(level_weights=[1.0])
    module = contrast()
    query, key, proposals = step(0)
    del query["p4"]
    with pytest.raises(ValueError, match="'p4'"):
        module(query, key, key_projections(module), proposals, TARGETS)


# --- pixel contrast --------------------------------------------------------------------------


def disc(size, height=64, width=64, centre=(32, 32)):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (rows + 0.5 - centre[0]) ** 2 + (columns + 0.5 - centre[1]) ** 2 < size**2


def random_regions(seed, labels, images, size=5):
    torch.manual_seed(seed)
    face = torch.rand(len(labels), size, size) < 0.4
    background = ~face & (torch.rand(len(labels), size, size) < 0.7)
    face[:, 0, 0], background[:, 0, 0] = True, False
    background[:, -1, -1], face[:, -1, -1] = True, False
    return FaceRegions([], face, background, np.array(labels), np.array(images))


def region_similarity(features, one, other):
    """Mean cosine over all pairs of pixels of two regions, one pair at a time."""
    pairs = []
    for y, x in one[1].nonzero().tolist():
        for v, u in other[1].nonzero().tolist():
            first = unit64(features[one[0], :, y, x])
            pairs.append(first @ unit64(features[other[0], :, v, u]))
    return torch.stack(pairs).mean()


@pytest.mark.parametrize("temperature", [0.07, 0.7])
@pytest.mark.parametrize("pairs", ["batch", "image"])
@pytest.mark.parametrize("size", [3, 4])
def test_pixel_losses_equal_loops_over_all_pixels(temperature, pairs, size):
    labels, images = [0, 1, 1, 0], [0, 0, 1, 1]
    regions = random_regions(size, labels, images, size)
    features = torch.randn(4, 3, size, size, requires_grad=True)
    intra, inter = PixelContrast(temperature=temperature, pairs=pairs)(features, regions)

    plus = [(f, regions.face[f]) for f in range(4)]
    minus = [(f, regions.background[f]) for f in range(4)]
    own = [region_similarity(features, plus[f], minus[f]) / temperature for f in range(4)]
    top = sum(own[f].exp() for f in range(4) if labels[f] == 0)
    rest = sum(own[f].exp() for f in range(4) if labels[f] == 1)
    wanted_intra = -(top / (top + rest)).log()
    top = rest = 0
    for j in range(4):
        for k in range(4):
            together = pairs == "batch" or images[j] == images[k]
            if labels[j] == 0 and labels[k] == 1 and together:
                top = top + (region_similarity(features, minus[j], minus[k]) / temperature).exp()
                rest = rest + (region_similarity(features, plus[j], plus[k]) / temperature).exp()
    wanted_inter = -(top / (top + rest)).log()

    for got, wanted in ((intra, wanted_intra), (inter, wanted_inter)):
        assert got.item() == pytest.approx(wanted.item(), rel=1e-4)
        (gradient,) = torch.autograd.grad(got, features, retain_graph=True)
        (expected,) = torch.autograd.grad(wanted, features, retain_graph=True)
        assert expected.abs().sum() > 0
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1]])
def test_pixel_losses_of_one_class_are_connected_zeros(labels):
    regions = random_regions(0, labels, [0] * len(labels))
    features = torch.randn(len(labels), 3, 5, 5, requires_grad=True)
    intra, inter = PixelContrast()(features, regions)
    (intra + inter).backward()
    assert intra.item() == inter.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_without_a_pair_in_one_image_inter_is_zero_and_intra_is_not():
    regions = random_regions(0, [0, 1], [0, 1])
    intra, inter = PixelContrast(pairs="image")(torch.randn(2, 3, 5, 5), regions)
    assert inter.item() == 0
    assert intra.item() > 0


def test_pixel_losses_survive_dead_features_and_autocast():
    regions = random_regions(0, [0, 1], [0, 0])
    features = torch.zeros(2, 3, 5, 5, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        intra, inter = PixelContrast(temperature=0.07)(features, regions)
    (intra + inter).backward()
    assert intra.dtype == inter.dtype == torch.float32
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("margin", [0, 1, 2, 3])
def test_split_by_distance_to_the_boundary(margin):
    masks = torch.stack((disc(6, 16, 16, (8, 8)), disc(7, 16, 16, (2, 10))))
    got = {rule: split_regions(masks, margin, rule) for rule in ("far", "close", "all")}
    for index, mask in enumerate(masks):
        for y in range(16):
            for x in range(16):
                window = mask[max(y - margin, 0) : y + margin + 1,
                              max(x - margin, 0) : x + margin + 1]  # fmt: skip
                near = bool((window != mask[y, x]).any())
                side = 0 if mask[y, x] else 1
                expected = {"far": not near, "close": near, "all": True}
                for rule, regions in got.items():
                    assert bool(regions[side][index, y, x]) == expected[rule]
                    assert not regions[1 - side][index, y, x]


def faces_with_masks():
    masks = torch.stack((disc(12, centre=(20, 20)), disc(10, centre=(44, 44))))
    boxes = torch.tensor([[8.0, 8, 32, 32], [34.0, 34, 54, 54]])
    return Faces(boxes, (64, 64), torch.tensor([0, 1]), masks=masks)


def test_regions_are_the_face_and_the_rest_of_its_box():
    regions = face_regions([faces_with_masks()], size=24, context=1.0, margin=0, sampling="all")
    assert torch.equal(regions.face[0], faces_with_masks().masks[0, 8:32, 8:32])
    assert torch.equal(regions.background[0], ~regions.face[0])
    assert regions.labels.tolist() == [0, 1]
    assert regions.image.tolist() == [0, 0]


def test_context_grows_the_box_within_the_image():
    regions = face_regions([faces_with_masks()], size=8, context=2.0, margin=0, sampling="all")
    assert regions.boxes[0].tolist() == [[0, 0, 44, 44], [24, 24, 64, 64]]
    narrow = face_regions([faces_with_masks()], size=8, context=1.0, margin=0, sampling="all")
    assert (regions.background.sum(dim=(1, 2)) > narrow.background.sum(dim=(1, 2))).all()


def test_faces_without_two_regions_or_outside_the_image_are_left_out():
    faces = faces_with_masks()
    full = torch.ones(1, 64, 64, dtype=torch.bool)
    odd = Faces(
        torch.tensor([[10.0, 10, 20, 20], [70.0, 70, 90, 90], [10.0, 10, 20, 20], [8, 8, 32, 32]]),
        (64, 64),
        torch.tensor([1, 0, 1, 0]),
        masks=torch.cat((full, full, ~full, faces.masks[:1])),
    )
    targets = [Faces.empty((64, 64)), odd, faces[[1]]]
    regions = face_regions(targets, size=28, context=1.0, margin=2, sampling="far")
    assert regions.labels.tolist() == [0, 1]
    assert regions.image.tolist() == [1, 2]
    assert [len(boxes) for boxes in regions.boxes] == [0, 1, 1]
    assert regions.boxes[1].tolist() == [[8, 8, 32, 32]]


def test_pixel_contrast_faults_are_named():
    with pytest.raises(ValueError, match="target 1 has none"):
        PixelContrast().regions([faces_with_masks(), two_faces()])
    with pytest.raises(ValueError, match=r"PIXEL.MASKS must be one of .*, got 'guessed'"):
        PixelContrast(masks="guessed")
    with pytest.raises(ValueError, match="PIXEL.SAMPLING"):
        PixelContrast(sampling="near")
    with pytest.raises(ValueError, match="PIXEL.PAIRS"):
        PixelContrast(pairs="world")
    with pytest.raises(ValueError, match="margin"):
        PixelContrast(margin=-1)
