"""Order, augmentation, ranks, resuming, broken images."""

import itertools
import logging
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from comics.config import get_cfg
from comics.data.dataset import PackedRecords, tolerated_broken
from comics.data.loader import (
    TrainingOrder,
    TrainingSampler,
    build_test_loader,
    build_train_loader,
    needs_key_view,
)
from comics.data.records import DatasetError, FaceAnnotation, ImageRecord


def take(loader, count):
    return list(itertools.islice(iter(loader), count))


def fingerprint(batch):
    """Everything that a step sees, as bytes."""
    tensors = batch.images + (batch.key_images or [])
    tensors += [t for faces in batch.targets for t in (faces.boxes, faces.labels, faces.masks)]
    return batch.image_ids, batch.file_names, [t.numpy().tobytes() for t in tensors]


def orders():
    return st.builds(
        lambda seed, size, tall: TrainingOrder(seed, size, np.array(tall)),
        st.integers(0, 100),
        st.integers(1, 6),
        st.lists(st.integers(0, 1), min_size=1, max_size=20),
    )


@given(order=orders(), epoch=st.integers(0, 5))
def test_an_epoch_uses_each_image_once_as_far_as_batches_allow(order, epoch):
    batches = order.epoch(epoch)
    images, size = len(order.groups), order.batch_size
    assert batches.shape == (max(1, images // size), size)
    times = np.bincount(batches.ravel(), minlength=images)
    if images >= size:
        assert times.max() <= 1
    else:
        assert times.max() - times.min() <= 1  # repeated evenly to fill the one batch
    mixed = sum(len(set(order.groups[batch])) > 1 for batch in batches)
    assert mixed <= 1


@given(order=orders(), start=st.integers(0, 30))
def test_the_order_can_be_entered_anywhere(order, start):
    from_start = list(itertools.islice(order.batches_from(0), start + 6))
    from_there = list(itertools.islice(order.batches_from(start), 6))
    assert np.array_equal(from_start[start:], from_there)


def test_epochs_and_seeds_differ():
    groups = np.zeros(50, dtype=np.int64)
    order, other = TrainingOrder(0, 5, groups), TrainingOrder(1, 5, groups)
    assert not np.array_equal(order.epoch(0), order.epoch(1))
    assert not np.array_equal(order.epoch(0), other.epoch(0))


@given(order=orders(), world=st.integers(1, 3), pieces=st.integers(1, 2), start=st.integers(0, 9))
def test_ranks_and_pieces_make_up_the_global_batch(order, world, pieces, start):
    order = TrainingOrder(order.seed, order.batch_size * world * pieces, order.groups)
    whole = list(itertools.islice(TrainingSampler(order, start), 4))
    parts = [
        list(itertools.islice(TrainingSampler(order, start, r, world, pieces), 4 * pieces))
        for r in range(world)
    ]
    for step, expected in enumerate(whole):
        handed = [key for part in parts for p in range(pieces) for key in part[step * pieces + p]]
        assert handed == expected
        positions = [position for position, _ in handed]
        first = (start + step) * order.batch_size
        assert positions == list(range(first, first + order.batch_size))


def test_batches_that_cannot_be_divided():
    order = TrainingOrder(0, 6, np.zeros(9, dtype=np.int64))
    with pytest.raises(ValueError, match="IMS_PER_BATCH 6 is not divisible by 2 processes x .* 2"):
        TrainingSampler(order, world_size=2, accumulate=2)


def test_what_a_batch_holds(make_set, configure):
    loader = build_train_loader(configure(make_set(9)))
    for batch in take(loader, 4):
        assert len(batch) == 4
        shapes = [tuple(image.shape[1:]) for image in batch.images]
        assert all(image.dtype == torch.uint8 and image.shape[0] == 3 for image in batch.images)
        assert all(min(shape) in (24, 28) for shape in shapes)
        assert [faces.image_size for faces in batch.targets] == shapes
        assert [tuple(key.shape[1:]) for key in batch.key_images] == shapes
        assert [size for size in batch.original_sizes if size not in ((32, 48), (48, 32))] == []
        for faces in batch.targets:
            assert sorted(faces.labels.tolist()) == [0, 1]
            assert faces.masks.is_contiguous()
            assert faces.scores is None
    assert loader.iterations_per_epoch == 2


def test_batches_are_pinned_for_a_gpu_alone(make_set, configure, monkeypatch):
    source = make_set(4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device, pinned in (("auto", True), ("cuda:1", True), ("cpu", False)):
        loader = build_train_loader(configure(source, MODEL__DEVICE=device))
        assert loader._loader.pin_memory == pinned, device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not build_train_loader(configure(source, MODEL__DEVICE="auto"))._loader.pin_memory


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(make_set, configure, workers):
    source = make_set(7)
    alone = take(build_train_loader(configure(source)), 5)
    helped = take(build_train_loader(configure(source, DATALOADER__NUM_WORKERS=workers)), 5)
    assert [fingerprint(b) for b in alone] == [fingerprint(b) for b in helped]


def test_resuming_goes_on_exactly(make_set, configure):
    source = make_set(7)
    whole = take(build_train_loader(configure(source)), 7)
    rest = take(build_train_loader(configure(source), start_iteration=3), 4)
    assert [fingerprint(b) for b in whole[3:]] == [fingerprint(b) for b in rest]


def test_loading_does_not_move_the_global_generators(make_set, configure):
    state = torch.get_rng_state()
    take(build_train_loader(configure(make_set(5), DATALOADER__NUM_WORKERS=1)), 2)
    assert torch.equal(state, torch.get_rng_state())


def test_two_ranks_share_each_global_batch(make_set, configure):
    source = make_set(8)
    whole = take(build_train_loader(configure(source)), 4)
    ranks = [take(build_train_loader(configure(source), rank=r, world_size=2), 4) for r in (0, 1)]
    for batch, first, second in zip(whole, *ranks, strict=True):
        assert not set(first.image_ids) & set(second.image_ids)
        parts = [fingerprint(first), fingerprint(second)]
        assert batch.image_ids == parts[0][0] + parts[1][0]
        assert torch.equal(batch.images[2], second.images[0])


def test_accumulation_hands_over_pieces(make_set, configure):
    source = make_set(8)
    whole = take(build_train_loader(configure(source)), 3)
    pieces = take(build_train_loader(configure(source, SOLVER__ACCUMULATE=2)), 6)
    assert [b.image_ids for b in whole] == [
        a.image_ids + b.image_ids for a, b in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def test_augmentation_differs_from_epoch_to_epoch_and_with_the_seed(make_set, configure):
    source = make_set(4)
    first, second = take(build_train_loader(configure(source)), 2)
    assert sorted(first.image_ids) == sorted(second.image_ids)
    assert sorted(fingerprint(first)[2]) != sorted(fingerprint(second)[2])
    other = take(build_train_loader(configure(source, SEED=1)), 1)[0]
    assert fingerprint(other) != fingerprint(first)


def test_views(make_set, configure):
    source = make_set(4)
    two = take(build_train_loader(configure(source)), 2)
    assert any(
        not torch.equal(q, k)
        for batch in two
        for q, k in zip(batch.images, batch.key_images, strict=True)
    )
    plain = configure(source, INPUT__VIEWS__ENABLED=False)
    for batch in take(build_train_loader(plain), 2):
        assert all(torch.equal(q, k) for q, k in zip(batch.images, batch.key_images, strict=True))
    for off in (
        {"MODEL__COMICS__PROPOSAL__ENABLED": False},
        {"MODEL__META_ARCHITECTURE": "BlendMask"},
    ):
        cfg = configure(source, **off)
        assert not needs_key_view(cfg)
        (single,) = take(build_train_loader(cfg), 1)
        assert single.key_images is None
        # The first view is the same with or without the second
        assert single.image_ids == two[0].image_ids
        assert torch.equal(single.images[0], two[0].images[0])


def test_masks_only_where_the_model_has_them(make_set, configure):
    (batch,) = take(build_train_loader(configure(make_set(4), MODEL__MASK_ON=False)), 1)
    assert all(faces.masks is None for faces in batch.targets)


def test_aspect_ratio_grouping(make_set, configure):
    source = make_set(24)  # 8 portraits, 16 landscapes
    for batch in take(build_train_loader(configure(source)), 12):
        assert len({h > w for h, w in batch.original_sizes}) == 1
    mixed = take(build_train_loader(configure(source, DATALOADER__ASPECT_RATIO_GROUPING=False)), 12)
    assert any(len({h > w for h, w in batch.original_sizes}) == 2 for batch in mixed)


def test_images_without_faces(coco, write_set, configure):
    coco["images"].append({"id": 5, "file_name": "b.png", "width": 30, "height": 30})
    source = write_set(coco)
    filtered = take(build_train_loader(configure(source)), 2)
    assert {i for batch in filtered for i in batch.image_ids} == {0}
    kept = take(
        build_train_loader(configure(source, DATALOADER__FILTER_EMPTY_ANNOTATIONS=False)), 2
    )
    targets = {i: f for b in kept for i, f in zip(b.image_ids, b.targets, strict=True)}
    assert len(targets[5]) == 0
    assert targets[5].masks.shape[0] == 0
    coco["annotations"] = []
    for filter_empty in (True, False):
        cfg = configure(write_set(coco), DATALOADER__FILTER_EMPTY_ANNOTATIONS=filter_empty)
        with pytest.raises(DatasetError, match=r"set\.json: none of 2 images has a face"):
            build_train_loader(cfg)


def test_no_dataset_at_all(configure):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = []
    with pytest.raises(DatasetError, match="DATASETS.TRAIN"):
        build_train_loader(cfg)


def test_several_sets_train_together(make_set, coco, configure, tmp_path):
    source = make_set(4)
    other = tmp_path / "other.json"
    other.write_text(source.read_text())
    cfg = configure(source)
    cfg.DATASETS.TRAIN = [str(source), str(other)]
    assert build_train_loader(cfg).iterations_per_epoch == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_replaced_and_warned_of_once(
    make_set, configure, tmp_path, caplog, workers
):
    source = make_set(6)
    (tmp_path / "images/002.png").unlink()
    (tmp_path / "images/004.png").write_bytes(b"nothing")
    loader = build_train_loader(configure(source, DATALOADER__NUM_WORKERS=workers))
    with caplog.at_level(logging.WARNING):
        batches = take(loader, 6)
    assert {i for b in batches for i in b.image_ids} == {0, 1, 3, 5}
    assert all(len(b) == 4 for b in batches)
    messages = [r.getMessage() for r in caplog.records if "replaced" in r.getMessage()]
    assert sorted(m.split(",")[0] for m in messages) == ["image 2", "image 4"]
    assert "002.png" in messages[0] + messages[1]
    assert {path[-7:] for path in loader.broken} == {"002.png", "004.png"}


def test_the_replacement_depends_on_the_set_alone(make_set, configure, tmp_path):
    source = make_set(6)
    (tmp_path / "images/002.png").unlink()
    runs = [
        take(build_train_loader(configure(source, DATALOADER__NUM_WORKERS=workers)), 4)
        for workers in (0, 2)
    ]
    assert [fingerprint(b) for b in runs[0]] == [fingerprint(b) for b in runs[1]]


def test_an_image_of_another_size_is_broken(make_set, configure, tmp_path):
    source = make_set(4)
    (tmp_path / "images/001.png").write_bytes((tmp_path / "images/000.png").read_bytes())
    loader = build_train_loader(configure(source))
    take(loader, 2)
    ((image_id, error),) = loader.broken.values()
    assert image_id == 1
    assert "32 x 48, the annotations say 48 x 32" in str(error)


def test_too_many_broken_images_end_the_run(make_set, configure, tmp_path):
    count = 3 * tolerated_broken(0)
    source = make_set(count)
    for number in range(0, count, 2):  # one in two: never many in a row
        (tmp_path / f"images/{number:03d}.png").unlink()
    with pytest.raises(DatasetError, match=r"of 24 images cannot be used[\s\S]*\.png: no such"):
        take(build_train_loader(configure(source)), 20)


@pytest.mark.parametrize("workers", [0, 1])
def test_no_readable_image_at_all(coco, write_set, configure, workers):
    source = write_set(coco, images=False)
    loader = build_train_loader(configure(source, DATALOADER__NUM_WORKERS=workers))
    with pytest.raises(DatasetError, match=r"1 of 1 images cannot be used[\s\S]*image 0.*a\.png"):
        take(loader, 1)


@pytest.mark.parametrize(("images", "tolerated"), [(0, 8), (800, 8), (900, 9), (44_122, 441)])
def test_tolerated_broken_images(images, tolerated):
    assert tolerated_broken(images) == tolerated


@pytest.mark.parametrize("workers", [0, 2])
def test_test_loader(make_set, configure, workers, tmp_path, caplog):
    source = make_set(5)
    (tmp_path / "images/003.png").write_bytes(b"nothing")
    cfg = configure(source, DATALOADER__NUM_WORKERS=workers, TEST__IMS_PER_BATCH=2)
    loader = build_test_loader(cfg, str(source), with_masks=True)
    for _ in range(2):  # it can be walked again
        batches = list(loader)
        assert [b.image_ids for b in batches] == [[0, 1], [2], [4]]
        ((image_id, error),) = loader.skipped.values()
        assert image_id == 3
        assert error.path.endswith("003.png")
    assert "003.png" in caplog.text
    first = batches[0]
    assert first.original_sizes == [(48, 32), (32, 48)]
    assert first.images[1].shape == (3, 24, 36)
    assert first.key_images is None
    assert torch.allclose(first.targets[1].boxes[0], torch.tensor([3, 5, 14, 18]) * 0.75)
    assert first.targets[1].masks.shape == (2, 24, 36)


def test_test_batches_of_broken_images_only_are_left_out(make_set, configure, tmp_path):
    source = make_set(3)
    (tmp_path / "images/001.png").unlink()
    loader = build_test_loader(configure(source), str(source))
    assert [b.image_ids for b in loader] == [[0], [2]]
    assert next(iter(loader)).targets[0].masks is None


def test_test_ranks_cover_the_set_once(make_set, configure):
    source = make_set(5)
    cfg = configure(source)
    seen = [
        [i for b in build_test_loader(cfg, str(source), rank, 3) for i in b.image_ids]
        for rank in range(3)
    ]
    assert seen == [[0, 3], [1, 4], [2]]
    assert list(build_test_loader(cfg, str(source), rank=6, world_size=7)) == []


def test_testing_needs_an_image(coco, write_set, configure):
    source = write_set({**coco, "images": [], "annotations": []})
    with pytest.raises(DatasetError, match="no image to test on"):
        build_test_loader(configure(source), str(source))


def test_packed_records():
    face = FaceAnnotation(0, (0.0, 1.0, 2.0, 3.0), 1, [[0, 0, 2, 0, 2, 3]], False)
    records = [ImageRecord(i, f"{i}.png", "r", 4, 5, (face,) * i) for i in range(7)]
    packed = PackedRecords(records)
    assert list(packed) == records
    assert list(pickle.loads(pickle.dumps(packed))) == records  # workers may be spawned
    assert len(PackedRecords([])) == 0
    with pytest.raises(IndexError):
        packed[7]
