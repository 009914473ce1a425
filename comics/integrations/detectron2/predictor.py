"""Detectron2's ``DefaultPredictor`` with our model files and our resizing.

``DefaultPredictor`` itself works with a .pth file of Detectron2's trainer; it resizes with Pillow.
"""

from __future__ import annotations

import numpy as np
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import Augmentation, Transform
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from comics.config import load_config_text
from comics.data.transforms import resize_image, shortest_side_size
from comics.integrations.detectron2.checkpoint import load_weights
from comics.integrations.detectron2.config import add_comics_config, take_defaults
from comics.modeling.build import choose_device
from comics.modeling.weights import read_weights


class ComicsPredictor(DefaultPredictor):
    """One BGR image [H, W, 3] uint8 in, {"instances"} out, in the image's own pixels.

    Args:
        cfg: ``MODEL.WEIGHTS`` is a .safetensors or .pth file of this model. Where a .safetensors
            file is of another architecture than ``cfg`` names, as the model that comes with the
            package mostly is, the model and the size of its input are those of the file.

    Raises:
        FileNotFoundError, ValueError: if the file is absent or does not fit.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg = config_of_weights(cfg)
        self.model = build_model(self.cfg).eval()
        if len(cfg.DATASETS.TEST):
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        load_weights(self.model, cfg.MODEL.WEIGHTS)
        self.aug = ShortestSide(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT


def config_of_weights(cfg: CfgNode) -> CfgNode:
    """The configuration to use ``MODEL.WEIGHTS`` with: that of the file, if it names another model.

    Device, data sets and output folder stay those of ``cfg``.

    Raises:
        FileNotFoundError, ValueError: if the file is absent or broken.
    """
    path = cfg.MODEL.WEIGHTS
    if not path.endswith(".safetensors"):
        return cfg.clone()
    text = read_weights(path).metadata["config"]
    stored = load_config_text(text)
    if stored.MODEL.META_ARCHITECTURE == cfg.MODEL.META_ARCHITECTURE:
        return cfg.clone()
    found = get_cfg()
    add_comics_config(found)
    take_defaults(found, stored.MODEL.META_ARCHITECTURE)
    found.merge_from_other_cfg(CfgNode(stored))
    found.MODEL.WEIGHTS, found.MODEL.DEVICE = path, str(choose_device(cfg.MODEL.DEVICE))
    found.DATASETS, found.OUTPUT_DIR = cfg.DATASETS.clone(), cfg.OUTPUT_DIR
    return found


class ShortestSide(Augmentation):
    """Resize as our evaluation does (``comics.data.transforms``).

    Args:
        short_side: pixels, or less where the long side would exceed ``max_size``.
        max_size: pixels.
    """

    def __init__(self, short_side: int, max_size: int) -> None:
        super().__init__()
        self.short_side = short_side
        self.max_size = max_size

    def get_transform(self, image: np.ndarray) -> Transform:
        """The transform of [H, W, C]."""
        size = shortest_side_size(image.shape[:2], self.short_side, self.max_size)
        return Resize(image.shape[:2], size)


class Resize(Transform):
    """Resize with OpenCV.

    Args:
        size: (height, width) of the images to come.
        new_size: of the images to make.
    """

    def __init__(self, size: tuple[int, int], new_size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.new_size = new_size

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """[H, W, C] uint8."""
        return resize_image(np.ascontiguousarray(img), self.new_size)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """[N, 2] of (x, y)."""
        return coords * (np.array(self.new_size[::-1]) / np.array(self.size[::-1]))
