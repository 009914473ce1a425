import hashlib
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from comics.inference.placement import to_original
from comics.inference.predictor import Predictor
from comics.inference.verdict import VerdictRule
from comics.modeling.build import build_model
from comics.modeling.weights import save_weights
from comics.structures import FAKE, REAL, Faces


@pytest.fixture(scope="module")
def model_file(tmp_path_factory, finding_config):
    torch.manual_seed(0)
    cfg = finding_config("BlendMask")
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_weights(path, build_model(cfg).state_dict(), cfg, {"iteration": "7", "version": "1"})
    return path


class PatchDetector(nn.Module):
    """Finds the pixels that are brighter than half; both classes, Fake with less score."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, images):
        self.sizes.append([tuple(image.shape) for image in images])
        assert all(image.dtype == torch.uint8 for image in images)
        assert torch.is_inference_mode_enabled()
        return [self._find(image) for image in images]

    def _find(self, image):
        mask = image.float().mean(0) > 127
        rows, columns = torch.nonzero(mask.any(1))[:, 0], torch.nonzero(mask.any(0))[:, 0]
        size = (image.shape[1], image.shape[2])
        if not len(rows):
            return Faces.empty(size)
        box = torch.tensor([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]).float()
        return Faces(
            torch.cat([box, box]), size, torch.tensor([FAKE, REAL]), torch.tensor([0.3, 0.6]),
            torch.stack([mask, mask]),
        )  # fmt: skip


def patch_predictor(**options):
    options = {"min_size": 50, "max_size": 80, "max_pixels": 10**6} | options
    return Predictor(PatchDetector(), VerdictRule(), **options)


def picture(height, width, box):
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


@pytest.mark.parametrize("shape", [(200, 300), (301, 100), (20, 31), (50, 60)])
def test_answers_are_in_the_coordinates_of_the_original(shape):
    height, width = shape
    box = [width // 5, height // 4, width * 3 // 5, height * 3 // 4]
    faces = patch_predictor().predict([picture(height, width, box)])[0]
    assert faces.image_size == shape
    pixel = max(height, width) / 50  # the model sees 50 to 80 pixels
    assert faces.boxes[0].tolist() == pytest.approx(box, abs=pixel)
    truth = torch.zeros(shape, dtype=torch.bool)
    truth[box[1] : box[3], box[0] : box[2]] = True
    mask = faces.masks[0]
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85
    assert faces.fake_probability.tolist() == pytest.approx([1 / 3])
    assert faces.labels.tolist() == [REAL]


def test_images_are_resized_by_the_short_and_long_side():
    predictor = patch_predictor(min_size=50, max_size=80)
    predictor.predict([np.zeros((100, 120, 3), np.uint8), np.zeros((300, 100, 3), np.uint8)])
    # Each alone: an image must not be padded to the size of another
    assert predictor.model.sizes == [[(3, 50, 60)], [(3, 80, 27)]]


def test_arrays_and_tensors_give_the_same():
    image = picture(100, 120, (10, 20, 60, 90))
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    first, second = patch_predictor().predict([image, tensor])
    assert torch.equal(first.boxes, second.boxes) and torch.equal(first.masks, second.masks)


def test_one_answer_per_image_in_order():
    images = [picture(60, 60, (0, 0, 30, 30)), np.zeros((40, 50, 3), np.uint8)]
    found = patch_predictor().predict(images)
    assert [len(faces) for faces in found] == [1, 0]
    assert found[1].image_size == (40, 50) and found[1].masks.shape == (0, 40, 50)
    assert found[1].fake_probability.shape == (0,)
    assert patch_predictor().predict([]) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
        torch.zeros(1, 10, 10, dtype=torch.uint8),
        torch.zeros(3, 10, 10),
        "photo.jpg",
    ],
)
def test_wrong_images_are_named_by_position(image):
    good = np.zeros((10, 10, 3), np.uint8)
    with pytest.raises(ValueError, match="image 1 must be a uint8 array"):
        patch_predictor().predict([good, image])


def test_a_face_without_mask_pixels_is_kept():
    faces = Faces(
        torch.tensor([[1.0, 1, 5, 5]]), (10, 10), torch.tensor([1]), torch.tensor([0.9]),
        torch.zeros((1, 10, 10), dtype=torch.bool), torch.tensor([0.7]),
    )  # fmt: skip
    larger = to_original(faces, (20, 30))
    assert larger.boxes.tolist() == [[3, 2, 15, 10]]
    assert larger.masks.shape == (1, 20, 30) and not larger.masks.any()


def test_model_file_gives_a_predictor(model_file):
    predictor = Predictor.from_file(model_file, device="cpu")
    image = np.random.default_rng(0).integers(0, 255, (90, 110, 3), dtype=np.uint8)
    faces = predictor.predict([image])[0]
    assert faces.image_size == (90, 110)
    assert len(faces) and faces.masks.shape == (len(faces), 90, 110)
    assert ((faces.fake_probability >= 0) & (faces.fake_probability <= 1)).all()
    assert (faces.scores >= 0.05).all()
    assert (faces.labels == (faces.fake_probability >= 0.5)).all()
    assert not predictor.model.training


def test_provenance_says_where_an_answer_comes_from(model_file):
    provenance = Predictor.from_file(model_file, "cpu", fake_threshold=0.7).provenance
    assert json.loads(json.dumps(provenance)) == provenance
    assert provenance["model"] == "BlendMask"
    assert provenance["weights"] == "tiny.safetensors"
    assert provenance["weights_sha256"] == hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert provenance["weights_metadata"] == {"iteration": "7", "version": "1"}
    assert provenance["calibration"] == {"state": "uncalibrated", "temperature": 1.0}
    assert (provenance["score_threshold"], provenance["fake_threshold"]) == (0.05, 0.7)


def test_temperature_of_the_file_is_applied(model_file, tmp_path, finding_config):
    cfg = finding_config("BlendMask")
    from_file = Predictor.from_file(model_file, "cpu")
    path = tmp_path / "calibrated.safetensors"
    save_weights(path, from_file.model.state_dict(), cfg, {"temperature": "2.5"})
    calibrated = Predictor.from_file(path, "cpu")
    assert calibrated.provenance["calibration"] == {"state": "calibrated", "temperature": 2.5}
    image = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    before, after = (p.predict([image])[0].fake_probability for p in (from_file, calibrated))
    assert len(before)
    for old, new in zip(before.tolist(), after.tolist(), strict=True):
        assert math.log(new / (1 - new)) == pytest.approx(math.log(old / (1 - old)) / 2.5, abs=1e-4)


@pytest.mark.parametrize("text", ["warm", "nan"])
def test_a_temperature_that_is_none_is_refused(model_file, tmp_path, text, finding_config):
    cfg = finding_config("BlendMask")
    path = tmp_path / "odd.safetensors"
    state = Predictor.from_file(model_file, "cpu").model.state_dict()
    save_weights(path, state, cfg, {"temperature": text})
    with pytest.raises(ValueError, match="temperature"):
        Predictor.from_file(path, "cpu")


def test_thresholds_out_of_range_are_refused(model_file):
    with pytest.raises(ValueError, match="score_threshold must be in"):
        Predictor.from_file(model_file, "cpu", score_threshold=1.5)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model file"):
        Predictor.from_file(tmp_path / "nothing.safetensors", "cpu")
    (tmp_path / "broken.safetensors").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="not a readable safetensors"):
        Predictor.from_file(tmp_path / "broken.safetensors", "cpu")
