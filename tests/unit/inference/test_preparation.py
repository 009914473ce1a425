import pickle

import numpy as np
import torch

from comics.inference import preparation
from comics.structures import Faces


class OneFace:
    """Finds a face where a picture is bright."""

    def predict(self, images):
        found = []
        for image in images:
            rows, columns = np.nonzero(image[..., 0] > 128)
            boxes = torch.zeros((0, 4))
            if len(rows):
                boxes = torch.tensor(
                    [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
                )
            labels = torch.zeros(len(boxes), dtype=torch.int64)
            found.append(Faces(boxes=boxes.float(), image_size=image.shape[:2], labels=labels))
        return found


def test_the_detector_is_asked_frame_by_frame_and_loaded_once(monkeypatch):
    loaded = []
    monkeypatch.setattr(
        preparation.Predictor,
        "from_file",
        lambda path, device, score_threshold: loaded.append((path, score_threshold)) or OneFace(),
    )
    preparation._predictor.cache_clear()
    frame = np.zeros((20, 30, 3), np.uint8)
    frame[4:9, 10:20] = 255
    source = pickle.loads(pickle.dumps(preparation.DetectorBoxes("m.safetensors", 0.7)))
    frames = {0: frame, 7: np.zeros_like(frame)}
    assert source("a.mp4", frames) == {0: [(10.0, 4.0, 20.0, 9.0)], 7: []}
    assert source("b.mp4", frames)[0]
    assert loaded == [("m.safetensors", 0.7)]
    preparation._predictor.cache_clear()
