"""BlendMask and FCOS apart from the reference: inputs, precision, distribution."""

import pytest
import torch
from narrow import NARROW
from torch import distributed
from two_faces import sample

from comics.config import load_config
from comics.modeling.detectors.blendmask import BlendMask
from comics.modeling.detectors.blendmask.detector import semantic_labels
from comics.modeling.detectors.fcos import FCOS, Detections
from comics.modeling.detectors.fcos.training import FCOSLoss, mean_over_processes
from comics.structures import Faces

TINY = [
    *NARROW,
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FCOS.NUM_CLS_CONVS", "1",
    "MODEL.FCOS.NUM_BOX_CONVS", "1", "MODEL.BASIS_MODULE.CONVS_DIM", "16",
    "MODEL.BASIS_MODULE.NUM_CONVS", "1", "MODEL.BLENDMASK.ATTN_SIZE", "4",
    "MODEL.BLENDMASK.BOTTOM_RESOLUTION", "8", "MODEL.FCOS.PRIOR_PROB", "0.3",
]  # fmt: skip
DETECTORS = (FCOS, BlendMask)


def tiny(kind, *overrides):
    torch.manual_seed(0)
    model = kind.from_config(load_config(overrides=[*TINY, *overrides]))
    torch.nn.init.constant_(model.head.box_distances.bias, 2.0)  # boxes of some size
    return model


@pytest.mark.parametrize("kind", DETECTORS)
def test_mixed_sizes_train_and_infer(kind):
    model = tiny(kind).train()
    big, small = sample(), sample((70, 80), seed=1)
    output = model([big[0], small[0]], [big[1], small[1]])
    assert all(torch.isfinite(loss) for loss in output.losses.values())
    model.eval()
    with torch.no_grad():
        found = model([big[0], small[0]], output_sizes=[(128, 192), (35, 40)])
    for faces, size in zip(found, [(128, 192), (35, 40)], strict=True):
        assert faces.image_size == size
        assert len(faces) > 0
        assert (faces.boxes >= 0).all()
        assert (faces.boxes <= torch.tensor([size[1], size[0], size[1], size[0]])).all()
        assert ((faces.boxes[:, 2:] - faces.boxes[:, :2]) > 0).all()
        assert (faces.masks is None) == (kind is FCOS)


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_batch_gives_each_image_its_own_result(kind):
    model = tiny(kind).eval()
    one, other = sample()[0], sample(seed=1)[0]
    with torch.no_grad():
        together = model([one, other])
        alone = [model([one])[0], model([other])[0]]
    for batched, single in zip(together, alone, strict=True):
        torch.testing.assert_close(batched.boxes, single.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(batched.scores, single.scores, rtol=1e-4, atol=1e-5)


def test_without_masks_only_boxes_are_inferred():
    with_masks = tiny(BlendMask).eval()
    boxes_only = tiny(BlendMask, "MODEL.MASK_ON", "False").eval()
    boxes_only.load_state_dict(with_masks.state_dict())
    image, _ = sample()
    with torch.no_grad():
        full, plain = with_masks([image])[0], boxes_only([image])[0]
    assert plain.masks is None
    assert full.masks.shape == (len(full), 64, 96)
    assert torch.equal(plain.boxes, full.boxes)


def test_faces_without_masks_are_refused_in_training():
    image, faces = sample()
    bare = Faces(faces.boxes, faces.image_size, faces.labels)
    with pytest.raises(ValueError, match="target 1 has 2 faces but no masks"):
        tiny(BlendMask).train()([image, image], [faces, bare])


@pytest.mark.parametrize("kind", DETECTORS)
def test_bad_targets_are_named(kind):
    model = tiny(kind).train()
    image, faces = sample()
    flat = Faces(
        torch.tensor([[8.0, 8, 8, 40]]), (64, 96), torch.tensor([0]), masks=faces.masks[:1]
    )
    with pytest.raises(ValueError, match="target 1 has a box without width or height"):
        model([image, image], [faces, flat])
    with pytest.raises(ValueError, match="a target per image"):
        model([image])
    with pytest.raises(ValueError, match="image 0 of the batch"):
        model([image[:1]], [faces])


@pytest.mark.parametrize("kind", DETECTORS)
def test_bfloat16_autocast_keeps_losses_in_float32_and_near(kind):
    image, faces = sample()
    exact = tiny(kind).train()([image], [faces]).losses
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = tiny(kind).train()([image], [faces])
        features = [output.features[level] for level in ("p3", "p4")]
    assert all(f.dtype == torch.bfloat16 for f in features)
    for name, loss in output.losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact[name], rtol=0.05, atol=0.02)


def test_inference_under_autocast_gives_masks():
    model = tiny(BlendMask).eval()
    torch.nn.init.constant_(model.basis_module.bases.bias, 99.0)  # masks that fill their boxes
    image, _ = sample()
    inner = torch.tensor([4.0, 4, 92, 60])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        faces = model([image])[0]
    assert faces.boxes.dtype == faces.scores.dtype == torch.float32
    inside = ((faces.boxes[:, :2] > inner[:2]) & (faces.boxes[:, 2:] < inner[2:])).all(dim=1)
    assert inside.any()
    for box, mask in zip(faces.boxes[inside].tolist(), faces.masks[inside], strict=True):
        middle = mask[int((box[1] + box[3]) / 2)]  # bilinear sampling rounds a mask's corners
        assert middle.nonzero()[:, 0].tolist() == list(range(round(box[0]), round(box[2])))


@pytest.mark.parametrize(("clipped", "first"), [(True, 16), (False, 0)])
def test_masks_at_the_border_are_pasted_as_asked(monkeypatch, clipped, first):
    """The right half of a box that reaches over the left border, in an image twice as large."""
    model = tiny(BlendMask, "MODEL.BLENDMASK.PASTE_CLIPPED", str(clipped)).eval()
    zero = torch.zeros(1, dtype=torch.int64)
    found = Detections(torch.tensor([[-16.0, 8, 16, 24]]), torch.ones(1), zero, zero, zero)
    soft = torch.zeros(1, 8, 8)
    soft[:, :, 4:] = 1.0
    monkeypatch.setattr(model, "detections", lambda dense: [found])
    monkeypatch.setattr(model, "square_masks", lambda *arguments: [soft])
    with torch.no_grad():
        faces = model([sample()[0]], output_sizes=[(128, 192)])[0]
    assert faces.boxes.tolist() == [[0, 16, 32, 48]]
    middle = faces.masks[0, 32]  # bilinear sampling rounds a mask's corners
    assert middle.nonzero()[:, 0].tolist() == list(range(first, 32))


def test_mask_features_of_boxes():
    model = tiny(BlendMask).train()
    image, faces = sample()
    output = model([image, image], [faces, Faces.empty((64, 96))])
    assert output.mask_features.shape == (2, 16, 16, 24)
    pooled = model.roi_mask_features(output, [faces.boxes, torch.zeros(0, 4)], 4)
    assert pooled.shape == (2, 16, 4, 4)
    # a ramp along x is linear, so each bin's mean is the ramp at the bin's centre
    ramp = torch.arange(24.0).expand(2, 16, 16, 24)
    output = type(output)(output.losses, output.features, output.proposals, ramp)
    pooled = model.roi_mask_features(output, [faces.boxes, torch.zeros(0, 4)], 4)
    centres = 8 + 32 * (torch.arange(4) + 0.5) / 4
    torch.testing.assert_close(pooled[0, 0, 0], centres / 4 - 0.5)


@pytest.mark.parametrize("norm", ["GN", "BN", "none"])
def test_tower_norms(norm):
    model = tiny(FCOS, "MODEL.FCOS.NORM", norm, "MODEL.FCOS.NUM_SHARE_CONVS", "1").train()
    big, other = sample(), sample(seed=1)
    output = model([big[0], other[0]], [big[1], other[1]])
    sum(output.losses.values()).backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(g is not None for g in grads.values())
    per_level = [n for n in grads if n.startswith("head.share_tower.0.norm.")]
    assert len(per_level) == {"GN": 2, "BN": 10, "none": 0}[norm]


def test_semantic_labels_read_the_last_face_at_every_step():
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(3, 13, 18, generator=generator) > 0.5
    labels = torch.tensor([1, 0, 1])
    faces = Faces(torch.tensor([[0.0, 0, 18, 13]] * 3), (13, 18), labels, masks=masks)
    found = semantic_labels([faces, Faces.empty((10, 10))], 4, (5, 6))
    for i in range(5):
        for j in range(6):
            expected = 0
            for mask, label in zip(masks, labels, strict=True):
                if 4 * i < 13 and 4 * j < 18 and mask[4 * i, 4 * j]:
                    expected = label.item() + 1
            assert found[0, i, j] == expected
    assert not found[1].any()


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        (FCOS, "MODEL.FCOS.BOX_QUALITY", "area", "BOX_QUALITY"),
        (FCOS, "MODEL.FCOS.LOC_LOSS_TYPE", "l1", "LOC_LOSS_TYPE"),
        (FCOS, "MODEL.FCOS.LOSS_NORMALIZER_CLS", "bg", "LOSS_NORMALIZER_CLS"),
        (FCOS, "MODEL.FCOS.TOP_LEVELS", "1", "p7"),
        (FCOS, "MODEL.FCOS.FPN_STRIDES", "[4, 8, 16, 32, 64]", "FPN_STRIDES"),
        (FCOS, "MODEL.FCOS.PRIOR_PROB", "0.0", "PRIOR_PROB"),
        (FCOS, "MODEL.FCOS.NORM", "LN", "normalisation"),
        (BlendMask, "MODEL.FCOS.BOX_QUALITY", "iou", "centre|ctrness"),
        (BlendMask, "MODEL.BASIS_MODULE.NAME", "Other", "ProtoNet"),
        (BlendMask, "MODEL.BASIS_MODULE.IN_FEATURES", "['p2', 'p3']", "IN_FEATURES"),
        (BlendMask, "MODEL.BASIS_MODULE.COMMON_STRIDE", "4", "COMMON_STRIDE"),
        (BlendMask, "MODEL.BLENDMASK.POOLER_SCALES", "[0.125]", "POOLER_SCALES"),
    ],
)
def test_settings_that_do_not_fit_are_named(kind, key, value, message):
    with pytest.raises(ValueError, match=message):
        tiny(kind, key, value)


def test_moving_normaliser_is_saved_and_moves_before_it_divides():
    loss = FCOSLoss(2, normalizer="moving_fg")
    assert "moving_positives" in loss.state_dict()
    model = tiny(FCOS, "MODEL.FCOS.LOSS_NORMALIZER_CLS", "moving_fg").train()
    image, faces = sample()
    plain = tiny(FCOS).train()([image], [faces])
    moving = model([image], [faces])
    positives = sum(len(p.face) for p in plain.proposals.values())
    average = 0.9 * 100 + 0.1 * positives
    assert model.loss.moving_positives.item() == pytest.approx(average)
    assert moving.losses["loss_fcos_cls"].item() == pytest.approx(
        plain.losses["loss_fcos_cls"].item() * positives / average, rel=1e-4
    )


def _mean_in_process(rank, path, queue):
    distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    value = torch.tensor([float(rank), 4.0])
    queue.put((rank, mean_over_processes(value).tolist(), value.tolist()))
    distributed.barrier()
    distributed.destroy_process_group()


def test_normalisers_are_averaged_over_processes(tmp_path):
    context = torch.multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [
        context.Process(target=_mean_in_process, args=(rank, tmp_path / "store", queue))
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
    for rank, mean, original in results:
        assert mean == [0.5, 4.0]
        assert original == [float(rank), 4.0]
    single = torch.tensor([3.0])
    assert torch.equal(mean_over_processes(single), single)
