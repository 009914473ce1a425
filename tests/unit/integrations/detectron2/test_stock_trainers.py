"""Our models in Detectron2's own trainers, and its sets, files and predictors with ours."""

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import get_cfg  # noqa: E402
from detectron2.data import (  # noqa: E402
    DatasetCatalog,
    MetadataCatalog,
    build_detection_train_loader,
)
from detectron2.data.datasets import register_coco_instances  # noqa: E402
from detectron2.engine import DefaultTrainer  # noqa: E402
from detectron2.model_zoo import get_config_file  # noqa: E402
from detectron2.modeling import BACKBONE_REGISTRY, build_model  # noqa: E402
from detectron2.modeling.backbone import SimpleFeaturePyramid, ViT  # noqa: E402
from detectron2.modeling.backbone.fpn import LastLevelMaxPool  # noqa: E402
from detectron2.solver import build_optimizer  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402

import comics.integrations.detectron2 as bridge  # noqa: E402
from comics.engine.train import SetupError, run_training  # noqa: E402
from comics.inference.default_weights import SHIPPED  # noqa: E402
from comics.integrations.detectron2.instances import sample_to_input  # noqa: E402

ZOO_RCNN = get_config_file("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")


def batch(scenes, *, keys):
    images, targets = scenes
    return [
        sample_to_input(
            image,
            image if keys else None,
            faces,
            image_format="RGB",
            image_id=position,
            file_name=f"{position}.png",
            original_size=tuple(image.shape[1:]),
        )
        for position, (image, faces) in enumerate(zip(images, targets, strict=True))
    ]


@pytest.fixture
def model(tiny_overrides):
    return build_model(bridge.load_config(overrides=tiny_overrides("COMICSBlendMask"))).train()


def step(model, optimizer, scenes):
    with EventStorage():
        losses = model(batch(scenes, keys=True))
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()


def test_what_a_stock_trainer_lacks_is_said_in_a_sentence(model, scenes):
    with pytest.raises(ValueError, match=r"lacks prepare_training.*ComicsTrainer"):
        model(batch(scenes, keys=True))
    model.prepare_training()
    with pytest.raises(ValueError, match=r"lacks a second view.*ComicsDatasetMapper"):
        model(batch(scenes, keys=False))


def test_a_key_encoder_that_stands_still_ends_the_training(model, scenes):
    model.prepare_training()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    for _ in range(2):
        step(model, optimizer, scenes)
        bridge.AfterOptimizerStep(model).after_step()
    step(model, optimizer, scenes)
    with pytest.raises(RuntimeError, match=r"key encoder stands still.*AfterOptimizerStep"):
        step(model, optimizer, scenes)


def test_adamw_is_not_silently_sgd(tiny_overrides, scenes):
    cfg = bridge.load_config(overrides=tiny_overrides("BlendMask", "SOLVER.OPTIMIZER", "AdamW"))
    model = build_model(cfg).train()
    with pytest.raises(RuntimeError, match=r"SOLVER.OPTIMIZER is AdamW, but SGD"):
        step(model, build_optimizer(cfg, model), scenes)
    step(model, bridge.ComicsTrainer.build_optimizer(cfg, model), scenes)
    other = torch.nn.Linear(2, 2)  # another model's optimiser is nobody's business
    torch.optim.SGD(other.parameters(), lr=0.1).step()


@pytest.fixture
def stock(registered, tiny_overrides, tmp_path):
    """(architecture, KEY VALUE, ...) -> the configuration of three steps, as users make it."""

    def make(name, *more):
        cfg = get_cfg()
        bridge.add_comics_config(cfg)
        cfg.merge_from_list(
            tiny_overrides(
                name, "DATASETS.TRAIN", f"['{registered}']",
                "DATASETS.TEST", "[]", "OUTPUT_DIR", str(tmp_path / "run"),
                "DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TRAIN", "[64]",
                "INPUT.MAX_SIZE_TRAIN", "96", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "3",
                "SOLVER.BASE_LR", "0.005", "SOLVER.WARMUP_ITERS", "0", "SEED", "3", *more,
            )
        )  # fmt: skip
        (tmp_path / "run").mkdir()
        return cfg

    return make


def test_the_stock_trainer_trains_a_model_without_comics(stock):
    trainer = DefaultTrainer(stock("FCOS"))
    before = [p.detach().clone() for p in trainer.model.parameters() if p.requires_grad]
    trainer.train()
    after = [p for p in trainer.model.parameters() if p.requires_grad]
    assert all(torch.isfinite(p).all() for p in after)
    assert any(not torch.equal(p, q) for p, q in zip(after, before, strict=True))


@pytest.mark.parametrize(
    "name, more, message",
    [
        ("COMICSFCOS", ["MODEL.COMICS.PIXEL.ENABLED", "False"], "lacks prepare_training"),
        ("FCOS", ["SOLVER.OPTIMIZER", "AdamW"], "SOLVER.OPTIMIZER is AdamW, but SGD"),
    ],
)
def test_the_stock_trainer_says_what_to_use(stock, name, more, message):
    trainer = DefaultTrainer(stock(name, *more))
    with pytest.raises((ValueError, RuntimeError), match=f"{message}.*ComicsTrainer"):
        trainer.train()


class Own(DefaultTrainer):
    """A user's trainer with what the sentence asks for."""

    @classmethod
    def build_model(cls, cfg):
        model = super().build_model(cfg)
        model.prepare_training()
        return model

    @classmethod
    def build_optimizer(cls, cfg, model):
        return bridge.ComicsTrainer.build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=bridge.ComicsDatasetMapper(cfg))

    def build_hooks(self):
        return [bridge.AfterOptimizerStep(self.model), *super().build_hooks()]


def test_a_users_trainer_with_what_it_is_told_to_add_trains_comics(stock):
    trainer = Own(stock("COMICSBlendMask", "SOLVER.OPTIMIZER", "AdamW"))
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    keys = trainer.model.training_only["key_encoder"]
    before = [p.detach().clone() for p in keys.parameters()]
    trainer.train()
    assert any(not torch.equal(p, q) for p, q in zip(keys.parameters(), before, strict=True))
    assert "loss_proposal_contrast" in trainer.storage.histories()


@pytest.fixture
def registered(face_set):
    path = face_set()
    register_coco_instances("people_of_a_user", {}, str(path), str(path.parent))
    yield "people_of_a_user"
    DatasetCatalog.remove("people_of_a_user")
    MetadataCatalog.remove("people_of_a_user")


def test_sets_of_register_coco_instances_train_and_validate(registered, tiny_overrides, tmp_path):
    sets = [w for part in ("TRAIN", "VAL") for w in (f"DATASETS.{part}", f"['{registered}']")]
    cfg = bridge.load_config(
        overrides=tiny_overrides(
            "BlendMask", *sets, "OUTPUT_DIR", str(tmp_path / "run"), "SOLVER.IMS_PER_BATCH", "2",
            "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0", "DATALOADER.NUM_WORKERS", "0",
            "INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.MIN_SIZE_TEST", "64", "LOG.PERIOD", "1",
        )
    )  # fmt: skip
    assert bridge.ComicsTrainer(cfg).train() == 0
    folder = tmp_path / "run"
    assert (folder / "model_best.safetensors").is_file()
    assert (folder / "inference" / "coco_instances_results.json").is_file()
    assert list(folder.glob("events.out.tfevents.*"))
    native = ["OUTPUT_DIR", str(folder)]
    from comics.config import load_config

    with pytest.raises(SetupError, match="holds a run of Detectron2"):
        run_training(load_config(overrides=["DATASETS.VAL", "[]", *native]))


@pytest.mark.slow
def test_the_predictor_takes_the_shipped_model():
    weights = SHIPPED
    if not weights.is_file():
        pytest.skip("no model comes with this checkout")
    cfg = get_cfg()
    bridge.add_comics_config(cfg)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = str(weights), "cpu"
    predictor = bridge.ComicsPredictor(cfg)
    assert predictor.cfg.MODEL.META_ARCHITECTURE == "FaceForensics"
    found = predictor(torch.zeros(64, 96, 3, dtype=torch.uint8).numpy())["instances"]
    assert found.image_size == (64, 96)


@pytest.fixture
def vitdet(request):
    """The name of a builder of a small ViTDet backbone, which may pad its images to squares."""

    def build_small_vitdet_backbone(cfg, _input_shape):
        net = ViT(img_size=64, embed_dim=16, depth=1, num_heads=2, out_feature="last_feat")
        scales, top = (4.0, 2.0, 1.0, 0.5), LastLevelMaxPool()
        return SimpleFeaturePyramid(net, "last_feat", 16, scales, top, square_pad=request.param)

    BACKBONE_REGISTRY.register(build_small_vitdet_backbone)
    yield build_small_vitdet_backbone.__name__
    del BACKBONE_REGISTRY._obj_map[build_small_vitdet_backbone.__name__]


@pytest.mark.parametrize(
    "vitdet, message",
    [(64, "needs square images"), (0, "does not say what sides must be multiples of")],
    indirect=["vitdet"],
)
def test_vitdet_is_refused_in_words(vitdet, message, tiny_overrides):
    name = ["MODEL.BACKBONE.NAME", vitdet]
    cfg = bridge.load_config(overrides=tiny_overrides("COMICSBlendMask", *name))
    with pytest.raises(ValueError, match=f"'{vitdet}' {message}.*build_resnet_fpn_backbone"):
        build_model(cfg)
    small = ["MODEL.ROI_BOX_HEAD.FC_DIM", "32", "MODEL.DEVICE", "cpu"]
    comics = ["MODEL.META_ARCHITECTURE", "COMICSGeneralizedRCNN"]
    cfg = bridge.load_config(ZOO_RCNN, [*small, *comics, *name])
    with pytest.raises(ValueError, match=f"the backbone {message}.*build_resnet_fpn_backbone"):
        build_model(cfg)


def test_zoo_weights_load_under_comics(tiny_overrides, tmp_path):
    words = tiny_overrides(
        "COMICSBlendMask", "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone",
        "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16",
        "MODEL.RESNETS.WIDTH_PER_GROUP", "64",
    )  # fmt: skip
    model = build_model(bridge.load_config(overrides=words))
    own = model.detector.backbone.state_dict()
    state = {f"backbone.{name}": torch.full_like(value, 2) for name, value in own.items()}
    path = tmp_path / "zoo.pth"
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, path)
    bridge.load_weights(model, str(path))
    assert all((v == 2).all() for v in model.detector.backbone.state_dict().values())


def test_our_file_for_detectron2s_rcnn_trains_two_steps(face_set, tmp_path):
    from pathlib import Path

    from comics.integrations.detectron2.config import settle

    file = "configs/Detectron2/COMICS-Mask-RCNN_R_50_FPN_1x.yaml"
    path, cfg = face_set(), get_cfg()
    bridge.add_comics_config(cfg)
    cfg.merge_from_file(str(Path(__file__).parents[4] / file))
    cfg.merge_from_list(
        [
            "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", "18",
            "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.BACKBONE.FREEZE_AT", "0",
            "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.OUT_CHANNELS", "16",
            "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16",
            "DATASETS.TRAIN", f"['{path}']", "DATASETS.VAL", "[]",
            "INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.MAX_SIZE_TRAIN", "96",
            "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2",
            "LOG.PERIOD", "1", "SEED", "0", "OUTPUT_DIR", str(tmp_path / "run"),
        ]
    )  # fmt: skip
    settle(cfg)
    trainer = bridge.ComicsTrainer(cfg)
    assert trainer.train() == 0
    assert (tmp_path / "run" / "model_final.safetensors").is_file()
    assert all(torch.isfinite(p).all() for p in trainer.plain_model.parameters())
