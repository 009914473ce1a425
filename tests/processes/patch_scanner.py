"""A scanner whose model knows two colours: a red patch is a forged face, a blue one a real face."""

import numpy as np
import torch

from comics.scale.scanner import FaceScanner
from comics.structures import Faces


class PatchPredictor:
    """See ``comics.inference.contract.FacePredictor``."""

    max_pixels = 1_000_000
    provenance = {"model": "patches", "fake_threshold": 0.5}

    def predict(self, images):
        return [self._find(image) for image in images]

    def _find(self, image):
        found = []
        for label, channel in ((0, 2), (1, 0)):
            others = [c for c in range(3) if c != channel]
            mask = (image[..., channel] > 180) & (image[..., others] < 90).all(-1)
            if mask.any():
                rows, columns = np.nonzero(mask)
                box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                # Of many digits, as a network's numbers are
                found.append((label, box, torch.from_numpy(mask), image[mask].mean() / 255))
        return Faces(
            boxes=torch.tensor([box for _, box, _, _ in found]).reshape(-1, 4).float() + 1 / 3,
            image_size=image.shape[:2],
            labels=torch.tensor([label for label, _, _, _ in found], dtype=torch.int64),
            scores=torch.tensor([0.3 + value for *_, value in found]).float(),
            masks=torch.stack([mask for _, _, mask, _ in found]) if found else None,
            fake_probability=torch.tensor([0.8 if x[0] else 0.1 + x[3] / 9 for x in found]).float(),
            doubts=torch.tensor([0] * len(found), dtype=torch.int64),
        )


def make(max_fps=None, **settings):
    """A scanner with it."""
    return FaceScanner(predictor=PatchPredictor(), max_fps=max_fps)
