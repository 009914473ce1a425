import pytest
import torch
from torch import nn

from comics.config import load_config
from comics.modeling.face_forensics import FaceForensics
from comics.modeling.faces.build import build_face_method
from comics.modeling.faces.heat_map import gradient_heat_maps
from comics.ops.crops import crop_faces
from comics.registry import FACE_METHODS
from comics.structures import Faces

SIDE = 32
OPTIONS = ["MODEL.FACE.ENCODER", "SmallResNet", "MODEL.FACE.CROP_SIZE", str(SIDE)]


class Fixed(nn.Module):
    """Finds the same faces in every image: one place as real and as fake, another as fake."""

    def forward(self, images, targets=None, output_sizes=None):
        sizes = output_sizes or [tuple(image.shape[1:]) for image in images]
        boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.1, 0.1, 0.5, 0.62], [0.5, 0.5, 1.0, 1.0]])
        return [
            Faces(
                boxes * torch.tensor([w, h, w, h]),
                (h, w),
                torch.tensor([0, 1, 1]),
                torch.tensor([0.8, 0.4, 0.6]),
            )
            for h, w in sizes
        ]


def face_method(name="CrossEntropy"):
    torch.manual_seed(0)
    return build_face_method(load_config(None, [*OPTIONS, "MODEL.FACE.METHOD", name])).eval()


def forensics(**settings):
    return FaceForensics(Fixed(), face_method(), **settings).eval()


def pictures(count=3):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(0, 256, (3, 50 + 10 * i, 70), dtype=torch.uint8, generator=generator)
        for i in range(count)
    ]


BOXES = [
    torch.tensor([[3.0, 4, 30, 40], [-5, -5, 20, 20], [40, 10, 90, 70]]),
    torch.zeros(0, 4),
    torch.tensor([[10.0, 10, 60, 60]]),
]


@pytest.mark.parametrize("chunk", [1, 2, 3, 64])
def test_faces_of_all_images_are_as_each_alone(chunk):
    model, images = forensics(crops_per_forward=chunk), pictures()
    with torch.inference_mode():
        found = model.face_probability(images, BOXES)
        for image, boxes, said in zip(images, BOXES, found, strict=True):
            assert said.shape == (len(boxes),)
            for box, one in zip(boxes, said, strict=True):
                crop = crop_faces(image, box[None], SIDE, model.margin)
                assert torch.sigmoid(model.face(crop)).item() == pytest.approx(one.item(), abs=1e-5)


def test_crops_go_through_the_method_together(monkeypatch):
    model, sizes = forensics(crops_per_forward=3), []
    whole = model.face.feature_map
    monkeypatch.setattr(model.face, "feature_map", lambda x: sizes.append(len(x)) or whole(x))
    with torch.inference_mode():
        model.face_probability(pictures(), BOXES)
    assert sizes == [3, 1]


def test_no_image_and_no_face():
    model = forensics()
    with torch.inference_mode():
        assert model.face_probability([], []) == []
        assert [len(p) for p in model.face_probability(pictures(1), [torch.zeros(0, 4)])] == [0]
        assert model.crops([], []).shape == (0, 3, SIDE, SIDE)


def test_mirrored_faces_are_seen_too():
    model, images = forensics(mirror=True, crops_per_forward=3), pictures()
    with torch.inference_mode():
        found = torch.cat(model.face_probability(images, BOXES))
        crops = model.crops(images, BOXES)
        logits = torch.stack([model.face(crops), model.face(crops.flip(-1))])
    assert not torch.allclose(*logits)
    assert torch.allclose(torch.logit(found), logits.mean(0), atol=1e-4)


def test_temperature_divides_the_logit():
    model, images = forensics(), pictures()
    with torch.inference_mode():
        plain = torch.cat(model.face_probability(images, BOXES))
        model.face_temperature.fill_(2.0)
        softer = torch.cat(model.face_probability(images, BOXES))
    assert torch.allclose(torch.logit(softer), torch.logit(plain) / 2, atol=1e-5)


@pytest.mark.parametrize("output_size", [(40, 80), None])
def test_detections_get_the_fused_probability_of_their_place(output_size):
    model, image = forensics(), pictures(1)[0]
    sizes = None if output_size is None else [output_size]
    with torch.inference_mode():
        faces = model([image], output_sizes=sizes)[0]
        detected = Fixed()([image])[0].boxes[[0, 2]]
        said = model.face_probability([image], [detected])[0]
    own = torch.tensor([0.4 / 1.2, 0.6 / 0.65])  # the second was not detected as real: 0.05
    fused = torch.sigmoid((torch.logit(own) + torch.logit(said)) / 2)
    assert faces.fake_probability.tolist() == pytest.approx(fused[[0, 0, 1]].tolist(), abs=1e-4)
    assert faces.scores.tolist() == pytest.approx([0.8, 0.4, 0.6])


def test_training_is_refused():
    with pytest.raises(RuntimeError, match="train the detector and the face method"):
        forensics().train()(pictures(1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"fusion": "mean"},
        {"border": "wrap"},
        {"crops_per_forward": 0},
        {"crop_grid": -0.1},
        {"crop_grid": 1.5},
    ],
)
def test_unusable_settings(wrong):
    with pytest.raises(ValueError, match=repr(next(iter(wrong.values())))):
        forensics(**wrong)


# -- heat maps --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["CrossEntropy", "GuideSpace", "CompressionRelation"])
def test_heat_map_is_grad_cam(method):
    model = face_method(method)
    crops = torch.randint(0, 256, (3, 3, SIDE, SIDE)).float()
    with torch.inference_mode():  # as in a predictor
        heat = gradient_heat_maps(model, crops)
    assert heat.shape == (3, SIDE // 8, SIDE // 8)
    for crop, found in zip(crops, heat, strict=True):
        feature_map = model.feature_map(crop[None]).detach().requires_grad_()
        model.map_logits(feature_map).sum().backward()
        alpha = feature_map.grad[0].double().mean(dim=(1, 2))
        naive = torch.zeros(found.shape, dtype=torch.float64)
        for channel, weight in zip(feature_map[0].detach().double(), alpha, strict=True):
            naive += weight * channel
        naive = naive.clamp(min=0)
        expected = naive / naive.max() if naive.max() > 0 else naive
        assert torch.allclose(found.double(), expected, atol=1e-4)
    assert not any(p.grad is not None and p.grad.any() for p in model.encoder.parameters())


def test_heat_map_marks_what_speaks_for_fake():
    model = face_method()
    with torch.no_grad():
        feature_map = model.feature_map(torch.full((1, 3, SIDE, SIDE), 90.0))
        model.classifier.weight.fill_(1.0)
    heat = gradient_heat_maps(model, torch.full((1, 3, SIDE, SIDE), 90.0))[0]
    cells = feature_map[0].sum(dim=0).relu()
    assert torch.allclose(heat, cells / cells.max(), atol=1e-5)
    with torch.no_grad():
        model.classifier.weight.fill_(-1.0)  # features are positive: nothing speaks for fake
    assert not gradient_heat_maps(model, torch.full((1, 3, SIDE, SIDE), 90.0)).any()
    assert len(gradient_heat_maps(model, torch.zeros(0, 3, SIDE, SIDE))) == 0


@pytest.mark.parametrize("name", sorted(name for name, _ in FACE_METHODS))
def test_every_property_can_be_asked_for_before_training(name):
    """torch.jit.trace, and with it the tools that count operations, ask for all of them."""
    method = face_method(name)
    for attribute in dir(method):
        hasattr(method, attribute)  # anything but an AttributeError is raised


def test_a_joined_model_can_be_traced():
    class Tensors(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = forensics()

        def forward(self, image):
            (faces,) = self.model([image])
            return faces.boxes, faces.scores, faces.fake_probability

    (image,) = pictures(1)
    module = Tensors().eval()
    with torch.no_grad():
        traced = torch.jit.trace(module, image.float(), check_trace=False)
        for found, expected in zip(traced(image.float()), module(image.float()), strict=True):
            torch.testing.assert_close(found, expected)


def test_crops_on_a_grid():
    model, images = forensics(crop_grid=0.2), pictures()
    crops = torch.cat([
        crop_faces(image, boxes, SIDE, model.margin, grid=0.2)
        for image, boxes in zip(images, BOXES, strict=True)
    ])  # fmt: skip
    assert torch.equal(model.crops(images, BOXES), crops)
    assert not torch.equal(crops, forensics().crops(images, BOXES))
    # What moves by much less than a step gives the same, to the last bit
    with torch.inference_mode():
        said = torch.cat(model.face_probability(images, BOXES))
        moved = torch.cat(model.face_probability(images, [boxes + 0.01 for boxes in BOXES]))
    assert torch.equal(said, moved)
