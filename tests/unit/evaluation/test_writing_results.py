"""Results go to disk as they come: whole or not at all, and from several processes."""

import json
import multiprocessing
import os

import numpy as np
import pytest
import torch
from torch import distributed, nn

from comics.evaluation import ResultsWriter
from comics.evaluation.runner import predict_to_file
from comics.structures import DetectionBatch, Faces

ENTRY = {"image_id": 1, "category_id": 0, "score": 0.5, "bbox": [0.0, 0.0, 1.0, 1.0]}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_list_of_entries(tmp_path, count):
    path = tmp_path / "new" / "results.json"
    entries = [ENTRY | {"image_id": i} for i in range(count)]
    with ResultsWriter(path) as writer:
        for entry in entries:
            writer.write([entry])
        assert not path.exists()
    assert json.loads(path.read_text()) == entries
    assert os.listdir(path.parent) == ["results.json"]


def test_an_interrupted_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("[]")
    with pytest.raises(RuntimeError), ResultsWriter(path) as writer:
        writer.write([ENTRY])
        raise RuntimeError
    assert path.read_text() == "[]" and os.listdir(tmp_path) == ["results.json"]


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"), ResultsWriter(tmp_path / "r.json") as writer:
        writer.write([ENTRY | {"score": float("nan")}])


class Constant(nn.Module):
    """Finds two faces in every image; the second is as wide as the image's first pixel says."""

    def forward(self, images, output_sizes):
        return [self.faces(image, size) for image, size in zip(images, output_sizes, strict=True)]

    def faces(self, image, size):
        assert not self.training and not torch.is_grad_enabled()
        masks = torch.zeros(2, *size, dtype=torch.bool)
        masks[:, 1:4, 2:5] = True
        width = float(image[0, 0, 0])
        boxes = torch.tensor([[2.0, 1.0, 5.0, 4.0], [0.0, 0.0, width, 4.0]])
        return Faces(boxes, size, torch.tensor([0, 1]), torch.tensor([0.9, width / 10]), masks)


def batches(ids):
    for first in range(0, len(ids), 2):
        some = ids[first : first + 2]
        images = [torch.full((3, 8, 8), i % 10, dtype=torch.uint8) for i in some]
        yield DetectionBatch(
            images, [], None, some, [f"{i}.png" for i in some], [(16, 20)] * len(some)
        )


def test_predictions_in_the_coordinates_of_the_original(tmp_path):
    path = tmp_path / "results.json"
    model = Constant().train()
    predict_to_file(model, batches([3, 5, 4]), path, category_ids=(7, 2), progress=False)
    entries = json.loads(path.read_text())
    assert [e["image_id"] for e in entries] == [3, 3, 5, 5, 4, 4]
    assert [e["category_id"] for e in entries] == [7, 2] * 3
    assert entries[3]["bbox"] == [0, 0, 5, 4] and entries[3]["score"] == pytest.approx(0.5)
    assert entries[0]["segmentation"]["size"] == [16, 20]
    assert model.training


def test_a_detection_that_is_not_finite_names_the_image(tmp_path):
    class Broken(Constant):
        def faces(self, image, size):
            scores = torch.tensor([float("nan")])
            return Faces(torch.zeros(1, 4), size, torch.tensor([0]), scores)

    with pytest.raises(ValueError, match=r"3\.png \(image 3\)"):
        predict_to_file(Broken(), batches([3]), tmp_path / "r.json", progress=False)
    assert not list(tmp_path.iterdir())


def run_rank(rank, port, path):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    ids = [[1, 2, 3], [4, 5, 1]][rank]  # image 1 is given to both, as padding samplers do
    predict_to_file(Constant(), batches(ids), path, progress=False)
    assert path.exists()
    distributed.destroy_process_group()


def test_two_processes_make_one_file(tmp_path, unused_port):
    path = tmp_path / "results.json"
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=run_rank, args=(r, unused_port, path)) for r in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    entries = json.loads(path.read_text())
    assert [e["image_id"] for e in entries] == list(np.repeat([1, 2, 3, 4, 5], 2))
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
