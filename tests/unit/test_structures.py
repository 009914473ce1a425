import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from comics.data.dataset import LoadedBatch
from comics.structures import DetectionBatch, FaceBatch, Faces


def make(count: int, size=(6, 8)) -> Faces:
    return Faces(
        boxes=torch.arange(count * 4, dtype=torch.float32).view(count, 4),
        image_size=size,
        labels=torch.arange(count) % 2,
        scores=torch.linspace(0, 1, count),
        masks=torch.rand(count, *size) > 0.5,
    )


@given(st.integers(0, 6), st.data())
def test_selection_selects_every_field(count, data):
    faces = make(count)
    keep = data.draw(st.lists(st.integers(0, count - 1), max_size=5)) if count else []
    chosen = faces[keep]
    assert len(chosen) == len(keep)
    for position, source in enumerate(keep):
        assert torch.equal(chosen.boxes[position], faces.boxes[source])
        assert chosen.labels[position] == faces.labels[source]
        assert chosen.scores[position] == faces.scores[source]
        assert torch.equal(chosen.masks[position], faces.masks[source])
    assert chosen.fake_probability is None


def test_selection_by_bool_tensor_and_slice():
    faces = make(4)
    assert faces[faces.labels == 1].labels.tolist() == [1, 1]
    assert len(faces[1:3]) == 2
    with pytest.raises(TypeError, match=r"faces\[\[i\]\]"):
        faces[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.zeros(2, 5)}, "boxes must be"),
        ({"boxes": torch.zeros(2, 4, dtype=torch.int64)}, "floating point"),
        ({"labels": torch.zeros(2)}, "labels must be int64"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels must be int64"),
        ({"scores": torch.zeros(1)}, "scores must be"),
        ({"masks": torch.zeros(2, 6, 8)}, "masks must be bool"),
        ({"masks": torch.zeros(2, 6, 9, dtype=torch.bool)}, "masks must be bool"),
        ({"fake_probability": torch.zeros(2, 1)}, "fake_probability must be"),
    ],
)
def test_a_wrong_field_is_named(change, message):
    good = {
        "boxes": torch.zeros(2, 4),
        "image_size": (6, 8),
        "labels": torch.zeros(2, dtype=torch.int64),
    }
    with pytest.raises(ValueError, match=message):
        Faces(**{**good, **change})


def test_empty():
    faces = Faces.empty((3, 5))
    assert len(faces) == 0
    assert faces.masks.shape == (0, 3, 5)
    assert Faces.empty((3, 5), with_masks=False).masks is None


def test_batch_moves_everything():
    batch = DetectionBatch(
        [torch.zeros(3, 6, 8)], [make(1)], [torch.ones(3, 6, 8)], [0], ["a"], [(6, 8)]
    )
    moved = batch.to("meta")
    assert {moved.images[0].device.type, moved.key_images[0].device.type} == {"meta"}
    assert moved.targets[0].masks.device.type == "meta"
    assert (len(moved), moved.file_names) == (1, ["a"])


def test_every_tensor_of_a_batch_is_pinned(monkeypatch):
    """What a loader hands to a GPU; without one PyTorch has no such memory, so it is only told."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    faces = make(2)
    image = torch.zeros(3, 6, 8, dtype=torch.uint8)
    batch = DetectionBatch([image], [faces], [image + 1], [7], ["a.png"], [(6, 8)])
    assert batch.pin_memory() == batch
    assert len(pinned) == 2 + 4  # two views; boxes, labels, scores and masks
    loaded = LoadedBatch(batch, [])
    assert loaded.pin_memory().batch.images[0] is image
    assert LoadedBatch(None, []).pin_memory().batch is None
    pinned.clear()
    numbers = torch.arange(1)
    crops = FaceBatch(
        image[None], numbers, {"key": image[None]}, {"key": numbers > 0}, None,
        numbers, numbers, numbers, numbers, numbers, ["a.png"],
    )  # fmt: skip
    assert crops.pin_memory().file_names == ["a.png"]
    assert len(pinned) == 9
