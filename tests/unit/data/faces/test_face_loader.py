import json

import numpy as np
import pytest
import torch
from PIL import Image

from comics.config import get_cfg
from comics.data.compression import compress_frames, compress_image, jpeg
from comics.data.faces.loader import (
    build_face_test_loader,
    build_face_train_loader,
)
from comics.data.faces.manifest_files import read_manifest
from comics.data.faces.needs import FaceNeeds
from comics.data.faces.orders import BalancedOrder, UndersampledOrder
from comics.data.faces.pairs import PairIndex
from comics.data.records import DatasetError

SIZE = 32


def config(*entries, **changes):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = [str(entry) for entry in entries]
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 8
    cfg.TEST.IMS_PER_BATCH = 4
    cfg.INPUT.FACE.FLIP_PROB = 0.0
    cfg.INPUT.FACE.JITTER_PROB = 0.0
    cfg.merge_from_list([part for key, value in changes.items() for part in (key, value)])
    return cfg


def first(loader, count=1):
    iterator = iter(loader)
    return [next(iterator) for _ in range(count)]


def needs(*views, masks=False):
    return FaceNeeds(views, masks, SIZE)


def stored(batch, i):
    return torch.from_numpy(np.array(Image.open(batch.file_names[i])).transpose(2, 0, 1).copy())


def test_batches_hold_what_the_manifest_says(face_set):
    cfg = config(face_set)
    loader = build_face_train_loader(cfg, needs=needs(masks=True))
    assert loader.method_names == ("real", "blend", "swap")
    for batch in first(loader, 3):
        assert batch.images.shape == (8, 3, SIZE, SIZE)
        assert batch.labels.tolist() == [0, 1] * 4
        for i, name in enumerate(batch.file_names):
            method, person, _, _ = name.split("/")[-1].split("_")
            assert torch.equal(batch.images[i], stored(batch, i))
            assert int(batch.methods[i]) == ["real", "blend", "swap"].index(method)
            assert int(batch.targets[i]) == int(batch.clusters[i]) == int(person)
            source = (int(person) + 1) % 3 if method == "swap" else int(person)
            assert int(batch.sources[i]) == source
            assert int(batch.masks[i].sum()) == (0 if method == "real" else 16 * 16)
        assert batch.valid["mask"].all()


@pytest.mark.parametrize("balanced", [True, False])
def test_order_depends_on_seed_and_iteration_alone(face_set, balanced):
    cfg = config(face_set)
    cfg.INPUT.FACE.BALANCED = balanced
    cfg.INPUT.FACE.FLIP_PROB = cfg.INPUT.FACE.JITTER_PROB = 0.5
    wanted = needs("key", "positive")
    whole = first(build_face_train_loader(cfg, needs=wanted), 9)
    resumed = first(build_face_train_loader(cfg, 5, needs=wanted), 4)
    for one, two in zip(whole[5:], resumed, strict=True):
        assert one.file_names == two.file_names
        assert torch.equal(one.images, two.images)
        for view in ("key", "positive"):
            assert torch.equal(one.views[view], two.views[view])
    ranks = [first(build_face_train_loader(cfg, 0, r, 2, needs=wanted), 9) for r in range(2)]
    for step, batch in enumerate(whole):
        parts = [ranks[r][step] for r in range(2)]
        assert parts[0].file_names + parts[1].file_names == batch.file_names
        assert torch.equal(torch.cat([p.images for p in parts]), batch.images)


def test_workers_change_nothing(face_set):
    cfg = config(face_set)
    cfg.INPUT.FACE.JITTER_PROB = 0.5
    alone = first(build_face_train_loader(cfg, needs=needs("other")), 2)
    cfg.DATALOADER.NUM_WORKERS = 1
    workers = first(build_face_train_loader(cfg, needs=needs("other")), 2)
    for one, two in zip(alone, workers, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.views["other"], two.views["other"])


def test_shares_make_pairs_that_are_augmented_alike(face_set):
    cfg = config(f"{face_set}@method=real|swap", f"{face_set}@method=real|blend")
    cfg.DATASETS.TRAIN_SHARES = [3.0, 1.0]
    cfg.INPUT.FACE.SCALE, cfg.INPUT.FACE.SHIFT = [0.6, 1.2], 0.1
    (batch,) = first(build_face_train_loader(cfg, needs=needs(masks=True)))
    names = [name.split("/")[-1].split("_")[0] for name in batch.file_names]
    assert names[::2] == ["real"] * 4
    assert sorted(names[1::2]) == ["blend", "swap", "swap", "swap"]
    alone = first(build_face_train_loader(cfg, needs=needs(masks=True)), 2)
    resumed = first(build_face_train_loader(cfg, 1, needs=needs(masks=True)))
    assert torch.equal(alone[1].images, resumed[0].images)
    cfg.DATASETS.TRAIN_SHARES = [1.0]
    with pytest.raises(ValueError, match="1 shares for 2 sets"):
        build_face_train_loader(cfg, needs=needs())


@pytest.mark.parametrize(("reals", "fakes", "size"), [(3, 20, 4), (20, 3, 5), (1, 1, 6), (7, 7, 2)])
def test_balanced_batches(reals, fakes, size):
    labels = np.array([0] * reals + [1] * fakes)
    order = BalancedOrder(0, size, labels)
    assert order.batches_per_epoch == max(1, (reals + fakes) // size)
    for number in range(3):
        batches = order.epoch(number)
        assert batches.shape == (order.batches_per_epoch, size)
        drawn = labels[batches]
        assert (drawn.sum(axis=1) == -(-size // 2)).all()
        for label, count in ((0, reals), (1, fakes)):
            uses = np.bincount(batches[drawn == label], minlength=len(labels))[labels == label]
            assert uses.max() - uses.min() <= 1  # whole permutations
            assert len(uses) == count


@pytest.mark.parametrize(("reals", "fakes", "size"), [(3, 20, 4), (1, 100, 8), (50, 10, 6)])
def test_under_sampling_repeats_no_face_of_the_rarer_class(reals, fakes, size):
    """Also of one group with a hundred forgeries: its original is all that an epoch is about."""
    labels = np.array([0] * reals + [1] * fakes)
    order = UndersampledOrder(0, size, labels)
    rarer = int(fakes < reals)
    assert order.batches_per_epoch == max(1, min(reals, fakes) // (size // 2))
    seen = []
    for number in range(40):
        batches = order.epoch(number)
        drawn = labels[batches]
        assert (drawn.sum(axis=1) == size // 2).all()
        uses = np.bincount(batches[drawn == rarer], minlength=len(labels))
        if min(reals, fakes) >= size // 2:
            assert uses.max() == 1
        seen.append(batches[drawn != rarer])
    # Over the epochs every one of the others has its turn
    assert len(np.unique(np.concatenate(seen))) > 0.75 * max(reals, fakes)


def test_under_sampling_shortens_the_epoch(face_set):
    cfg = config(face_set)
    assert build_face_train_loader(cfg, needs=needs()).iterations_per_epoch == 54 // 8
    cfg.INPUT.FACE.UNDERSAMPLE = True
    assert build_face_train_loader(cfg, needs=needs()).iterations_per_epoch == 18 // 4


@pytest.mark.parametrize("level", ["c23", "c40"])
def test_one_level_alone_is_trained_on(face_set, level):
    cfg = config(face_set, **{"INPUT.FACE.COMPRESSION": level})
    loader = build_face_train_loader(cfg, needs=needs())
    names = [name for batch in first(loader, 9) for name in batch.file_names]
    assert all(name.endswith(f"_{level}.png") for name in names)
    assert len(set(names)) == 27
    cfg.INPUT.FACE.COMPRESSION = "c12"
    with pytest.raises(DatasetError, match=r"no row with compression=c12 \(there is .*c23, c40"):
        build_face_train_loader(cfg, needs=needs())


def test_dcl_views(face_set):
    cfg = config(face_set)
    cfg.MODEL.FACE.METHOD = "DCL"
    cfg.INPUT.FACE.FLIP_PROB = 0.5
    views = cfg.MODEL.FACE.DCL.VIEWS
    views.PATCH_PROB, views.HIGH_FREQUENCY_PROB, views.MIXUP_PROB = 1.0, 0.0, 0.0
    views.PATCH_GRID = 2
    (batch,) = first(build_face_train_loader(cfg, needs=needs("key", "paired_real", masks=True)))
    assert batch.valid["paired_real"].tolist() == (batch.labels == 1).tolist()
    assert not batch.views["paired_real"][batch.labels == 0].any()
    for i in (batch.labels == 1).nonzero().flatten():
        differs = (batch.images[i].int() - batch.views["paired_real"][i].int()).abs().sum(0) > 0
        assert not (differs & ~batch.masks[i]).any()
        assert differs.sum() > 0.8 * batch.masks[i].sum()
        # the picture's pixels, in another order
        assert torch.equal(
            batch.images[i].sort().values.sum(), stored(batch, i).sort().values.sum()
        )
        assert not torch.equal(batch.images[i], stored(batch, i))
    assert batch.valid["key"].all()


def test_dcl_mixture_moves_fakes_alone(face_set):
    cfg = config(face_set)
    cfg.MODEL.FACE.METHOD = "DCL"
    views = cfg.MODEL.FACE.DCL.VIEWS
    views.PATCH_PROB = views.HIGH_FREQUENCY_PROB = 0.0
    views.MIXUP_PROB, views.MIXUP_SHARE = 1.0, [0.5, 0.5]
    (batch,) = first(build_face_train_loader(cfg, needs=needs("paired_real")))
    for i, label in enumerate(batch.labels.tolist()):
        plain = stored(batch, i)
        if label:
            real = batch.views["paired_real"][i]
            assert (batch.images[i].float() - (plain.float() + real.float()) / 2).abs().max() <= 0.5
            assert not torch.equal(batch.images[i], plain)
        else:
            assert torch.equal(batch.images[i], plain)


def test_frame_shift_takes_another_frame_of_the_clip(face_set):
    cfg = config(face_set)
    cfg.MODEL.FACE.METHOD = "DCL"
    views = cfg.MODEL.FACE.DCL.VIEWS
    views.PATCH_PROB = views.HIGH_FREQUENCY_PROB = views.MIXUP_PROB = 0.0
    for probability in (0.0, 1.0):
        views.FRAME_SHIFT_PROB = probability
        (batch,) = first(build_face_train_loader(cfg, needs=needs("key")))
        for i in range(8):
            assert torch.equal(batch.views["key"][i], stored(batch, i)) == (probability == 0)


@pytest.mark.parametrize("level", ["image", "temporal", "semantic", "class"])
def test_positive_is_of_the_level_asked_for(face_set, level):
    cfg = config(face_set)
    cfg.MODEL.FACE.REAL_CENTRIC.PAIRING = [level]
    (batch,) = first(build_face_train_loader(cfg, needs=needs("positive")))
    pictures = {
        np.array(Image.open(path)).tobytes(): path.stem for path in face_set.parent.glob("*_c*.png")
    }
    for i, name in enumerate(batch.file_names):
        method, person, frame, compression = name.split("/")[-1][:-4].split("_")
        if level == "semantic" and method == "real":
            assert not batch.valid["positive"][i]  # one real clip per identity
            continue
        view = batch.views["positive"][i].permute(1, 2, 0).contiguous().numpy()
        # both fakes of a frame are the same picture: compare what the picture tells
        partner = pictures[view.tobytes()].split("_")
        assert partner[3] == compression
        assert (partner[0] == "real") == (method == "real")
        if level == "image":
            assert partner[1:3] == [person, frame]
        if level == "temporal":
            assert partner[1] == person
            assert abs(int(partner[2]) - int(frame)) == 1


def test_strong_and_other_views(face_set):
    cfg = config(face_set)
    loader = build_face_train_loader(cfg, needs=needs("strong", "other"))
    for batch in first(loader, 3):
        assert all(name.endswith("_c23.png") for name in batch.file_names)
        for i, name in enumerate(batch.file_names):
            strong = np.array(Image.open(name.replace("_c23", "_c40")))
            assert torch.equal(batch.views["strong"][i].permute(1, 2, 0), torch.from_numpy(strong))
            frames = [name.replace(f"_{f}_c23", f"_{g}_c23") for f in range(3) for g in range(3)]
            others = {p: np.array(Image.open(p)) for p in set(frames) - {name}}
            view = batch.views["other"][i].permute(1, 2, 0).numpy()
            assert any(np.array_equal(view, other) for other in others.values())


def test_compressions_that_the_set_does_not_hold_are_made(face_set):
    entry = f"{face_set}@compression=c23"
    cfg = config(entry)
    (batch,) = first(build_face_train_loader(cfg, needs=needs("strong")))
    assert batch.valid["strong"].all()
    errors = (batch.images.float() - batch.views["strong"].float()).pow(2).mean(dim=(1, 2, 3))
    assert (errors > 5).all()
    cfg.INPUT.FACE.COMPRESS_MISSING = False
    (batch,) = first(build_face_train_loader(cfg, needs=needs("strong")))
    assert not batch.valid["strong"].any()
    assert not batch.views["strong"].any()


def test_broken_pictures_are_replaced_by_their_class(face_set):
    broken = face_set.parent / "real_0_0_c23.png"
    broken.write_bytes(b"no picture")
    loader = build_face_train_loader(config(face_set), needs=needs())
    names = [name for batch in first(loader, 8) for name in batch.file_names]
    assert str(broken) not in names
    assert str(broken) in loader.broken
    labels = torch.cat([batch.labels for batch in first(loader, 8)])
    assert labels.tolist() == [0, 1] * 32


def test_missing_pairs_leave_their_view_out(face_set):
    (face_set.parent / "real_1_1_c23.png").unlink()
    cfg = config(f"{face_set}@method=real|swap")
    loader = build_face_train_loader(cfg, needs=needs("paired_real"))
    for batch in first(loader, 9):
        for i, name in enumerate(batch.file_names):
            expected = "swap" in name and not name.endswith("swap_1_1_c23.png")
            assert bool(batch.valid["paired_real"][i]) == expected
    assert any("real_1_1_c23" in path for path in loader.broken)


def test_a_set_of_one_class_is_refused(face_set):
    for method in ("real", "swap|blend"):
        with pytest.raises(DatasetError, match="needs both classes"):
            build_face_train_loader(config(f"{face_set}@method={method}"), needs=needs())


def test_a_class_that_is_absent_at_the_weak_level(write_csv):
    rows = [
        {"path": "a.png", "label": "real", "compression": "c23"},
        {"path": "b.png", "label": "fake", "compression": "c40"},
    ]
    with pytest.raises(DatasetError, match="training from c23"):
        build_face_train_loader(config(write_csv(rows)), needs=needs("strong"))


def test_loader_for_testing(face_set):
    cfg = config()
    loader = build_face_test_loader(cfg, f"{face_set}@split=test", needs=needs())
    batches = list(loader)
    assert sum(len(batch) for batch in batches) == len(loader.manifest) == 18
    names = [name for batch in batches for name in batch.file_names]
    assert names == [loader.manifest[i].path for i in range(18)]
    ranks = [build_face_test_loader(cfg, str(face_set), r, 4, needs=needs()) for r in range(4)]
    seen = [name for loader in ranks for batch in loader for name in batch.file_names]
    assert len(seen) == len(set(seen)) == 54
    (face_set.parent / "real_2_0_c23.png").unlink()
    assert sum(len(batch) for batch in loader) == 17
    assert list(loader.skipped) == [str(face_set.parent / "real_2_0_c23.png")]


def test_testing_under_jpeg_and_h264(face_set):
    entry = f"{face_set}@split=test,compression=c23"
    plain = torch.cat([b.images for b in build_face_test_loader(config(), entry, needs=needs())])
    errors = []
    for changes in ({"INPUT.FACE.TEST_JPEG": q} for q in (75, 20)):
        loader = build_face_test_loader(config(**changes), entry, needs=needs())
        images = torch.cat([batch.images for batch in loader])
        errors.append(float((images.float() - plain.float()).pow(2).mean()))
    assert 0 < errors[0] < errors[1]
    loader = build_face_test_loader(config(**{"INPUT.FACE.TEST_CRF": 40}), entry, needs=needs())
    images = torch.cat([batch.images for batch in loader])
    assert not torch.equal(images, plain)


def test_the_picture_is_compressed_and_not_the_crop(write_csv, tmp_path, picture):
    frame = picture(6, 90, 120)
    Image.fromarray(frame).save(tmp_path / "a.png")
    row = {"path": "a.png", "label": "fake", "x0": 33, "y0": 21, "x1": 83, "y1": 71}
    entry = str(write_csv([row]))
    for changes, codec in (
        ({"INPUT.FACE.TEST_JPEG": 20}, lambda image: jpeg(image, 20)),
        ({"INPUT.FACE.TEST_CRF": 40}, lambda image: compress_image(image, 40)),
    ):
        changes = {**changes, "INPUT.FACE.MARGIN": 0.0}
        (batch,) = build_face_test_loader(config(**changes), entry, needs=FaceNeeds((), False, 50))
        found = batch.images[0].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(found, codec(frame)[21:71, 33:83])
        assert not np.array_equal(found, codec(np.ascontiguousarray(frame[21:71, 33:83])))


@pytest.fixture
def clip(write_csv, tmp_path, picture):
    """A raw clip of six frames that follow one another, and a picture of another person."""
    still, rng = picture(7, 64, 64), np.random.default_rng(0)
    frames = [np.roll(still, 2 * i, axis=1) for i in range(6)]
    frames = [np.clip(f + rng.normal(0, 2, f.shape), 0, 255).astype(np.uint8) for f in frames]
    rows = []
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
        rows.append({"path": f"{number}.png", "label": "real", "video": "v", "frame": number,
                     "compression": "raw"})  # fmt: skip
    Image.fromarray(picture(8, 64, 64)).save(tmp_path / "fake.png")
    rows.append({"path": "fake.png", "label": "fake", "video": "", "frame": "",
                 "compression": "raw"})  # fmt: skip
    return write_csv(rows), frames


def test_a_frame_of_a_clip_is_compressed_as_one(clip):
    entry, frames = clip
    for count in (0, 4):
        cfg = config(entry, **{"INPUT.FACE.CLIP_FRAMES": count})
        loader = build_face_train_loader(cfg, needs=FaceNeeds(("strong",), False, 64))
        for batch in first(loader, 2):
            for i in (batch.labels == 0).nonzero().flatten().tolist():
                number = int(batch.file_names[i].split("/")[-1][0])
                before = frames[max(0, number - count) : number]
                for image, crf in ((batch.images[i], 23), (batch.views["strong"][i], 40)):
                    expected = compress_frames([*before, frames[number]], crf)[-1]
                    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_sampled_frames_are_no_clip(face_set):
    pairs = PairIndex(read_manifest(face_set))
    assert pairs.has_clips()
    assert all(pairs.preceding(row, 4) == [] for row in range(54))  # frames 0, 10, 20


def test_what_a_method_needs_and_a_set_lacks_is_named_before_the_first_step(
    face_set, write_csv, tmp_path, picture, caplog
):
    for name in ("a.png", "b.png"):
        Image.fromarray(picture(1)).save(tmp_path / name)
    bare = write_csv([{"path": "a.png", "label": "real"}, {"path": "b.png", "label": "fake"}],
                     "bare.csv")  # fmt: skip

    def warned(entry, *views, clusters=False, **changes):
        caplog.clear()
        wanted = FaceNeeds(views, False, SIZE, clusters=clusters)
        build_face_train_loader(config(entry, **changes), needs=wanted)
        return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]

    whole = ("key", "paired_real", "positive", "strong", "other")
    assert warned(face_set, *whole, clusters=True) == []
    assert warned(bare) == []
    for views, said in (
        (("paired_real",), "no fake has a paired real picture or a mask"),
        (("other",), "no clip has two frames"),
    ):
        (message,) = warned(bare, *views)
        assert said in message and str(bare) in message
    temporal, semantic = warned(bare, "positive")
    assert "no temporal pairs" in temporal and "no semantic pairs" in semantic
    (message,) = warned(bare, clusters=True)
    assert "no row has a content cluster" in message
    assert warned(bare, "strong") == []  # made from the pictures
    (message,) = warned(bare, "strong", **{"INPUT.FACE.COMPRESS_MISSING": False})
    assert "no row has the compression c23" in message
    (message,) = warned(f"{face_set}@compression=c40", "strong")
    assert "c23 is made from rows that are compressed already (c40)" in message


def test_originals_that_are_absent_are_counted_before_the_first_step(face_set, caplog):
    for path in face_set.parent.glob("real_*_c40.png"):
        path.unlink()
    build_face_train_loader(config(face_set), needs=needs("paired_real"))
    assert "18 of 36 paired real pictures looked for are not there, such as" in caplog.text


def test_a_fake_without_a_method_is_refused_where_methods_are_trained_on(face_set, write_csv):
    rows = [{"path": "a.png", "label": "real", "method": ""},
            {"path": "b.png", "label": "fake", "method": "swap"},
            {"path": "c.png", "label": "fake", "method": ""}]  # fmt: skip
    wanted = FaceNeeds((), False, SIZE, methods=True)
    with pytest.raises(DatasetError, match=r"bare\.csv, line 4: CrossEntropy .* no method.*1 of 2"):
        build_face_train_loader(config(write_csv(rows, "bare.csv")), needs=wanted)
    cfg = config(face_set)
    build_face_train_loader(cfg, needs=wanted)
    cfg.INPUT.FACE.METHODS = ["swap"]
    with pytest.raises(DatasetError, match=r"'blend' is not in INPUT\.FACE\.METHODS.*18 of 36"):
        build_face_train_loader(cfg, needs=wanted)


def test_methods_are_numbered_as_configured(face_set):
    cfg = config(face_set)
    cfg.INPUT.FACE.METHODS = ["swap", "other"]
    (batch,) = first(build_face_train_loader(cfg, needs=needs()))
    for name, method in zip(batch.file_names, batch.methods.tolist(), strict=True):
        expected = {"real": 0, "swap": 1, "blend": -1}[name.split("/")[-1].split("_")[0]]
        assert method == expected
    cfg.INPUT.FACE.METHODS = ["swap", "swap"]
    with pytest.raises(DatasetError, match="each once"):
        build_face_train_loader(cfg, needs=needs())


@pytest.fixture
def coco_set(tmp_path, picture):
    """Two photos of two faces: a real one with an identity, a fake one with an altered region."""
    images, annotations = [], []
    for number in range(2):
        Image.fromarray(picture(number, 48, 64)).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 48})
        mask = np.zeros((48, 64), bool)
        mask[10:20, 40:50] = True
        rle = {"size": [48, 64], "counts": _counts(mask)}
        common = {"image_id": number, "iscrowd": 0}
        annotations += [
            {"id": 2 * number, "category_id": 0, "bbox": [4, 6, 16, 20], "identity": "ann"}
            | common,
            {
                "id": 2 * number + 1, "category_id": 1, "bbox": [36, 6, 20, 20], "method": "swap",
                "source": "bob", "target": "ann", "forgery": {"altered": rle},
            } | common,
        ]  # fmt: skip
    categories = [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}]
    path = tmp_path / "set.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


def _counts(mask):
    flat, counts, value = mask.T.flatten(), [], False
    run = 0
    for pixel in flat:
        if pixel != value:
            counts.append(run)
            run, value = 0, pixel
        run += 1
    return [*counts, run]


def test_multi_face_sets_give_crops(coco_set):
    cfg = config(coco_set, **{"INPUT.FACE.MARGIN": 0.0})
    loader = build_face_test_loader(
        cfg, str(coco_set), needs=FaceNeeds((), True, 20), with_masks=True
    )
    (batch,) = list(loader)
    assert batch.labels.tolist() == [0, 1, 0, 1]
    assert batch.methods.tolist() == [0, 1, 0, 1]
    assert loader.method_names == ("real", "swap")
    photo = np.array(Image.open(batch.file_names[1]))
    np.testing.assert_array_equal(batch.images[1].permute(1, 2, 0), photo[6:26, 36:56])
    expected = torch.zeros(20, 20, dtype=torch.bool)
    expected[4:14, 4:14] = True
    assert torch.equal(batch.masks[1], expected)
    assert not batch.masks[0].any()
    assert (batch.sources[1] != batch.targets[1]) and (batch.targets[1] == batch.targets[0])
    (train,) = first(build_face_train_loader(cfg, needs=needs("positive", masks=True)))
    assert train.labels.tolist() == [0, 1] * 4


def test_detected_boxes_replace_the_annotated_ones(coco_set, tmp_path):
    results = [
        {"image_id": 0, "category_id": 1, "bbox": [5, 7, 16, 20], "score": 0.9},
        {"image_id": 0, "category_id": 0, "bbox": [0, 30, 9, 9], "score": 0.9},  # no face there
        {"image_id": 1, "category_id": 1, "bbox": [35, 6, 20, 20], "score": 0.8},
        {"image_id": 1, "category_id": 0, "bbox": [4, 6, 16, 20], "score": 0.1},  # too unsure
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    cfg = config(**{"INPUT.FACE.BOXES": [f"{coco_set}={path}"]})
    loader = build_face_test_loader(cfg, str(coco_set), needs=needs())
    assert loader.manifest.boxes.tolist() == [[5, 7, 21, 27], [35, 6, 55, 26]]
    assert loader.manifest.labels.tolist() == [0, 1]
    path.write_text("{}[")
    with pytest.raises(DatasetError, match="not a COCO results file"):
        build_face_test_loader(cfg, str(coco_set), needs=needs())


def test_crops_at_the_border(write_csv, tmp_path, picture):
    Image.fromarray(picture(5, 40, 40)).save(tmp_path / "a.png")
    rows = [
        {"path": "a.png", "label": label, "x0": x, "y0": y, "x1": x + 20, "y1": y + 20}
        for label, x, y in (("real", -10, -5), ("fake", 30, 25), ("fake", 60, 60))
    ]
    loader = build_face_test_loader(config(), str(write_csv(rows)), needs=needs())
    (batch,) = list(loader)
    assert batch.images.shape == (2, 3, SIZE, SIZE)
    (error,) = [error for _, error in loader.skipped.values()]
    assert "outside" in str(error)
    assert "line 4" in str(error)


def test_needs_are_those_of_the_configured_method():
    import comics.modeling.faces  # noqa: F401  (fills the table of methods)

    cfg = config(**{"MODEL.FACE.ENCODER": "resnet10t", "MODEL.FACE.CROP_SIZE": 40})
    cfg.MODEL.FACE.METHOD = "CrossEntropy"
    assert FaceNeeds.from_config(cfg) == FaceNeeds((), False, 40)
    cfg.MODEL.FACE.CROSS_ENTROPY.MIXED = True
    assert FaceNeeds.from_config(cfg).views == ("strong",)
    cfg.MODEL.FACE.METHOD = "DCL"
    assert FaceNeeds.from_config(cfg) == FaceNeeds(("key", "paired_real"), True, 40)


def test_every_method_takes_its_batches(face_set, face_method):
    """The seam: what a method declares is what the loader makes, and a step runs on it."""
    import comics.modeling.faces
    from comics.registry import FACE_METHODS

    assert comics.modeling.faces
    cfg = config(face_set, **{"MODEL.FACE.ENCODER": "resnet10t", "MODEL.FACE.CROP_SIZE": 40})
    cfg.MODEL.FACE.METHOD = face_method
    cfg.MODEL.FACE.GUIDE_SPACE.NUM_DOMAINS = 2
    torch.manual_seed(0)
    built = FACE_METHODS.get(face_method).from_config(cfg)
    built.prepare_training()
    built.start_epoch(0)
    built.train()
    loader = build_face_train_loader(cfg, needs=FaceNeeds.of(built))
    for batch in first(loader, 2):
        losses = built(batch).losses
        assert losses
        assert all(bool(torch.isfinite(loss)) for loss in losses.values())


def test_small_faces_are_not_trained_on(make_multi_face_set):
    entry, sides = make_multi_face_set
    cfg = config(entry)
    everything = build_face_train_loader(cfg, needs=needs())
    cfg.INPUT.FACE.MIN_SIDE = 12
    large = build_face_train_loader(cfg, needs=needs())
    assert len(everything.order.groups) == len(sides)
    assert len(large.order.groups) == sum(side >= 12 for side in sides) < len(sides)
    cfg.INPUT.FACE.MIN_SIDE = 1000
    with pytest.raises(DatasetError):
        build_face_train_loader(cfg, needs=needs())


def test_whole_pictures_are_never_too_small(face_set):
    cfg = config(face_set)
    everything = len(build_face_train_loader(cfg, needs=needs()).order.groups)
    cfg.INPUT.FACE.MIN_SIDE = 1000
    assert len(build_face_train_loader(cfg, needs=needs()).order.groups) == everything


@pytest.fixture
def make_multi_face_set(tmp_path):
    """A COCO set whose faces have sides of 8, 12 and 16 pixels, real and fake; and the sides."""
    sides, annotations = [8, 12, 16, 8, 12, 16], []
    for number, side in enumerate(sides):
        box = [20 * number, 2, side, side + 3]
        annotations.append({"id": number + 1, "image_id": 1, "category_id": number // 3,
                            "bbox": box, "area": side * side, "iscrowd": 0,
                            "segmentation": [[box[0], 2, box[0] + side, 2, box[0] + side, side]],
                            "method": "swap" if number // 3 else None})  # fmt: skip
    Image.fromarray(np.zeros((40, 140, 3), np.uint8)).save(tmp_path / "a.png")
    content = {"images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 140}],
               "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
               "annotations": annotations}  # fmt: skip
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content))
    return path, sides
