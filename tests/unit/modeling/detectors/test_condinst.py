"""CondInst apart from the reference: its parts by definition, inputs, precision."""

import pytest
import torch
from narrow import NARROW
from torch.nn import functional
from two_faces import sample

from comics.config import load_config
from comics.modeling.build import build_model
from comics.modeling.detectors.condinst import CondInst
from comics.modeling.detectors.condinst.dynamic_head import (
    DynamicMaskHead,
    MaskQueries,
    best_per_face,
    random_subset,
)
from comics.modeling.detectors.condinst.mask_branch import MaskBranch, smallest_mask_labels
from comics.modeling.detectors.target_masks import pad_masks, sampled_masks
from comics.ops.mask_parts import draw_parts, grid_parts
from comics.ops.upsampling import aligned_upsample
from comics.structures import Faces

TINY = [
    *NARROW,
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FCOS.NUM_CLS_CONVS", "1",
    "MODEL.FCOS.NUM_BOX_CONVS", "1", "MODEL.FCOS.PRIOR_PROB", "0.3",
    "MODEL.CONDINST.MASK_BRANCH.CHANNELS", "16", "MODEL.CONDINST.MASK_BRANCH.NUM_CONVS", "1",
]  # fmt: skip
SEMANTIC = ("MODEL.CONDINST.MASK_BRANCH.SEMANTIC_LOSS_ON", "True")


def tiny(*overrides):
    torch.manual_seed(0)
    model = CondInst.from_config(load_config(overrides=[*TINY, *overrides]))
    torch.nn.init.constant_(model.head.box_distances.bias, 2.0)  # boxes of some size
    torch.nn.init.normal_(model.controller.bias, std=0.5)  # masks of some shape
    return model


@pytest.mark.parametrize("coordinates", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_dynamic_head_equals_a_loop_over_cells(coordinates, layers):
    """Weights layer by layer, output-major, then biases; [dx, dy, features] as input."""
    generator = torch.Generator().manual_seed(0)
    head = DynamicMaskHead(
        3,
        sizes_of_interest=[64, 128],
        channels=4,
        num_layers=layers,
        stride=8,
        out_stride=8,
        relative_coordinates=coordinates,
    )
    count = head.num_parameters
    features = torch.randn(2, 3, 2, 3, generator=generator)
    queries = MaskQueries(
        torch.randn(4, count, generator=generator),
        torch.tensor([1, 0, 0, 1]),
        torch.tensor([[4.0, 12], [20, 4], [12, 12], [100, 50]]),
        torch.tensor([0, 1, 1, 0]),
    )
    found = head(features, queries)
    inputs = 3 + 2 * coordinates
    widths = [inputs, *[4] * (layers - 1), 1]
    for n in range(4):
        for row in range(2):
            for column in range(3):
                size = (64, 128)[queries.level[n]]
                cell = torch.tensor([8.0 * column + 4, 8.0 * row + 4])
                values = features[queries.image[n], :, row, column].double()
                if coordinates:
                    offset = (queries.points[n] - cell).double() / size
                    values = torch.cat((offset, values))
                numbers = iter(queries.parameters[n].double())
                weights = [
                    torch.tensor([[next(numbers) for _ in range(i)] for _ in range(o)])
                    for i, o in zip(widths, widths[1:], strict=False)
                ]
                biases = [torch.tensor([next(numbers) for _ in range(o)]) for o in widths[1:]]
                for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                    values = weight.double() @ values + bias.double()
                    values = values if index == layers - 1 else values.relu()
                assert found[n, row, column].item() == pytest.approx(values.item(), abs=1e-4)
    assert next(numbers, None) is None


def full_size_masks(soft, stride, size, output_size):
    parts = grid_parts(soft, stride=stride, size=size, output_size=output_size, aligned=True)
    return draw_parts(parts, output_size)


@pytest.mark.parametrize(
    ("size", "output_size"),
    [((32, 48), (32, 48)), ((30, 45), (30, 45)), ((30, 45), (63, 99)), ((30, 45), (11, 13))],
)
@pytest.mark.parametrize("stride", [2, 4, 8])
def test_full_size_masks_equal_the_steps_on_whole_masks(stride, size, output_size):
    cells = (32 // stride, 48 // stride)
    soft = torch.rand(7, *cells, generator=torch.Generator().manual_seed(0))
    soft[1] = 0.5  # nothing above the threshold
    soft[2] = 0.9
    soft[3:5] *= 0.5
    soft[3, 1, 2] = 0.8
    soft[4, 0, -1] = 0.8
    enlarged = aligned_upsample(soft[:, None].double(), stride)[..., : size[0], : size[1]]
    expected = functional.interpolate(
        enlarged, size=output_size, mode="bilinear", align_corners=False
    )
    found = full_size_masks(soft, stride, size, output_size)
    decided = (expected - 0.5).abs() > 1e-6
    assert torch.equal(found & decided[:, 0], (expected > 0.5)[:, 0] & decided[:, 0])
    assert decided[0].all() and found[2].all() and found[0].any() and not found[1].any()
    assert full_size_masks(soft[:0], stride, size, output_size).shape == (0, *output_size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(full_size_masks(soft, stride, size, output_size), found)


def test_masks_of_blocks_come_back_to_their_place():
    """The half-plane right of cell 6 begins between the pixels of cells 5 and 6."""
    soft = torch.zeros(1, 8, 12)
    soft[:, :, 6:] = 1.0
    mask = full_size_masks(soft, 4, (30, 45), (30, 45))[0]
    # pixels 22 and 26 stand for cells 5 and 6; the value 0.5 at 24 is not above the threshold
    assert mask[15].nonzero()[:, 0].tolist() == list(range(25, 45))
    twice = full_size_masks(soft, 4, (30, 45), (60, 90))[0]
    assert twice[30].nonzero()[0].item() in (49, 50)


def test_sampled_masks_read_the_pixels_that_cells_stand_for():
    masks = torch.rand(2, 13, 18, generator=torch.Generator().manual_seed(0)) > 0.5
    for stride in (1, 2, 4):
        padded = pad_masks([sampled_masks(masks, stride)], (16 // stride, 24 // stride))
        for i in range(16 // stride):
            for j in range(24 // stride):
                y, x = i * stride + stride // 2, j * stride + stride // 2
                inside = y < 13 and x < 18
                expected = masks[:, y, x] if inside else torch.zeros(2, dtype=torch.bool)
                assert torch.equal(padded[:, i, j], expected)


def test_semantic_labels_are_those_of_the_smallest_mask():
    masks = torch.rand(3, 20, 27, generator=torch.Generator().manual_seed(3)) > 0.5
    masks[1, 5:] = False  # the smallest
    labels = torch.tensor([1, 0, 1])
    none = torch.zeros(0, 20, 27, dtype=torch.bool)
    found = smallest_mask_labels(
        [masks, none], [labels, labels[:0]], num_classes=2, stride=8, grid=(4, 4)
    )
    for i in range(4):
        for j in range(4):
            y, x = 8 * i + 4, 8 * j + 4
            covering = [n for n in range(3) if y < 20 and x < 27 and masks[n, y, x]]
            smallest = min(covering, key=lambda n: masks[n].sum().item(), default=None)
            assert found[0, i, j] == (2 if smallest is None else labels[smallest])
    assert (found[1] == 2).all()


def test_best_per_face_shares_the_limit_of_an_image():
    generator = torch.Generator().manual_seed(0)
    face = torch.tensor([0] * 7 + [1] * 2 + [2] * 1 + [5] * 9)
    image = torch.tensor([0] * 10 + [1] * 9)
    shuffled = torch.randperm(19, generator=generator)
    face, image = face[shuffled], image[shuffled]
    score = torch.rand(19, generator=generator)
    for limit in (1, 4, 10, 100):
        found = best_per_face(score, face, image, limit).tolist()
        expected = []
        for name, shares in ((0, 3), (1, 3), (2, 3), (5, 1)):
            mine = [i for i in range(19) if face[i] == name]
            mine.sort(key=lambda i: -score[i].item())
            expected += mine[: max(limit // shares, 1)]
        assert found == sorted(expected)
    empty = torch.zeros(0, dtype=torch.int64)
    assert best_per_face(torch.zeros(0), empty, empty, 4).tolist() == []


def test_random_subset_is_a_set_of_the_size_asked_for():
    cpu = torch.device("cpu")
    assert random_subset(5, -1, cpu).tolist() == [0, 1, 2, 3, 4]
    assert random_subset(5, 5, cpu).tolist() == [0, 1, 2, 3, 4]
    drawn = [frozenset(random_subset(50, 10, cpu).tolist()) for _ in range(8)]
    assert all(len(d) == 10 and max(d) < 50 for d in drawn)
    assert len(set(drawn)) > 1


def test_mask_branch_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="OUT_CHANNELS"):
        MaskBranch(32, out_channels=0)
    with pytest.raises(ValueError, match="the first must divide"):
        MaskBranch(32, levels=("p4", "p3"), strides=(16, 8))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.CONDINST.MASK_OUT_STRIDE", "3"], "MASK_OUT_STRIDE must divide 8"),
        (["MODEL.CONDINST.MASK_OUT_STRIDE", "16"], "MASK_OUT_STRIDE must divide 8"),
        (["MODEL.CONDINST.MASK_HEAD.NUM_LAYERS", "0"], "NUM_LAYERS"),
        (["MODEL.CONDINST.MASK_BRANCH.IN_FEATURES", "['p2', 'p3']"], r"IN_FEATURES \['p2'\]"),
        (
            ["MODEL.CONDINST.MAX_PROPOSALS", "5", "MODEL.CONDINST.TOPK_PROPOSALS_PER_IM", "5"],
            "exclude each other",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        tiny(*overrides)


def test_mixed_sizes_train_and_infer():
    model = tiny(*SEMANTIC).train()
    big, small = sample(), sample((70, 80), seed=1)
    output = model([big[0], small[0]], [big[1], small[1]])
    assert {"loss_mask", "loss_sem"} < output.losses.keys()
    assert all(torch.isfinite(loss) for loss in output.losses.values())
    model.eval()
    sizes = [(128, 192), (35, 40)]
    with torch.no_grad():
        found = model([big[0], small[0]], output_sizes=sizes)
    for faces, size in zip(found, sizes, strict=True):
        assert faces.masks.shape == (len(faces), *size)
        assert len(faces) > 0 and faces.masks.any()


def test_a_batch_gives_each_image_its_own_masks():
    model = tiny().eval()
    one, other = sample()[0], sample(seed=1)[0]
    with torch.no_grad():
        together = model([one, other])
        alone = [model([one])[0], model([other])[0]]
    for batched, single in zip(together, alone, strict=True):
        torch.testing.assert_close(batched.boxes, single.boxes, rtol=1e-4, atol=1e-3)
        assert (batched.masks ^ single.masks).sum() <= 0.001 * batched.masks.numel()


def test_nothing_found_gives_empty_masks():
    model = tiny("MODEL.FCOS.SCORE_THRESH_TEST", "0.999").eval()
    with torch.no_grad():
        found = model([sample()[0]])[0]
    assert found.masks.shape == (0, 64, 96)


def test_without_masks_only_boxes_are_inferred():
    with_masks, boxes_only = tiny().eval(), tiny("MODEL.MASK_ON", "False").eval()
    image, _ = sample()
    with torch.no_grad():
        full, plain = with_masks([image])[0], boxes_only([image])[0]
    assert plain.masks is None
    assert full.masks.shape == (len(full), 64, 96)
    assert torch.equal(plain.boxes, full.boxes)


def test_faces_without_masks_are_refused_in_training():
    image, faces = sample()
    bare = Faces(faces.boxes, faces.image_size, faces.labels)
    model = tiny().train()
    with pytest.raises(ValueError, match="target 1 has 2 faces but no masks"):
        model([image, image], [faces, bare])
    assert model.mask_head.iterations.item() == 0
    none = Faces(torch.zeros(0, 4), (64, 96), torch.zeros(0, dtype=torch.int64))
    assert torch.isfinite(model([image, image], [faces, none]).losses["loss_mask"])
    assert model.mask_head.iterations.item() == 1


def test_bfloat16_autocast_keeps_losses_and_masks_in_float32_and_near():
    image, faces = sample()
    exact = tiny(*SEMANTIC).train()([image], [faces]).losses
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = tiny(*SEMANTIC).train()([image], [faces])
    for name, loss in output.losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact[name], rtol=0.05, atol=0.02)
    model = tiny().eval()
    with torch.no_grad():
        plain = model([image])[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            batch = model.preprocess([image])
            features = model.extract_features(batch)
            maps = model.dense(features)
            soft = model.soft_masks(maps, model.detections(maps))[0]
            mixed = model([image])[0]
    assert soft.dtype == mixed.boxes.dtype == torch.float32
    assert mixed.masks.any() and plain.masks.any()


def test_limits_on_the_trained_positives():
    image, faces = sample()
    batch = ([image, image], [faces, faces])
    counts = {}
    for name, overrides in {
        "all": [],
        "random": ["MODEL.CONDINST.MAX_PROPOSALS", "3"],
        "best": ["MODEL.CONDINST.TOPK_PROPOSALS_PER_IM", "4"],
    }.items():
        model = tiny(*overrides).train()
        seen = []
        model.mask_head.register_forward_hook(lambda m, i, o, seen=seen: seen.append(len(o)))
        output = model(*batch)
        counts[name] = seen[0]
        positives = sum(len(p.face) for p in output.proposals.values())
        sum(output.losses.values()).backward()
        assert model.controller.weight.grad.abs().sum() > 0
    assert counts == {"all": positives, "random": 3, "best": 8}
    assert positives > 8


def test_mask_features_of_boxes():
    model = tiny().train()
    image, faces = sample()
    output = model([image, image], [faces, Faces.empty((64, 96))])
    assert output.mask_features.shape == (2, 16, 8, 12)
    # a ramp along x is linear, so each bin's mean is the ramp at the bin's centre
    ramp = torch.arange(12.0).expand(2, 16, 8, 12)
    output = type(output)(output.losses, output.features, output.proposals, ramp)
    pooled = model.roi_mask_features(output, [faces.boxes, torch.zeros(0, 4)], 4)
    assert pooled.shape == (2, 16, 4, 4)
    centres = 8 + 32 * (torch.arange(4) + 0.5) / 4
    torch.testing.assert_close(pooled[0, 0, 0], centres / 8 - 0.5)


def test_positive_scores_are_class_probability_times_quality():
    model = tiny().train()
    image, faces = sample()
    features = model.extract_features(model.preprocess([image, image]))
    dense = model.dense_training(features, [faces, faces])
    flat = [
        torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps])[dense.targets.positive]
        for maps in (dense.head.class_logits, dense.head.quality_logits)
    ]
    expected = flat[0].sigmoid().amax(dim=1) * flat[1].sigmoid()[:, 0]
    torch.testing.assert_close(model._positive_scores(dense), expected)


def test_semantic_loss_is_the_focal_sum_over_covered_cells():
    branch = MaskBranch(32, channels=16, num_convs=1, num_classes=2, norm="").eval()
    features = {"p3": torch.randn(1, 32, 4, 6, generator=torch.Generator().manual_seed(0))}
    labels = torch.full((1, 4, 6), 2)
    labels[0, 1, 2:4] = torch.tensor([0, 1])
    with torch.no_grad():
        logits = branch.semantic(features["p3"]).double()
        loss = branch.semantic_loss(features, labels, alpha=0.25, gamma=2.0)
    wanted = functional.one_hot(labels, 3)[..., :2].permute(0, 3, 1, 2).double()
    p = logits.sigmoid()
    right = torch.where(wanted == 1, p, 1 - p)
    weight = torch.where(wanted == 1, 0.25, 0.75)
    expected = -(weight * (1 - right) ** 2 * right.log()).sum() / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", ["CondInst", "COMICS-CondInst"])
def test_shipped_configurations_build(name, request):
    path = request.config.rootpath / "configs" / name / "R_50_1x.yaml"
    cfg = load_config(path)
    with torch.device("meta"):
        model = build_model(cfg)
    detector = getattr(model, "detector", model)
    assert isinstance(detector, CondInst)
    assert detector.max_proposals == 500 and detector.selector.threshold_with_quality
    assert detector.controller.weight.shape == (169, 256, 3, 3)
