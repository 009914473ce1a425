"""Our models as Detectron2's meta-architectures: the numbers of the native runtime."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer  # noqa: E402
from detectron2.export import TracingAdapter  # noqa: E402
from detectron2.modeling import META_ARCH_REGISTRY, build_model  # noqa: E402
from detectron2.structures import BitMasks, PolygonMasks  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402

import comics.modeling.detectors  # noqa: E402, F401
from comics.config import load_config as load_native  # noqa: E402
from comics.integrations.detectron2 import (  # noqa: E402
    ComicsCheckpointer,
    load_config,
    load_weights,
)
from comics.integrations.detectron2.instances import (  # noqa: E402
    ground_truth_faces,
    ground_truth_instances,
    predicted_faces,
    prediction_instances,
    sample_to_input,
)
from comics.modeling.build import build_model as build_native  # noqa: E402
from comics.registry import DETECTORS  # noqa: E402
from comics.structures import Faces  # noqa: E402

PLAIN = sorted(name for name, _ in DETECTORS)
ALL = [*PLAIN, *(f"COMICS{name}" for name in PLAIN)]
TOLERANCE = 1e-4


def inputs(images, targets=None, keys=None, image_format="RGB"):
    targets, keys = targets or [None] * len(images), keys or [None] * len(images)
    return [
        sample_to_input(
            image,
            key,
            faces,
            image_format=image_format,
            image_id=position,
            file_name=f"{position}.png",
            original_size=(image.shape[1] + 10, image.shape[2] + 14),
        )
        for position, (image, faces, key) in enumerate(zip(images, targets, keys, strict=True))
    ]


def output_sizes(images):
    return [(image.shape[1] + 10, image.shape[2] + 14) for image in images]


def darker(images):
    return [(image * 0.8).to(torch.uint8) for image in images]


def assert_same_faces(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.image_size == theirs.image_size
        torch.testing.assert_close(ours.boxes, theirs.boxes, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(ours.scores, theirs.scores, atol=TOLERANCE, rtol=0)
        assert (ours.masks is None) == (theirs.masks is None)
        if ours.masks is not None:
            assert (ours.masks != theirs.masks).sum() <= TOLERANCE * ours.masks.numel()


@pytest.mark.parametrize("name", ALL)
def test_same_detections_from_the_same_file(name, tiny_overrides, scenes, native_file):
    overrides, (images, _) = tiny_overrides(name), scenes
    native, path = native_file(load_native(overrides=overrides))
    model = build_model(load_config(overrides=overrides)).eval()
    ComicsCheckpointer(model).load(str(path))
    assert list(model.state_dict()) == list(native.state_dict())
    with torch.no_grad():
        expected = native.eval()(images, output_sizes=output_sizes(images))
        found = [predicted_faces(one["instances"]) for one in model(inputs(images))]
    assert sum(len(faces) for faces in found) > 0
    assert_same_faces(found, expected)


@pytest.mark.parametrize("name", ALL)
def test_same_losses_and_gradients_from_the_same_file(name, tiny_overrides, scenes, native_file):
    overrides, (images, targets) = tiny_overrides(name), scenes
    native, path = native_file(load_native(overrides=overrides))
    model = build_model(load_config(overrides=overrides))
    load_weights(model, str(path), must_fit=True)
    keys = darker(images) if name.startswith("COMICS") else None
    losses = []
    for step in range(2):  # the second step contrasts with the banks of the first
        for one in (native, model):
            torch.manual_seed(step)
            if step == 0 and hasattr(one.train(), "prepare_training"):
                one.prepare_training()
            one.zero_grad()
            torch.manual_seed(step)
            with EventStorage():
                if one is native:
                    views = {} if keys is None else {"key_images": keys}
                    losses.append(native(images, targets, **views).losses)
                else:
                    losses.append(model(inputs(images, targets, keys)))
            sum(losses[-1].values()).backward()
    for expected, found in (losses[:2], losses[2:]):
        assert found.keys() == expected.keys()
        for key, loss in expected.items():
            assert found[key].item() == pytest.approx(loss.item(), abs=TOLERANCE), key
    for (own_name, ours), (their_name, theirs) in zip(
        native.named_parameters(), model.named_parameters(), strict=True
    ):
        assert own_name == their_name
        assert (ours.grad is None) == (theirs.grad is None), own_name
        if ours.grad is not None:
            torch.testing.assert_close(theirs.grad, ours.grad, atol=TOLERANCE, rtol=1e-3)


def test_every_detector_is_registered():
    for name in [*ALL, "FaceForensics", "COMICSGeneralizedRCNN"]:
        assert name in META_ARCH_REGISTRY


def test_detectron2s_checkpointer_reads_a_pth_of_the_same_names(tiny_overrides, scenes, tmp_path):
    overrides = tiny_overrides("COMICSBlendMask")
    torch.manual_seed(0)
    native = build_native(load_native(overrides=overrides))
    torch.save({"model": native.state_dict()}, tmp_path / "model.pth")
    model = build_model(load_config(overrides=overrides)).eval()
    DetectionCheckpointer(model).load(str(tmp_path / "model.pth"))
    for key, value in native.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_trainer_checkpoint_starts_a_model_without_its_training_state(tiny_overrides, tmp_path):
    cfg = load_config(overrides=tiny_overrides("COMICSBlendMask"))
    trained = build_model(cfg)
    trained.prepare_training()
    torch.save({"model": trained.state_dict(), "iteration": 3}, tmp_path / "model.pth")
    fresh = build_model(cfg)
    load_weights(fresh, str(tmp_path / "model.pth"))
    for key, value in fresh.state_dict().items():
        assert torch.equal(trained.state_dict()[key], value)


def test_bgr_images_give_what_rgb_images_give(tiny_overrides, scenes, native_file):
    images, _ = scenes
    overrides = tiny_overrides("BlendMask", "INPUT.FORMAT", "BGR")
    native, path = native_file(load_native(overrides=overrides))
    model = build_model(load_config(overrides=overrides)).eval()
    load_weights(model, str(path))
    with torch.no_grad():
        expected = native.eval()(images, output_sizes=output_sizes(images))
        found = [
            predicted_faces(one["instances"]) for one in model(inputs(images, None, None, "BGR"))
        ]
    assert_same_faces(found, expected)


def test_polygons_are_drawn_as_bitmaps():
    polygon = np.array([2.0, 1.0, 9.0, 1.0, 9.0, 7.0, 2.0, 7.0])
    bitmap = torch.zeros(1, 10, 12, dtype=torch.bool)
    bitmap[0, 1:7, 2:9] = True
    faces = Faces(torch.tensor([[2.0, 1, 9, 7]]), (10, 12), torch.tensor([1]), masks=bitmap)
    instances = ground_truth_instances(faces)
    assert isinstance(instances.gt_masks, BitMasks)
    instances.gt_masks = PolygonMasks([[polygon]])
    assert torch.equal(ground_truth_faces(instances).masks, bitmap)
    instances.remove("gt_masks")
    assert ground_truth_faces(instances).masks is None


def test_metrics_go_to_the_event_storage(tiny_overrides, scenes):
    images, targets = scenes
    model = build_model(load_config(overrides=tiny_overrides("COMICSBlendMask"))).train()
    model.prepare_training()
    with EventStorage() as storage:
        model(inputs(images, targets, images))
    latest = storage.latest()
    assert latest["metric/pixel_faces"][0] == 2
    assert "metric/proposal_pairs" in latest


def test_missing_ground_truth_and_second_view_are_named(tiny_overrides, scenes):
    images, targets = scenes
    model = build_model(load_config(overrides=tiny_overrides("COMICSBlendMask"))).train()
    model.prepare_training()
    with pytest.raises(ValueError, match=r"image 0 \(0.png\) has none"):
        model(inputs(images))
    with pytest.raises(ValueError, match='lacks a second view, "key_image"'):
        model(inputs(images, targets))


def test_face_forensics_judges_as_in_the_native_runtime(tiny_overrides, scenes, native_file):
    images, _ = scenes
    overrides = tiny_overrides(
        "FaceForensics", "MODEL.FACE.DETECTOR", "COMICSBlendMask", "MODEL.FACE.ENCODER",
        "SmallResNet", "MODEL.FACE.CROP_SIZE", "32", "MODEL.FACE.METHOD", "CrossEntropy",
    )  # fmt: skip
    native, path = native_file(load_native(overrides=overrides))
    model = build_model(load_config(overrides=overrides)).eval()
    load_weights(model, str(path), must_fit=True)
    with torch.no_grad():
        expected = native.eval()(images, output_sizes=output_sizes(images))
        found = [predicted_faces(one["instances"]) for one in model(inputs(images))]
    assert_same_faces(found, expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.fake_probability, theirs.fake_probability)
    with pytest.raises(RuntimeError, match="not trained as a whole"):
        model.train()(inputs(images, scenes[1]))


def test_a_joined_model_is_traced_as_detectron2_traces_its_own(tiny_overrides, scenes):
    cfg = load_config(
        overrides=tiny_overrides(
            "FaceForensics", "MODEL.FACE.DETECTOR", "COMICSBlendMask", "MODEL.FACE.ENCODER",
            "SmallResNet", "MODEL.FACE.CROP_SIZE", "32", "MODEL.FACE.METHOD", "CrossEntropy",
        )
    )  # fmt: skip
    model = build_model(cfg).eval()
    given = [{"image": scenes[0][0]}]
    with torch.no_grad():
        adapter = TracingAdapter(model, given)
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        found = adapter.outputs_schema(traced(*adapter.flattened_inputs))[0]["instances"]
        expected = model(given)[0]["instances"]
    assert len(found) == len(expected) > 0
    for name, value in expected.get_fields().items():
        one, other = (getattr(x, "tensor", x) for x in (found.get(name), value))
        torch.testing.assert_close(one, other)


RESNET_18 = [
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16",
    "MODEL.RESNETS.WIDTH_PER_GROUP", "64",
]  # fmt: skip


def test_detectron2s_backbone_carries_our_detector(tiny_overrides, scenes):
    images, targets = scenes
    name = ["MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"]
    cfg = load_config(overrides=tiny_overrides("COMICSBlendMask", *RESNET_18, *name))
    model = build_model(cfg).train()
    model.prepare_training()
    with EventStorage():
        losses = model(inputs(images, targets, images))
    sum(losses.values()).backward()
    theirs = "detector.backbone.fpn_lateral3.weight"
    assert dict(model.named_parameters())[theirs].grad.abs().sum() > 0
    assert "training_only.key_encoder.encoder.backbone.fpn_lateral3.weight" in model.state_dict()
    with torch.no_grad():
        assert "pred_masks" in model.eval()(inputs(images))[0]["instances"].get_fields()


@pytest.mark.parametrize("name", ["BlendMask", "COMICSBlendMask"])
def test_a_backbone_of_the_model_zoo_loads(name, tiny_overrides, tmp_path):
    words = [*RESNET_18, "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"]
    model = build_model(load_config(overrides=tiny_overrides(name, *words)))
    detector = getattr(model, "detector", model)
    bottom_up = detector.backbone.bottom_up.state_dict()
    content = {  # as of its R-50.pkl: the backbone's names alone, to be matched by their ends
        "model": {key: np.full(value.shape, 2, np.float32) for key, value in bottom_up.items()},
        "__author__": "torchvision",
        "matching_heuristics": True,
    }
    path = tmp_path / "R-18.pkl"
    path.write_bytes(pickle.dumps(content))
    load_weights(model, str(path))
    assert all((value == 2).all() for value in detector.backbone.bottom_up.state_dict().values())


@pytest.mark.parametrize("name", ["detectron2/build_resnet_backbone", "build_resnet_backbone"])
def test_backbone_without_pyramid_is_refused(name, tiny_overrides):
    overrides = tiny_overrides("BlendMask", *RESNET_18, "MODEL.BACKBONE.NAME", name)
    with pytest.raises(ValueError, match="'build_resnet_backbone' is no feature pyramid"):
        build_model(load_config(overrides=overrides))


def test_detectron2s_pyramid_must_have_the_detectors_levels(tiny_overrides):
    name = ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"]  # p3 to p6
    with pytest.raises(ValueError, match="MODEL.FCOS: levels .*'p7'"):
        build_model(load_config(overrides=tiny_overrides("BlendMask", *RESNET_18, *name)))


# ------------------------------------------------------------------------------- bad checkpoints


def unchanged(model, load):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load()
    return all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("reader", ["checkpointer", "load_weights"])
def test_checkpoint_of_another_architecture_changes_nothing(
    reader, tiny_overrides, native_file, tmp_path
):
    _, path = native_file(load_native(overrides=tiny_overrides("FCOS")))
    model = build_model(load_config(overrides=tiny_overrides("BlendMask")))
    torch.save({"model": {"other.weight": torch.zeros(2)}}, tmp_path / "other.pth")

    def load():
        for file in (path, tmp_path / "other.pth"):
            with pytest.raises(ValueError, match="fit|none of its"):
                if reader == "checkpointer":
                    ComicsCheckpointer(model).load(str(file))
                else:
                    load_weights(model, str(file), must_fit=True)

    assert unchanged(model, load)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_pickle_that_carries_code_does_not_run_it(suffix, tiny_overrides, tmp_path):
    marker, path = tmp_path / "ran", tmp_path / f"evil{suffix}"
    path.write_bytes(pickle.dumps({"model": Evil(marker)}))
    model = build_model(load_config(overrides=tiny_overrides("FCOS")))
    with pytest.raises(Exception, match="nothing of it has been run|[Ww]eights"):
        ComicsCheckpointer(model).load(str(path))
    with pytest.raises(ValueError, match="nothing of it has been run"):
        load_weights(model, str(path))
    assert not marker.exists()


def test_truncated_model_file_is_an_error(tiny_overrides, native_file):
    _, path = native_file(load_native(overrides=tiny_overrides("FCOS")))
    path.write_bytes(path.read_bytes()[:2000])
    model = build_model(load_config(overrides=tiny_overrides("FCOS")))
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        ComicsCheckpointer(model).load(str(path))
    with pytest.raises(FileNotFoundError, match="MODEL.WEIGHTS: there is no file absent.pth"):
        load_weights(model, "absent.pth")


def test_instances_and_faces_are_each_others_inverse(scenes):
    _, (faces, _) = scenes
    scored = replace(faces, scores=torch.tensor([0.25, 0.75]), fake_probability=torch.ones(2) / 3)
    again = predicted_faces(prediction_instances(scored))
    for field in ("boxes", "labels", "scores", "masks", "fake_probability"):
        assert torch.equal(getattr(again, field), getattr(scored, field))
    assert again.image_size == scored.image_size
