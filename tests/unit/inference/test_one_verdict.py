"""What a picture gets depends on its pixels and the model alone."""

import json
from pathlib import PurePath

import numpy as np
import pytest
import torch
from PIL import Image

from comics.api import MediaPredictor
from comics.config import load_config
from comics.inference.predictor import Predictor
from comics.inference.tiling import Tiling
from comics.inference.verdict import VerdictRule
from comics.modeling.build import build_model
from comics.modeling.face_forensics import FaceForensics
from comics.modeling.faces.build import build_face_method
from comics.runs.inputs import ExpandedInputs, InputFile
from comics.runs.options import RunOptions
from comics.runs.outputs import faces_to_entries
from comics.runs.records import results_document
from comics.runs.run import run_inference
from comics.server.detection import detect_file
from comics.server.limits import ServerLimits

FACE = [
    "MODEL.META_ARCHITECTURE", "FaceMethod", "MODEL.FACE.METHOD", "CrossEntropy",
    "MODEL.FACE.ENCODER", "SmallResNet", "MODEL.FACE.CROP_SIZE", "32",
]  # fmt: skip
SHAPES = [(90, 110), (110, 90), (90, 110), (64, 200), (90, 111), (90, 110)]


@pytest.fixture(scope="module", params=[0.0, 0.08], ids=["pixels", "grid"])
def predictor(tiny_config, request):
    torch.manual_seed(0)
    words = ["MODEL.FCOS.PRIOR_PROB", "0.3", "MODEL.FCOS.POST_NMS_TOPK_TEST", "12"]
    detector = build_model(tiny_config("COMICSBlendMask", *words))
    face = build_face_method(load_config(overrides=FACE))
    model = FaceForensics(detector, face, mirror=True, crop_grid=request.param)
    rule = VerdictRule(score_threshold=0.01)
    return Predictor(model, rule, min_size=64, max_size=128, max_pixels=10**6)


@pytest.fixture(scope="module")
def pictures():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 255, (*shape, 3), dtype=np.uint8) for shape in SHAPES]


@pytest.fixture(scope="module")
def alone(predictor, pictures):
    found = [predictor.predict([picture])[0] for picture in pictures]
    assert sum(map(len, found)) > 5
    return found


def same(one, other):
    for name in ("boxes", "scores", "labels", "masks", "fake_probability", "doubts"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("batch", [2, 4, 16])
def test_whatever_is_beside_it(predictor, pictures, alone, batch):
    generator = np.random.default_rng(batch)
    for _ in range(3):
        chosen = generator.integers(0, len(pictures), batch)
        found = predictor.predict([pictures[position] for position in chosen])
        for position, faces in zip(chosen, found, strict=True):
            same(faces, alone[position])


def test_whatever_the_number_of_threads(predictor, pictures, alone):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        found = [predictor.predict([picture])[0] for picture in pictures]
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(found, alone, strict=True):
        assert len(one) == len(other)
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(one.fake_probability, other.fake_probability, atol=1e-4, rtol=0)


def test_tiles_of_a_large_picture_do_not_depend_on_the_batch(predictor, pictures):
    tiled = Predictor(
        predictor.model, predictor.rule, min_size=64, max_size=128, max_pixels=10**6,
        tiling=Tiling("always", 64, 16),
    )  # fmt: skip
    (one,) = tiled.predict(pictures[:1])
    for other in tiled.predict([pictures[0]] * 6):
        same(one, other)


def probabilities(document):
    found = {}
    for face in document["results"]:
        found.setdefault(face["file_name"], []).append((face["fake_probability"], face["bbox"]))
    return found


def test_through_the_server_as_in_a_folder(predictor, pictures, alone, tmp_path):
    """As ``/api/detect`` answers: the same numbers, to the last digit that results hold."""
    for number, (picture, faces) in enumerate(zip(pictures, alone, strict=True)):
        upload = tmp_path / str(number) / "upload"
        upload.parent.mkdir()
        Image.fromarray(picture).save(upload, "PNG")
        document = detect_file(predictor, upload, f"{number}.png", ServerLimits())
        told = [{k: v for k, v in face.items() if k != "image_id"} for face in document["results"]]
        assert told == faces_to_entries(faces, f"{number}.png")


def test_in_a_folder_as_through_the_interface_and_as_a_frame(
    predictor, pictures, alone, tmp_path, encode_video
):
    files = []
    for number, picture in enumerate(pictures):
        path = tmp_path / f"{number}.png"
        Image.fromarray(picture).save(path)
        files.append(InputFile(path, PurePath(path.name)))
    documents = []
    for batch_size in (1, 4, 16):
        options = RunOptions(tmp_path / f"out{batch_size}", batch_size=batch_size)
        run_inference(
            predictor, ExpandedInputs(files), options, lambda line: None,
            write=lambda record: documents.append(results_document(record)),
        )  # fmt: skip
    assert probabilities(documents[0]) == probabilities(documents[1]) == probabilities(documents[2])
    single = probabilities(documents[0])
    for number, faces in enumerate(alone):
        told = [round(p, 6) for p in faces.fake_probability.tolist()]
        assert [p for p, _ in single.get(str(files[number].path), [])] == pytest.approx(told)
    media = MediaPredictor(predictor)
    for number, faces in enumerate(media([file.path for file in files])):
        same(faces, alone[number])
    # A video that loses nothing: its frames are the picture, and get what the picture gets
    clip = encode_video(tmp_path / "clip.mkv", [pictures[0]] * 3, codec="ffv1", pixels="bgr0")
    for batch_size in (1, 3):
        for _, _, faces in media(clip, batch_size=batch_size):
            same(faces, alone[0])
    assert json.dumps(documents[0]["summary"])  # the record is JSON, as the server gives it
