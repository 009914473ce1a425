"""Our figures as a ``DatasetEvaluator``."""

import json

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402
from detectron2.evaluation import COCOEvaluator, inference_on_dataset  # noqa: E402
from detectron2.structures import Boxes, Instances  # noqa: E402

from comics.data.catalog import dataset_files, load_dataset  # noqa: E402
from comics.evaluation import evaluate  # noqa: E402
from comics.integrations.detectron2.data import register_faces  # noqa: E402
from comics.integrations.detectron2.evaluator import ComicsEvaluator  # noqa: E402


@pytest.fixture
def entry(face_set):
    name = "faces_to_measure"
    register_faces(name, dataset_files(str(face_set()), ""))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def predictions(entry, seed=0):
    """Inputs, and detections: each face jittered, some of the wrong class, one missed."""
    generator = torch.Generator().manual_seed(seed)
    inputs, outputs = [], []
    for record in load_dataset(MetadataCatalog.get(entry).json_file, ""):
        faces = record.ground_truth()
        found = Instances(faces.image_size)
        found.pred_boxes = Boxes(faces.boxes + torch.randn(2, 4, generator=generator))
        found.pred_masks = faces.masks.roll(record.image_id, dims=2)
        found.scores = torch.rand(2, generator=generator)
        wrong = torch.rand(2, generator=generator) < 0.2
        found.pred_classes = torch.where(wrong, 1 - faces.labels, faces.labels)
        inputs.append({"image_id": record.image_id, "file_name": str(record.path)})
        outputs.append({"instances": found[: 2 - record.image_id % 2]})
    return inputs, outputs


class Recorded(torch.nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.outputs = dict(enumerate(outputs))

    def forward(self, batch):
        return [self.outputs[item["image_id"]] for item in batch]


def test_figures_are_those_of_the_results_file(entry, tmp_path):
    inputs, outputs = predictions(entry)
    evaluator = ComicsEvaluator(entry, ["bbox", "segm"], tmp_path, 0.05)
    found = inference_on_dataset(Recorded(outputs), [[item] for item in inputs], evaluator)
    path = tmp_path / "inference" / "faces_to_measure.json"
    assert evaluator.results == path
    expected = evaluate(MetadataCatalog.get(entry).json_file, path).flat()
    flat = {f"{task}/{k}": v for task, values in found.items() for k, v in values.items()}
    assert set(found) == {"bbox", "segm", "face"}
    for name, value in expected.items():
        assert flat[name] == pytest.approx(value, nan_ok=True), name
    assert 0 < flat["bbox/AP"] < 1 and 0 < flat["bbox/oLRP"] < 1
    assert 0 <= flat["face/AUC"] <= 1 and flat["face/faces_found"] < 1


def test_ap_is_detectron2s(entry, tmp_path):
    inputs, outputs = predictions(entry, seed=1)
    batches = [[item] for item in inputs]
    ours = inference_on_dataset(
        Recorded(outputs), batches, ComicsEvaluator(entry, ["bbox", "segm"], tmp_path, 0.05)
    )
    theirs = inference_on_dataset(
        Recorded(outputs),
        batches,
        COCOEvaluator(entry, ("bbox", "segm"), output_dir=str(tmp_path), use_fast_impl=False),
    )
    for task in ("bbox", "segm"):
        for name in ("AP", "AP50", "AP75"):
            assert 100 * ours[task][name] == pytest.approx(theirs[task][name], abs=1e-6)


def test_an_image_that_comes_twice_counts_once_and_reset_forgets(entry, tmp_path):
    inputs, outputs = predictions(entry)
    evaluator = ComicsEvaluator(entry, ["bbox"], tmp_path, 0.05)
    evaluator.reset()
    evaluator.process(inputs[:1], outputs[:1])
    evaluator.reset()
    for _ in range(2):
        evaluator.process(inputs, outputs)
    evaluator.evaluate()
    written = json.loads(evaluator.results.read_text())
    assert len(written) == sum(len(one["instances"]) for one in outputs)


def test_number_that_is_not_finite_names_the_image(entry, tmp_path):
    inputs, outputs = predictions(entry)
    outputs[1]["instances"].scores[0] = float("nan")
    evaluator = ComicsEvaluator(entry, ["bbox"], tmp_path, 0.05)
    evaluator.reset()
    with pytest.raises(ValueError, match=r"1.png \(image 1\)"):
        evaluator.process(inputs, outputs)


def test_no_detection_at_all_has_no_face_figures(entry, tmp_path):
    inputs, outputs = predictions(entry)
    evaluator = ComicsEvaluator(entry, ["bbox"], tmp_path, 0.05)
    evaluator.reset()
    evaluator.process(inputs, [{"instances": one["instances"][:0]} for one in outputs])
    found = evaluator.evaluate()
    assert found["face"] == {} and found["bbox"]["AP"] == 0
