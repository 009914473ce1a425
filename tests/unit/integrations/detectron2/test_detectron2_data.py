"""Sets in Detectron2's catalogs, the mapper, and our loaders behind Detectron2's interface."""

import logging
import os
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import (  # noqa: E402
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.structures import BoxMode  # noqa: E402

from comics.data.catalog import load_dataset  # noqa: E402
from comics.data.dataset import augment, read_record  # noqa: E402
from comics.data.images import ImageError  # noqa: E402
from comics.data.loader import build_train_loader  # noqa: E402
from comics.data.records import DatasetError, FaceAnnotation, ImageRecord  # noqa: E402
from comics.integrations.detectron2 import (  # noqa: E402
    ComicsDatasetMapper,
    load_config,
    register_datasets,
)
from comics.integrations.detectron2.data import (  # noqa: E402
    build_test_inputs,
    build_train_inputs,
    dict_to_record,
    record_to_dict,
    registered_files,
)
from comics.integrations.detectron2.instances import ground_truth_faces  # noqa: E402


@pytest.fixture
def config(face_set):
    """(KEY VALUE, ...) -> a configuration on a small set of pictures."""
    path = str(face_set())
    sets = [w for part in ("TRAIN", "VAL", "TEST") for w in (f"DATASETS.{part}", f"['{path}']")]

    def make(*more):
        return load_config(overrides=[
            "MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "COMICSBlendMask",
            "INPUT.MIN_SIZE_TRAIN", "[48, 64]", "INPUT.MIN_SIZE_TEST", "48",
            "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0", *sets, *more,
        ])  # fmt: skip

    return make


def assert_same_inputs(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, other[key]), key
            elif key == "instances":
                ours, theirs = ground_truth_faces(value), ground_truth_faces(other[key])
                assert torch.equal(ours.boxes, theirs.boxes)
                assert torch.equal(ours.masks, theirs.masks)
            else:
                assert value == other[key], key


def test_entries_are_in_the_catalogs(config):
    cfg = config()
    (entry,) = cfg.DATASETS.TRAIN
    register_datasets(cfg)
    register_datasets(cfg)  # again changes nothing
    items = DatasetCatalog.get(entry)
    records = load_dataset(entry, cfg.DATASETS.ROOT)
    assert [item["file_name"] for item in items] == [str(record.path) for record in records]
    assert [len(item["annotations"]) for item in items] == [2] * 4
    metadata = MetadataCatalog.get(entry)
    assert metadata.thing_classes == ["Real", "Fake"]
    assert metadata.thing_dataset_id_to_contiguous_id == {0: 0, 1: 1}
    assert str(registered_files(entry).annotations) == metadata.json_file == entry


def test_named_set_follows_its_root(config, tmp_path, face_set, monkeypatch):
    source = face_set(folder="source")
    for folder in ("one", "two"):
        place = tmp_path / folder / "OpenForensics"
        place.mkdir(parents=True)
        shutil.copy(source, place / "Train_poly.json")
        cfg = config("DATASETS.ROOT", str(tmp_path / folder), "DATASETS.TRAIN",
                     "['openforensics_train']")  # fmt: skip
        monkeypatch.delenv("COMICS_DATASETS", raising=False)
        register_datasets(cfg)
        assert registered_files("openforensics_train").image_root == place
    DatasetCatalog.remove("openforensics_train")
    MetadataCatalog.remove("openforensics_train")


def test_absent_set_is_named(config):
    with pytest.raises(DatasetError, match="absent.json"):
        register_datasets(config("DATASETS.TRAIN", "['absent.json']"))
    MetadataCatalog.get("mine_without_files")
    with pytest.raises(DatasetError, match="'mine_without_files' is not registered with COCO"):
        registered_files("mine_without_files")


def test_records_survive_the_way_through_detectron2s_form():
    record = ImageRecord(7, "a/b.png", "/root", 20, 30, (
        FaceAnnotation(3, (1.0, 2.0, 11.0, 12.0), 1, [[1.0, 2.0, 11.0, 2.0, 11.0, 12.0]]),
        FaceAnnotation(4, (5.0, 5.0, 9.0, 9.0), 0, None),
        FaceAnnotation(5, (0.0, 0.0, 4.0, 4.0), 0,
                       {"size": [20, 30], "counts": [0, 5, 595]}, iscrowd=False),
        FaceAnnotation(6, (0.0, 0.0, 30.0, 20.0), 0, None, iscrowd=True),
    ))  # fmt: skip
    again = dict_to_record(record_to_dict(record))
    assert (again.path, again.height, again.width) == (record.path, 20, 30)
    assert again.image_id == 7 and len(again.targets) == 3
    before, after = record.ground_truth(), again.ground_truth()
    assert torch.equal(before.boxes, after.boxes) and torch.equal(before.labels, after.labels)
    assert torch.equal(before.masks, after.masks)
    item = record_to_dict(record)
    item["annotations"][0].update(bbox=[1.0, 2.0, 10.0, 10.0], bbox_mode=BoxMode.XYWH_ABS)
    assert torch.equal(dict_to_record(item).ground_truth().boxes, before.boxes)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_mapper_makes_our_samples(config, image_format):
    cfg = config("INPUT.FORMAT", image_format)
    register_datasets(cfg)
    item = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[1]
    mapper = ComicsDatasetMapper(cfg)
    torch.manual_seed(3)
    found = mapper(item)
    torch.manual_seed(3)
    rng = np.random.default_rng(int(torch.randint(2**63 - 1, ())))
    record = dict_to_record(item)
    sample = augment([(record, read_record(record))], rng, geometry=mapper.geometry,
                     view=mapper.view, with_masks=True, with_key_view=True)  # fmt: skip
    flip = (lambda x: x.flip(0)) if image_format == "BGR" else (lambda x: x)
    assert torch.equal(flip(found["image"]), sample.image)
    assert torch.equal(flip(found["key_image"]), sample.key_image)
    assert not torch.equal(found["image"], found["key_image"])
    assert torch.equal(found["instances"].gt_masks.tensor, sample.faces.masks)
    assert (found["height"], found["width"]) == (64, 96)
    testing = ComicsDatasetMapper(cfg, is_train=False)(item)
    assert testing["image"].shape == (3, 48, 72) and "instances" not in testing
    assert "key_image" not in ComicsDatasetMapper(config("MODEL.META_ARCHITECTURE", "FCOS"))(item)


def test_squares_of_several_photos_come_from_our_loader_only(config):
    cfg = config("INPUT.MOSAIC.SIZE", "40", "INPUT.MOSAIC.PROB", "1.0")
    with pytest.raises(ValueError, match="INPUT.MOSAIC.SIZE is 40.*build_train_inputs"):
        ComicsDatasetMapper(cfg)
    register_datasets(cfg)
    item = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[0]
    assert ComicsDatasetMapper(cfg, is_train=False)(item)["image"].shape != (3, 40, 40)
    batch = next(iter(build_train_inputs(cfg)))
    assert all(item["image"].shape == (3, 40, 40) for item in batch)


def test_mapper_and_an_unreadable_image(config, tmp_path, caplog):
    cfg = config()
    register_datasets(cfg)
    item = dict(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[0])
    item["file_name"] = str(tmp_path / "broken.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        assert ComicsDatasetMapper(cfg)(item) is None
    assert "broken.png" in caplog.text
    with pytest.raises(ImageError, match="broken.png"):
        ComicsDatasetMapper(cfg, is_train=False)(item)


def test_detectron2s_loaders_take_our_sets_and_mapper(config):
    cfg = config()
    register_datasets(cfg)
    batch = next(iter(build_detection_train_loader(cfg, mapper=ComicsDatasetMapper(cfg))))
    assert len(batch) == 2 and all("key_image" in item for item in batch)
    (entry,) = cfg.DATASETS.TEST
    theirs = DatasetMapper(cfg, is_train=False)
    assert len(list(build_detection_test_loader(cfg, entry, mapper=theirs))) == 4
    with_masks = cfg.clone()
    with_masks.defrost()
    with_masks.INPUT.CROP.ENABLED = False
    item = DatasetMapper(with_masks, is_train=True)(dict(DatasetCatalog.get(entry)[0]))
    assert len(item["instances"]) == 2 and item["instances"].has("gt_masks")


def test_our_loader_hands_out_the_native_runtimes_batches(config):
    cfg = config("INPUT.FORMAT", "BGR")
    inputs, native = build_train_inputs(cfg, 3), build_train_loader(cfg, 3)
    for found, batch in zip(inputs, native, strict=False):
        assert [item["image_id"] for item in found] == batch.image_ids
        for position, item in enumerate(found):
            assert torch.equal(item["image"].flip(0), batch.images[position])
            assert torch.equal(item["key_image"].flip(0), batch.key_images[position])
            assert torch.equal(item["instances"].gt_boxes.tensor, batch.targets[position].boxes)
        break


def test_test_inputs_leave_broken_images_out(config):
    cfg = config()
    entry = cfg.DATASETS.TEST[0]
    broken = os.path.join(os.path.dirname(entry), "2.png")
    with open(broken, "wb") as file:
        file.write(b"no picture")
    inputs = build_test_inputs(cfg, entry)
    found = [item for batch in inputs for item in batch]
    assert len(inputs) == 4 and [item["image_id"] for item in found] == [0, 1, 3]
    assert list(inputs.loader.skipped) == [broken]
    assert all("instances" not in item for item in found)
