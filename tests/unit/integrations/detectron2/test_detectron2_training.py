"""The trainer on ``DefaultTrainer``: steps, schedule, checkpoints, model files."""

import json
import signal

import cv2
import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer  # noqa: E402
from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402
from detectron2.engine import DefaultPredictor  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402

from comics.config import load_config as load_native  # noqa: E402
from comics.data.images import read_image  # noqa: E402
from comics.data.loader import build_train_loader  # noqa: E402
from comics.engine.checkpoint import CheckpointError  # noqa: E402
from comics.engine.optim import optimizer_from_config, scheduler_from_config  # noqa: E402
from comics.engine.step import NonFiniteError, TrainingStep  # noqa: E402
from comics.inference.predictor import Predictor  # noqa: E402
from comics.integrations.detectron2 import ComicsPredictor, load_config  # noqa: E402
from comics.integrations.detectron2.config import dump_config, to_comics_config  # noqa: E402
from comics.integrations.detectron2.instances import predicted_faces  # noqa: E402
from comics.integrations.detectron2.run import _as_it_began  # noqa: E402
from comics.integrations.detectron2.train import ComicsTrainer  # noqa: E402
from comics.modeling.build import load_model  # noqa: E402
from comics.modeling.weights import read_weights, save_weights  # noqa: E402


@pytest.fixture
def options(tiny_overrides, face_set, tmp_path):
    """(output folder, KEY VALUE, ...) -> the overrides of a small run."""
    path = face_set()

    def make(folder, *more, name="COMICSBlendMask"):
        sets = [w for part in ("TRAIN", "VAL", "TEST") for w in (f"DATASETS.{part}", f"['{path}']")]
        return tiny_overrides(
            name, *sets, "OUTPUT_DIR", str(tmp_path / folder), "DATALOADER.NUM_WORKERS", "0",
            "INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.MAX_SIZE_TRAIN", "96",
            "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96",
            "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2",
            "SOLVER.BASE_LR", "0.005", "SOLVER.WARMUP_ITERS", "2", "LOG.PERIOD", "1",
            "TEST.EVAL_PERIOD", "2", "SEED", "3", *more,
        )  # fmt: skip

    yield make
    for name in [name for name in DatasetCatalog.list() if name == str(path)]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def states(*paths):
    return [read_weights(path).state for path in paths]


def largest_gap(one, other):
    assert one.keys() == other.keys()
    return max((one[key].float() - other[key].float()).abs().max().item() for key in one)


def test_a_run_ends_with_checkpoints_metrics_and_model_files(options, tmp_path):
    trainer = ComicsTrainer(load_config(overrides=options("out")))
    assert trainer.train() == 0
    folder = tmp_path / "out"
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    final, cfg, file = load_model(folder / "model_final.safetensors")
    assert file.metadata["iteration"] == "4" and cfg.SOLVER.BASE_LR == 0.005
    state = trainer.plain_model.inference_state_dict()
    assert largest_gap(file.state, state) == 0
    assert {"iteration", "best_value"} <= read_weights(
        folder / "model_best.safetensors"
    ).metadata.keys()
    logged = lines(folder)
    assert [line["iteration"] for line in logged if "total_loss" in line][:4] == [0, 1, 2, 3]
    assert "loss_proposal_contrast" in logged[0] and "metric/pixel_faces" in logged[0]
    assert sum("segm/AP" in line for line in logged) >= 1
    key = trainer.plain_model.training_only["key_encoder"].encoder["backbone"]
    query = trainer.plain_model.detector.backbone
    pairs = list(zip(key.parameters(), query.parameters(), strict=True))
    assert any(not torch.equal(slow, fast) for slow, fast in pairs)


def test_a_resumed_run_is_the_uninterrupted_one(options, tmp_path):
    ComicsTrainer(load_config(overrides=options("whole"))).train()
    first = ComicsTrainer(load_config(overrides=options("cut")))
    stop = first.run_step

    def killed():
        if first.iter == 3:
            raise KeyboardInterrupt
        stop()

    first.run_step = killed
    with pytest.raises(KeyboardInterrupt):
        first.train()
    assert not (tmp_path / "cut" / "model_final.safetensors").exists()
    resumed = ComicsTrainer(load_config(overrides=options("cut")), resume=True)
    assert resumed.start_iter == 2
    resumed.train()
    whole, cut = states(*(tmp_path / f / "model_final.safetensors" for f in ("whole", "cut")))
    assert largest_gap(whole, cut) == 0
    again = ComicsTrainer(load_config(overrides=options("cut")), resume=True)
    assert again.start_iter == 4  # nothing is left to do


def test_a_run_of_an_earlier_version_goes_on_as_it_began(options, tmp_path, caplog):
    """The attention of its configuration, not today's default."""
    began = load_config(overrides=options("out", "MODEL.COMICS.FEA.RESIDUAL", "True"))
    (tmp_path / "out").mkdir()
    cfg = load_config(overrides=options("out"))
    assert _as_it_began(cfg) == cfg
    (tmp_path / "out" / "config.yaml").write_text(dump_config(began))
    with caplog.at_level("INFO", logger="comics"):
        assert _as_it_began(cfg).MODEL.COMICS.FEA.RESIDUAL is True
    assert "MODEL.COMICS.FEA.RESIDUAL True" in caplog.text


def test_best_model_is_not_overwritten_by_a_worse_one_after_resuming(options, tmp_path):
    ComicsTrainer(load_config(overrides=options("out", "SOLVER.MAX_ITER", "2"))).train()
    path = tmp_path / "out" / "model_best.safetensors"
    file = read_weights(path)
    cfg = to_comics_config(load_config(overrides=options("out")))
    metadata = {k: v for k, v in file.metadata.items() if k != "config"}
    save_weights(path, file.state, cfg, {**metadata, "best_value": "0.99"})
    ComicsTrainer(load_config(overrides=options("out")), resume=True).train()
    assert read_weights(path).metadata["best_value"] == "0.99"


@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_steps_change_weights_as_the_native_runtimes(options, accumulate, native_file):
    more = ["SOLVER.ACCUMULATE", accumulate, "SOLVER.CLIP_GRADIENTS.ENABLED", "True",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5", "SOLVER.WARMUP_ITERS", "0"]  # fmt: skip
    overrides = options("out", *more, name="BlendMask")
    native_cfg = load_native(overrides=overrides)
    native, path = native_file(native_cfg)
    trainer = ComicsTrainer(load_config(overrides=[*overrides, "MODEL.WEIGHTS", str(path)]))
    native.train()
    step = TrainingStep(native, optimizer_from_config(native_cfg, native),
                        device=torch.device("cpu"), clip_norm=0.5)  # fmt: skip
    batches = iter(build_train_loader(native_cfg))
    with EventStorage() as trainer.storage:
        trainer.iter = 0
        for _ in range(2):
            outcome = step.backward([next(batches) for _ in range(int(accumulate))])
            step.apply()
            trainer.run_step()
            total = trainer.storage.latest()["total_loss"][0]
            assert total == pytest.approx(outcome.losses["total"].item(), abs=1e-4)
    assert largest_gap(native.state_dict(), trainer.plain_model.state_dict()) < 1e-5


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_optimisers_decay_what_ours_decay(options, name, every_detector):
    cfg = load_config(overrides=options("out", "SOLVER.OPTIMIZER", name))
    model = every_detector.build_model(to_comics_config(cfg))
    ours, theirs = optimizer_from_config(cfg, model), ComicsTrainer.build_optimizer(cfg, model)
    assert isinstance(theirs, type(ours))

    def settings(optimizer):
        return {
            id(p): (group["lr"], group["weight_decay"], group.get("momentum"))
            for group in optimizer.param_groups
            for p in group["params"]
        }

    assert settings(theirs) == settings(ours)


@pytest.mark.parametrize("kind", ["value", "norm"])
def test_detectron2s_clipping_is_left_to_it(options, kind, every_detector):
    clip = ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", kind,
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.001", "SOLVER.MOMENTUM", "0.0",
            "SOLVER.WEIGHT_DECAY", "0.0"]  # fmt: skip
    cfg = load_config(overrides=options("out", *clip))
    model = torch.nn.Linear(3, 1, bias=False)
    optimizer = ComicsTrainer.build_optimizer(cfg, model)
    before = model.weight.detach().clone()
    model(torch.full((1, 3), 50.0)).sum().backward()
    optimizer.step()
    moved = (before - model.weight) / cfg.SOLVER.BASE_LR
    expected = 0.001 if kind == "value" else 0.001 / 3**0.5
    torch.testing.assert_close(moved, torch.full((1, 3), expected), rtol=1e-2, atol=0)


def test_learning_rates_are_ours(options):
    steps = ["SOLVER.MAX_ITER", "40", "SOLVER.STEPS", "[20, 30]", "SOLVER.WARMUP_ITERS", "10"]
    cfg = load_config(overrides=options("out", *steps))
    rates = []
    for build in (ComicsTrainer.build_lr_scheduler, scheduler_from_config):
        optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=cfg.SOLVER.BASE_LR)
        scheduler = build(cfg, optimizer)
        rates.append([])
        for _ in range(40):
            rates[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    assert rates[0] == pytest.approx(rates[1], rel=1e-9)


def test_loss_that_is_not_finite_ends_the_run_before_the_weights(options, tmp_path):
    trainer = ComicsTrainer(load_config(overrides=options("out", name="BlendMask")))
    before = {k: v.clone() for k, v in trainer.plain_model.named_parameters()}
    forward = trainer.plain_model.forward

    def broken(inputs):
        return {**forward(inputs), "loss_mask": torch.tensor(float("nan"), requires_grad=True)}

    trainer.plain_model.forward = broken
    with pytest.raises(
        NonFiniteError, match=r"iteration 1: loss is not finite: loss_mask = nan.*png"
    ):
        trainer.train()
    for name, parameter in trainer.plain_model.named_parameters():
        assert torch.equal(parameter, before[name])
    assert not (tmp_path / "out" / "last_checkpoint").exists()


def test_signal_ends_the_run_after_the_step(options, tmp_path):
    trainer = ComicsTrainer(load_config(overrides=options("out")))
    step = trainer.run_step

    def signalled():
        step()
        if trainer.iter == 0:
            signal.raise_signal(signal.SIGTERM)

    trainer.run_step = signalled
    assert trainer.train() == signal.SIGTERM
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_0000000.pth"
    file = read_weights(tmp_path / "out" / "model_last.safetensors")
    assert file.metadata["iteration"] == "1"
    assert ComicsTrainer(load_config(overrides=options("out")), resume=True).start_iter == 1


def test_broken_checkpoint_and_unknown_metric_are_named(options, tmp_path):
    unknown = ["TEST.BEST_METRIC", "bbox/APx", "SOLVER.MAX_ITER", "1", "MODEL.MASK_ON", "False"]
    trainer = ComicsTrainer(load_config(overrides=options("out", *unknown, name="FCOS")))
    with pytest.raises(ValueError, match="TEST.BEST_METRIC 'bbox/APx' is not among .*bbox/AP50"):
        trainer.train()
    path = tmp_path / "out" / "model_final.pth"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="model_final.pth is not a readable checkpoint"):
        ComicsTrainer(load_config(overrides=options("out", name="FCOS")), resume=True)


def test_training_does_not_ask_for_the_sets_to_test_on(options):
    absent = ["DATASETS.TEST", "['openforensics_test_dev']", "SOLVER.MAX_ITER", "1"]
    trainer = ComicsTrainer(load_config(overrides=options("out", *absent, "DATASETS.VAL", "[]")))
    assert trainer.train() == 0


def test_mixed_precision_on_the_cpu(options):
    mixed = ["SOLVER.AMP.ENABLED", "True", "SOLVER.MAX_ITER", "1", "DATASETS.VAL", "[]"]
    trainer = ComicsTrainer(load_config(overrides=options("out", *mixed)))
    seen = []
    stage = trainer.plain_model.detector.backbone.bottom_up.res5
    stage.register_forward_hook(lambda _module, _in, out: seen.append(out.dtype))
    assert trainer.train() == 0
    assert seen == [torch.bfloat16]


def test_detectron2s_own_sampler_is_honoured(options):
    repeat = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "SOLVER.MAX_ITER", "1",
              "DATASETS.VAL", "[]"]  # fmt: skip
    trainer = ComicsTrainer(load_config(overrides=options("out", *repeat)))
    assert trainer.train() == 0


def test_predictors_find_what_the_native_one_finds(options, tmp_path, face_set):
    short = ["SOLVER.MAX_ITER", "1", "DATASETS.VAL", "[]"]
    trainer = ComicsTrainer(load_config(overrides=options("out", *short)))
    trainer.train()
    weights = tmp_path / "out" / "model_final.safetensors"
    picture = tmp_path / "faces" / "0.png"
    native, _, _ = load_model(weights)
    expected = Predictor.from_file(weights, device="cpu", score_threshold=0.0)
    cfg = load_config(overrides=options("out", "MODEL.WEIGHTS", str(weights)))
    found = predicted_faces(ComicsPredictor(cfg)(cv2.imread(str(picture)))["instances"])
    rgb = torch.from_numpy(read_image(picture)).permute(2, 0, 1)
    with torch.no_grad():  # 96 x 64 pixels are not resized
        (direct,) = native([rgb])
    assert len(found) == len(direct) > 0
    torch.testing.assert_close(found.boxes, direct.boxes, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.scores, direct.scores, atol=1e-4, rtol=0)
    assert torch.equal(found.masks, direct.masks)
    assert expected.predict([read_image(picture)])[0].image_size == found.image_size

    checkpoint = str(tmp_path / "out" / "model_final.pth")
    cfg = load_config(overrides=options("out", "MODEL.WEIGHTS", checkpoint))
    default = DefaultPredictor(cfg)
    same = predicted_faces(default(cv2.imread(str(picture)))["instances"])
    torch.testing.assert_close(same.boxes, found.boxes, atol=1e-4, rtol=0)
    assert isinstance(DetectionCheckpointer(default.model), DetectionCheckpointer)
