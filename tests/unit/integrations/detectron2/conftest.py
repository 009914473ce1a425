"""Tiny models of every detector, scenes with faces, and a set on disk."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import cv2
import pytest
import torch

from comics.modeling.build import build_model
from comics.modeling.weights import save_weights

EVERY_DETECTOR = Path(__file__).parents[2] / "modeling" / "test_every_detector.py"
# Untrained models score everything alike: let all of it pass
KEEP_ALL = [
    "MODEL.FCOS.SCORE_THRESH_TEST", "0.0", "MODEL.FCOS.POST_NMS_TOPK_TEST", "60",
    "MODEL.FCOS.PRE_NMS_TOPK_TEST", "50", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0",
    "MODEL.SOLOV2.SCORE_THRESH_TEST", "0.0", "MODEL.SOLOV2.UPDATE_THR", "0.0",
    "MODEL.SOLO.SCORE_THRESH_TEST", "0.0", "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0",
    "MODEL.YOLACT.SCORE_THRESH_TEST", "0.0",
    "MODEL.MEInst.SCORE_THRESH_TEST", "0.0", "MODEL.MEInst.POST_NMS_TOPK_TEST", "60",
    "TEST.DETECTIONS_PER_IMAGE", "20",
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Both runtimes add up in the same order: scores that differ by rounding only, as of two cells
    that see the same pixels, would else change places with the number of threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def every_detector() -> ModuleType:
    """The scenes of the tests that cover every detector."""
    spec = importlib.util.spec_from_file_location("every_detector", EVERY_DETECTOR)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_overrides(tiny_words):
    """KEY VALUE pairs of a tiny model of that name."""

    def overrides(name: str, *more: str) -> list[str]:
        without_masks = ["MODEL.COMICS.PIXEL.ENABLED", "False"] if name == "COMICSFCOS" else []
        device = ["MODEL.DEVICE", "cpu"]
        return [*tiny_words(name), *KEEP_ALL, *device, *without_masks, *more]

    return overrides


@pytest.fixture(scope="session")
def scenes(every_detector):
    """Images and targets: two sizes, the second image without faces."""
    first, faces = every_detector.scene(0)
    second, none = every_detector.scene(1, size=(64, 96))
    return [first, second], [faces, none[:0]]


@pytest.fixture
def native_file(tmp_path):
    """(native configuration) -> a native model with some weights, and its file."""

    def make(cfg, seed: int = 0):
        torch.manual_seed(seed)
        model = build_model(cfg)
        state = getattr(model, "inference_state_dict", model.state_dict)()
        path = tmp_path / f"{cfg.MODEL.META_ARCHITECTURE}.safetensors"
        save_weights(path, state, cfg, {})
        return model, path

    return make


@pytest.fixture
def face_set(tmp_path, every_detector):
    """(number of images) -> an annotation file beside its images."""

    def make(count: int = 4, folder: str = "faces") -> Path:
        root = tmp_path / folder
        root.mkdir()
        content = {"images": [], "annotations": [], "categories": [
            {"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}]}  # fmt: skip
        for number in range(count):
            image, faces = every_detector.scene(number, size=(64, 96) if number % 2 else (96, 64))
            picture = image.permute(1, 2, 0).numpy()[..., ::-1]
            cv2.imwrite(str(root / f"{number}.png"), picture)
            height, width = faces.image_size
            content["images"].append(
                {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
            )
            for label, (x0, y0, x1, y1) in enumerate([(2, 4, 30, 40), (32, 8, 60, 50)]):
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,  # pycocotools overlooks 0
                        "image_id": number,
                        "category_id": label,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": 0,
                        "segmentation": [[x0, y0, x1, y0, x1, y1, x0, (y0 + y1) // 2]],
                    }
                )
        path = root / "faces.json"
        path.write_text(json.dumps(content))
        return path

    return make
