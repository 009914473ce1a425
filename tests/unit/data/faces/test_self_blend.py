"""The loader's own label: real rows make forged samples beside them."""

import numpy as np
import pytest
import torch

from comics.config import get_cfg
from comics.data.faces.loader import build_face_train_loader
from comics.data.faces.needs import FaceNeeds
from comics.data.faces.self_blend import SELF_BLEND_METHOD, SelfBlendView
from comics.data.records import DatasetError
from comics.structures import FAKE, REAL

SIZE = 32


def config(*entries, **changes):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = [str(entry) for entry in entries]
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 8
    cfg.INPUT.FACE.FLIP_PROB = 0.0
    cfg.INPUT.FACE.JITTER_PROB = 0.0
    cfg.INPUT.FACE.SELF_BLEND.ENABLED = True
    cfg.merge_from_list([part for key, value in changes.items() for part in (key, value)])
    return cfg


def first(cfg, *views, count=1, masks=False):
    loader = build_face_train_loader(cfg, needs=FaceNeeds(views, masks, SIZE))
    iterator = iter(loader)
    return loader, [next(iterator) for _ in range(count)]


def twins(batch):
    """(real, blend) positions of a batch."""
    names = batch.file_names
    return [(i - 1, i) for i in range(1, len(names)) if names[i] == names[i - 1]]


def test_real_rows_alone_give_as_many_blends(face_set):
    cfg = config(f"{face_set}@method=real")
    loader, batches = first(cfg, count=3, masks=True)
    assert loader.method_names == ("real", SELF_BLEND_METHOD)
    for batch in batches:
        assert len(batch) == 16
        assert batch.labels.tolist() == batch.methods.tolist() == [REAL, FAKE] * 8
        assert len(twins(batch)) == 8
        for real, blend in twins(batch):
            same = (batch.images[real] == batch.images[blend]).all(0)
            # The mask begins where the source weighs a tenth; what is outside it hardly differs
            difference = (batch.images[real].int() - batch.images[blend].int()).abs().amax(0)
            assert difference[~batch.masks[blend]].float().mean() < 3
            assert not batch.masks[real].any() and batch.masks[blend].any()
            assert same.any() and not same.all()
        assert (batch.videos[1::2] == -1).all() and (batch.videos[::2] >= 0).all()
        assert torch.equal(batch.targets[::2], batch.targets[1::2])


def test_both_go_through_one_augmentation(face_set):
    cfg = config(f"{face_set}@method=real")
    _, (plain,) = first(cfg, masks=True)
    cfg.INPUT.FACE.FLIP_PROB = 1.0
    _, (flipped,) = first(cfg, masks=True)
    assert torch.equal(flipped.images, plain.images.flip(-1))
    assert torch.equal(flipped.masks, plain.masks.flip(-1))
    cfg.INPUT.FACE.FLIP_PROB, cfg.INPUT.FACE.VIEWER_PROB = 0.0, 1.0
    _, (travelled,) = first(cfg, masks=True)
    assert torch.equal(travelled.masks, plain.masks)
    assert not torch.equal(travelled.images, plain.images)


def test_forged_rows_stay_as_they_are(face_set):
    cfg = config(face_set)
    loader, batches = first(cfg, count=2)
    assert loader.method_names == ("real", "blend", SELF_BLEND_METHOD, "swap")
    cfg.INPUT.FACE.SELF_BLEND.ENABLED = False
    _, without = first(cfg, count=2)
    for batch, before in zip(batches, without, strict=True):
        assert len(batch) == 12 and len(before) == 8  # 4 reals, 4 forged ones, 4 blends
        blended = [blend for _, blend in twins(batch)]
        kept = [i for i in range(12) if i not in blended]
        assert [batch.file_names[i] for i in kept] == before.file_names
        forged = [i for i in kept if batch.labels[i] == FAKE]
        assert torch.equal(batch.images[forged], before.images[before.labels == FAKE])
        assert (batch.methods[blended] == 2).all()


def test_forged_rows_can_be_left_out(face_set):
    cfg = config(face_set, **{"INPUT.FACE.SELF_BLEND.REALS_ONLY": True})
    loader, batches = first(cfg, count=3)
    assert loader.method_names == ("real", SELF_BLEND_METHOD)
    names = {name.split("/")[-1].split("_")[0] for batch in batches for name in batch.file_names}
    assert names == {"real"}
    assert all(batch.labels.tolist() == [REAL, FAKE] * 8 for batch in batches)
    cfg.INPUT.FACE.SELF_BLEND.ENABLED = False
    _, (batch,) = first(cfg)
    assert (batch.methods > 0).any()


def test_a_share_of_the_rows(face_set):
    cfg = config(f"{face_set}@method=real")
    cfg.INPUT.FACE.SELF_BLEND.PROB = 0.0
    _, (none,) = first(cfg)
    assert len(none) == 8 and not none.labels.any()
    cfg.INPUT.FACE.SELF_BLEND.PROB = 0.5
    _, some = first(cfg, count=20)
    counts = [int(batch.labels.sum()) for batch in some]
    assert all(len(batch) == 8 + count for batch, count in zip(some, counts, strict=True))
    assert abs(np.mean(counts) - 4) < 4 * np.sqrt(8 * 0.25 / 20)


def test_workers_change_nothing(face_set):
    cfg = config(face_set)
    cfg.INPUT.FACE.JITTER_PROB = cfg.INPUT.FACE.VIEWER_PROB = 0.5
    views = ("key", "paired_real", "positive", "strong", "other")
    _, alone = first(cfg, *views, count=3, masks=True)
    cfg.DATALOADER.NUM_WORKERS = 2
    _, workers = first(cfg, *views, count=3, masks=True)
    for one, two in zip(alone, workers, strict=True):
        assert torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)
        assert torch.equal(one.masks, two.masks)
        for view in views:
            assert torch.equal(one.views[view], two.views[view])
            assert torch.equal(one.valid[view], two.valid[view])


def test_views_of_a_blend(face_set):
    cfg = config(f"{face_set}@method=real")
    views = ("key", "paired_real", "positive", "strong", "other")
    _, (batch,) = first(cfg, *views)
    blends = batch.labels == FAKE
    assert torch.equal(batch.views["paired_real"][blends], batch.images[~blends])
    # Nothing is drawn here, so the second view of a blend is the blend
    assert torch.equal(batch.views["key"][blends], batch.images[blends])
    assert batch.valid["strong"].all()
    assert not batch.valid["other"][blends].any()


def test_a_set_without_real_faces_is_refused(face_set):
    with pytest.raises(DatasetError, match="real"):
        first(config(f"{face_set}@method=swap"))


def test_the_face_of_a_crop_is_where_its_box_is():
    view = SelfBlendView.from_config(config())
    from comics.data.faces.manifest import FaceRow

    row = FaceRow("", (100.0, 50.0, 140.0, 90.0), "", "", REAL, "", "")
    crop = np.zeros((52, 52, 3), np.uint8)  # 40 px and a margin of 15 % on each side: 52
    np.testing.assert_allclose(view._box(crop, row), [6, 6, 46, 46])
    whole = FaceRow("", None, "", "", REAL, "", "")
    np.testing.assert_allclose(
        view._box(np.zeros((100, 100, 3), np.uint8), whole), [10, 10, 90, 90]
    )


def test_the_face_of_a_moved_window_is_where_its_box_is():
    from comics.data.faces.crops import Placement
    from comics.data.faces.manifest import FaceRow

    view = SelfBlendView.from_config(config())
    moved = Placement(2.0, (0.25, 0.0))
    # Of a picture of 100 pixels the window is 200 wide, from -25 to 175: half the resolution
    whole = FaceRow("", None, "", "", REAL, "", "")
    crop = np.zeros((100, 100, 3), np.uint8)
    np.testing.assert_allclose(view._box(crop, whole, moved), [17.5, 30, 57.5, 70])
    # Of a box of 40 pixels and its margin, 52: 104 wide, from 81 to 185
    row = FaceRow("", (100.0, 50.0, 140.0, 90.0), "", "", REAL, "", "")
    crop = np.zeros((104, 104, 3), np.uint8)
    np.testing.assert_allclose(view._box(crop, row, moved), [19, 32, 59, 72])


@pytest.mark.parametrize(("key", "value"), [("PROB", 2.0), ("FACE_SHARE", 0.0)])
def test_bad_shares(face_set, key, value):
    with pytest.raises(ValueError, match=key):
        first(config(face_set, **{f"INPUT.FACE.SELF_BLEND.{key}": value}))


@pytest.mark.parametrize(
    "method", ["CrossEntropy", "DCL", "RealCentric", "CompressionRelation", "GuideSpace"]
)
def test_every_method_trains_on_blends(face_set, method):
    import comics.modeling.faces
    from comics.registry import FACE_METHODS

    assert comics.modeling.faces
    cfg = config(
        f"{face_set}@method=real",
        **{"MODEL.FACE.ENCODER": "resnet10t", "MODEL.FACE.CROP_SIZE": 40},
    )
    cfg.MODEL.FACE.METHOD = method
    cfg.MODEL.FACE.GUIDE_SPACE.NUM_DOMAINS = 1
    torch.manual_seed(0)
    built = FACE_METHODS.get(method).from_config(cfg)
    built.prepare_training()
    built.start_epoch(0)
    built.train()
    for batch in build_face_loader(cfg, built):
        losses = built(batch).losses
        assert losses and all(bool(torch.isfinite(loss)) for loss in losses.values())


def build_face_loader(cfg, built, count=2):
    iterator = iter(build_face_train_loader(cfg, needs=FaceNeeds.of(built)))
    return [next(iterator) for _ in range(count)]
