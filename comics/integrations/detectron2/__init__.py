"""Detectron2's runtime: the same models, data, figures and YAML files on Detectron2's machinery.

Importing this package needs Detectron2, and enters our models into its registries::

    cfg = get_cfg(); add_comics_config(cfg); cfg.merge_from_file("configs/....yaml")
    model = build_model(cfg)                      # detectron2.modeling
    DetectionCheckpointer(model).load("model.pth")  # ComicsCheckpointer: .safetensors too

This is the only package that imports Detectron2.
"""

from comics.integrations.detectron2.checkpoint import ComicsCheckpointer, load_weights
from comics.integrations.detectron2.config import add_comics_config, load_config, to_comics_config
from comics.integrations.detectron2.data import (
    ComicsDatasetMapper,
    register_datasets,
    register_faces,
)
from comics.integrations.detectron2.evaluator import ComicsEvaluator
from comics.integrations.detectron2.hooks import AfterOptimizerStep
from comics.integrations.detectron2.meta_arch import register, register_meta_architectures
from comics.integrations.detectron2.predictor import ComicsPredictor
from comics.integrations.detectron2.rcnn import NAME, build_comics_rcnn
from comics.integrations.detectron2.train import ComicsTrainer

__all__ = [
    "AfterOptimizerStep",
    "ComicsCheckpointer",
    "ComicsDatasetMapper",
    "ComicsEvaluator",
    "ComicsPredictor",
    "ComicsTrainer",
    "add_comics_config",
    "load_config",
    "load_weights",
    "register_datasets",
    "register_faces",
    "to_comics_config",
]

register_meta_architectures()
register(NAME, build_comics_rcnn)
