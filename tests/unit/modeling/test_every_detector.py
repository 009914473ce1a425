"""What holds for every registered detector, plain and as its COMICS variant.

A detector is tested here the moment it is registered: built from a configuration, trained two
steps, overfitted on a handful of images, saved, reloaded, and asked for the same output again.
"""

import pytest
import torch

from comics.modeling.build import FAST_LAYOUT, build_model, load_model
from comics.modeling.weights import save_weights
from comics.ops.boxes import box_iou
from comics.structures import Faces


def scene(seed: int, size=(96, 128)) -> tuple[torch.Tensor, Faces]:
    """A grey image with a smooth bright ellipse (real) and a striped one (fake)."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    image = torch.full((3, height, width), 90.0)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    boxes, masks = [], []
    for label in (0, 1):
        cx = 32 + 64 * label + float(torch.randint(-6, 7, (1,), generator=generator))
        cy = 48 + float(torch.randint(-12, 13, (1,), generator=generator))
        rx, ry = 20, 26
        mask = ((columns - cx) / rx) ** 2 + ((rows - cy) / ry) ** 2 < 1
        value = 200.0 if label == 0 else 120.0 + 100.0 * (columns % 4 < 2)
        image = torch.where(mask, torch.as_tensor(value), image)
        boxes.append([cx - rx, cy - ry, cx + rx, cy + ry])
        masks.append(mask)
    image += torch.randn(image.shape, generator=generator) * 4
    faces = Faces(torch.tensor(boxes), size, torch.tensor([0, 1]), masks=torch.stack(masks))
    return image.clamp(0, 255).to(torch.uint8), faces


def training_step(model, optimizer, images, targets):
    needs_keys = getattr(model, "needs_key_images", False)
    output = model(images, targets, key_images=images) if needs_keys else model(images, targets)
    optimizer.zero_grad()
    sum(output.losses.values()).backward()
    optimizer.step()
    model.after_optimizer_step()
    return output


@pytest.fixture
def prepared(tiny_config):
    """Function: the model of that name, ready to be trained."""

    def prepare(name: str):
        torch.manual_seed(0)
        model = build_model(tiny_config(name))
        model.prepare_training()
        return model.train()

    return prepare


def test_two_steps_then_save_and_reload_gives_the_same_output(
    mask_detector, prepared, tiny_config, tmp_path
):
    model = prepared(mask_detector)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.01)
    images, targets = map(list, zip(*(scene(i) for i in range(2)), strict=True))
    for _ in range(2):
        output = training_step(model, optimizer, images, targets)
        assert all(torch.isfinite(loss) for loss in output.losses.values()), output.losses
    state = model.inference_state_dict()
    path = tmp_path / "model.safetensors"
    save_weights(path, state, tiny_config(mask_detector), {})
    reloaded, _, _ = load_model(path)
    model.to(memory_format=FAST_LAYOUT).eval()  # or sums would be rounded otherwise
    with torch.no_grad():
        before, after = model(images), reloaded(images)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
        assert one.masks is None or torch.equal(one.masks, other.masks)


def test_every_trained_parameter_gets_a_gradient(mask_detector, prepared):
    model = prepared(mask_detector)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.0)
    images, targets = map(list, zip(*(scene(i) for i in range(2)), strict=True))
    training_step(model, optimizer, images, targets)
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_batches_without_faces_or_with_one_class_are_legal(mask_detector, prepared):
    model = prepared(mask_detector)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.001)
    image, faces = scene(0)
    smaller = image[:, :70, :90].contiguous()
    none = Faces.empty((70, 90))
    for images, targets in (
        ([smaller, smaller], [none, none]),
        ([image, smaller], [faces, none]),
        ([image], [faces[[1]]]),
        ([image], [faces[[0]]]),
    ):
        output = training_step(model, optimizer, images, targets)
        assert all(torch.isfinite(loss) for loss in output.losses.values())
        missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []


def missed(model, images, targets):
    """A sentence for each face that is not found where it is, with its class and its mask."""
    model.eval()
    with torch.no_grad():
        found = model(images)
    model.train()
    faults = []
    for number, (faces, truth) in enumerate(zip(found, targets, strict=True)):
        for label in (0, 1):
            mine, face = faces[faces.labels == label], f"image {number}, class {label}"
            if not len(mine):
                faults.append(f"{face}: not found")
                continue
            best, wanted = mine[[int(mine.scores.argmax())]], truth[[label]]
            if not (overlap := box_iou(best.boxes, wanted.boxes).item()) > 0.6:
                faults.append(f"{face}: IoU of boxes {overlap}")
            if best.masks is not None:
                both = (best.masks & wanted.masks).sum() / (best.masks | wanted.masks).sum()
                if not both > 0.6:
                    faults.append(f"{face}: IoU of masks {both}")
    return faults


@pytest.mark.slow
def test_overfits_a_handful_of_images(longest_training, prepared):
    """In 70 steps, or fewer where that is enough."""
    model = prepared(longest_training)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 2e-3)
    images, targets = map(list, zip(*(scene(i) for i in range(4)), strict=True))
    for step in range(1, 71):
        training_step(model, optimizer, images, targets)
        if step >= 30 and step % 5 == 0 and not (faults := missed(model, images, targets)):
            return
    assert not faults


def test_an_unknown_architecture_lists_the_choices(tiny_config):
    with pytest.raises(KeyError, match="BlendMask"):
        build_model(tiny_config("BlendMsk"))
