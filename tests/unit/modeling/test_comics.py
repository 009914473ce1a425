import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import roi_align

from comics.config import load_config
from comics.modeling.comics import Comics
from comics.modeling.contrast import PixelContrast, ProposalContrast
from comics.modeling.detectors.base import Detector, LevelProposals, TrainingOutput
from comics.modeling.frequency import FrequencyAttention
from comics.modeling.weights import load_state
from comics.structures import Faces

CHANNELS = 6
LEVELS = ("p3", "p4")


class TinyBackbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 8, stride=8)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.down = nn.Conv2d(CHANNELS, CHANNELS, 2, stride=2)

    def forward(self, images):
        p3 = self.norm(self.stem(images)).relu()
        return {"p3": p3, "p4": self.down(p3)}


class TinyDetector(Detector):
    """The contract in miniature: every cell whose centre is in a face is its proposal."""

    def __init__(self):
        super().__init__(TinyBackbone(), [120.0] * 3, [60.0] * 3)
        self.head = nn.Conv2d(CHANNELS, 1, 1)

    def training_output(self, features, batch, targets):
        loss = sum(functional.softplus(self.head(f)).mean() for f in features.values())
        proposals = {n: self.assign(n, features[n].shape[-1], targets) for n in features}
        return TrainingOutput(
            {"loss_detect": loss}, features, proposals, features["p3"], {"positives": loss.detach()}
        )

    def assign(self, level, width, targets):
        stride = 2 ** int(level[1:])
        found = []
        for image, faces in enumerate(targets):
            for index, (x0, y0, x1, y1) in enumerate(faces.boxes.tolist()):
                for row in range(-int(-y0 // stride), int(y1 // stride)):
                    columns = range(-int(-x0 // stride), int(x1 // stride))
                    found += [(image, index, row * width + column) for column in columns]
        table = torch.tensor(found, dtype=torch.int64).reshape(-1, 3)
        boxes = [targets[i].boxes[f] for i, f, _ in found]
        boxes = torch.stack(boxes) if boxes else torch.zeros(0, 4)
        return LevelProposals(table[:, 0], table[:, 1], boxes, table[:, 2])

    def infer(self, features, batch, output_sizes):
        found = []
        for position, size in enumerate(output_sizes):
            score = self.head(features["p3"])[position].sigmoid().amax()[None]
            box = torch.tensor([[0.0, 0.0, size[1], size[0]]])
            found.append(Faces(box, tuple(size), torch.tensor([1]), scores=score))
        return found

    def roi_mask_features(self, output, boxes, size):
        return roi_align(output.mask_features, list(boxes), size, 1 / 8, aligned=True)


def comics(detector=None, frequency=True, proposal=True, pixel=True, **kwargs):
    torch.manual_seed(0)

    def contrast():
        return ProposalContrast(
            in_channels=CHANNELS, levels=LEVELS, level_weights=(0.5, 1.0), dim=4, bank_size=8
        )

    return Comics(
        detector or TinyDetector(),
        frequency=FrequencyAttention(channels=(4, 4)) if frequency else None,
        proposal_contrast=contrast if proposal else None,
        pixel_contrast=PixelContrast(size=8, margin=0, sampling="all") if pixel else None,
        **kwargs,
    )


def sample(seed=0, labels=(0, 1), size=(64, 64)):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[0.0, 0, 32, 32], [32, 32, 64, 64]])[: len(labels)]
    masks = torch.zeros(len(labels), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0 + 8 : y1 - 4, x0 + 6 : x1 - 2] = True
    return image, Faces(boxes, size, torch.tensor(labels, dtype=torch.int64), masks=masks)


def views(seed=0, **kwargs):
    (q, faces), (k, _) = sample(seed, **kwargs), sample(seed + 100, **kwargs)
    return [q, q.flip(0)], [faces, faces], [k, k.flip(0)]


def training_step(model, seed=0, **kwargs):
    images, targets, keys = views(seed, **kwargs)
    return model(images, targets, key_images=keys)


@pytest.mark.parametrize("frequency", [True, False])
@pytest.mark.parametrize("proposal", [True, False])
@pytest.mark.parametrize("pixel", [True, False])
def test_each_addition_switches_on_its_own(frequency, proposal, pixel):
    model = comics(frequency=frequency, proposal=proposal, pixel=pixel)
    model.prepare_training()
    output = training_step(model)
    expected = {"loss_detect"}
    expected |= {"loss_proposal_contrast"} if proposal else set()
    expected |= {"loss_pixel_intra", "loss_pixel_inter"} if pixel else set()
    assert set(output.losses) == expected
    assert ("proposal_info_nce" in output.metrics) == proposal
    assert output.metrics.get("pixel_faces", 0) == (4 if pixel else 0)
    assert "positives" in output.metrics
    assert model.needs_key_images == proposal
    assert any(k.startswith("frequency.") for k in model.state_dict()) == frequency
    assert any(k.startswith("training_only.") for k in model.state_dict()) == proposal


def test_without_additions_it_is_the_detector():
    detector = TinyDetector()
    model = comics(detector, frequency=False, proposal=False, pixel=False)
    images, targets, _ = views()
    plain, wrapped = detector.train()(images, targets), model.train()(images, targets)
    assert torch.equal(plain.losses["loss_detect"], wrapped.losses["loss_detect"])
    plain, wrapped = detector.eval()(images), model.eval()(images, output_sizes=[(32, 40)] * 2)
    assert torch.equal(plain[0].scores, wrapped[0].scores)
    assert wrapped[0].image_size == (32, 40)


class Guessing(TinyDetector):
    """Detects the faces that it is given, with masks of a half of their box."""

    def __init__(self, side, count=2):
        super().__init__()
        self.side, self.count = side, count

    def found(self, features, batch):
        assert not self.training
        assert not torch.is_grad_enabled()
        boxes = torch.tensor([[0.0, 0, 32, 32], [32, 32, 64, 64]])[: self.count]
        masks = torch.zeros(len(boxes), 64, 64, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
            half = (x0 + x1) // 2
            mask[y0:y1, slice(x0, half) if self.side == "left" else slice(half, x1)] = True
        labels = torch.ones(len(boxes), dtype=torch.int64)
        one = Faces(boxes, (64, 64), labels, scores=torch.ones(len(boxes)), masks=masks)
        return [one] * len(batch.sizes)


def test_predicted_masks_part_the_regions_and_get_no_gradient():
    """The pixel losses are those of the predicted masks, whatever is annotated."""
    wanted, found = {}, {}
    images, targets, keys = views()
    for side in ("left", "right"):
        model = comics(Guessing(side), proposal=False)
        model.pixel_contrast = PixelContrast(size=8, margin=0, sampling="all", masks="predicted")
        output = model.train()(images, targets)
        assert output.metrics["pixel_faces"] == 4
        found[side] = output.losses["loss_pixel_intra"]
        found[side].backward()
        assert model.detector.head.weight.grad is None
        assert model.detector.training
        masks = Guessing(side).eval()
        with torch.no_grad():
            (one, _) = masks.found({}, model.detector.preprocess(images))
        annotated = [Faces(f.boxes, f.image_size, f.labels, masks=one.masks) for f in targets]
        model.pixel_contrast = PixelContrast(size=8, margin=0, sampling="all")
        wanted[side] = model(images, annotated).losses["loss_pixel_intra"]
        assert found[side].item() == pytest.approx(wanted[side].item(), rel=1e-5)
    assert abs(found["left"].item() - found["right"].item()) > 1e-4


def test_without_a_detection_predicted_masks_give_connected_zeros():
    model = comics(Guessing("left", count=0), proposal=False)
    model.pixel_contrast = PixelContrast(size=8, margin=0, sampling="all", masks="predicted")
    images, targets, _ = views()
    output = model.train()(images, targets)
    assert output.metrics["pixel_faces"] == 0
    for name in ("loss_pixel_intra", "loss_pixel_inter"):
        assert output.losses[name].item() == 0
        assert output.losses[name].requires_grad


def test_a_rule_that_the_detector_cannot_serve_is_named():
    def contrast():
        return ProposalContrast(
            in_channels=CHANNELS, levels=LEVELS, level_weights=(0.5, 1.0), dim=4, match="any"
        )

    model = Comics(TinyDetector(), proposal_contrast=contrast)
    model.prepare_training()
    with pytest.raises(ValueError, match="TinyDetector does not give its proposals"):
        training_step(model.train())


def test_losses_are_weighted():
    weights = {"proposal_weight": 0.5, "intra_weight": 0.2, "inter_weight": 0.3}
    ones = dict.fromkeys(weights, 1.0)
    names = ("loss_proposal_contrast", "loss_pixel_intra", "loss_pixel_inter")
    results = []
    for kwargs in (weights, ones):
        model = comics(**kwargs)
        model.prepare_training()
        training_step(model)
        results.append(training_step(model, 1).losses)
    for name, factor in zip(names, (0.5, 0.2, 0.3), strict=True):
        assert results[1][name].item() > 0
        assert results[0][name].item() == pytest.approx(factor * results[1][name].item(), rel=1e-5)
    assert results[1]["loss_proposal_contrast"].item() == pytest.approx(1.5)  # sum of omega


def test_gradients_exist_where_they_must_and_only_there():
    model = comics()
    model.prepare_training()
    training_step(model)
    additions = model.training_only
    for name in ("loss_proposal_contrast", "loss_pixel_intra", "loss_pixel_inter"):
        model.zero_grad()
        training_step(model, 1).losses[name].backward()
        reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert any(n.startswith("detector.backbone.") for n in reached), name
        assert any(n.startswith("frequency.") for n in reached), name
        projected = any(n.startswith("training_only.contrast.projections") for n in reached)
        assert projected == (name == "loss_proposal_contrast")
        assert not any(n.startswith("detector.head") for n in reached)
    assert all(p.grad is None for p in additions["key_encoder"].parameters())
    assert not any(buffer.requires_grad for buffer in model.buffers())


@pytest.mark.parametrize("labels", [(), (0,), (1,), (0, 1)])
def test_every_trained_parameter_gets_a_finite_gradient_whatever_the_faces(labels):
    model = comics()
    model.prepare_training()
    for seed in range(2):
        model.zero_grad()
        output = training_step(model, seed, labels=labels)
        sum(output.losses.values()).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert torch.isfinite(parameter.grad).all(), name
        if len(labels) < 2:
            for name in ("loss_proposal_contrast", "loss_pixel_intra", "loss_pixel_inter"):
                assert output.losses[name].item() == 0
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_key_view_sees_the_key_images_through_the_key_encoder():
    model = comics()
    model.prepare_training()
    images, targets, keys = views()
    targets[1] = Faces.empty((64, 64))  # so every key is of the first image
    with torch.no_grad():
        for parameter in model.training_only["key_encoder"].parameters():
            parameter.mul_(1.1)
    model(images, targets, key_images=keys)
    key = model.training_only["key_encoder"].encoder
    with torch.no_grad():
        features = key["backbone"](model.detector.preprocess(keys).tensor)
        features = key["frequency"](features, keys, (64, 64))["p3"]
        vectors = key["projections"]["p3"](features[0].flatten(1).T)
        vectors = functional.normalize(vectors, dim=1)
    rows = model.training_only["contrast"].banks["p3"].rows(0)
    assert len(rows) == 5  # the enqueue of one step
    assert (rows @ vectors.T).amax(dim=1) == pytest.approx(torch.ones(5), abs=1e-5)


def test_key_encoder_moves_only_after_an_optimiser_step():
    model = comics(key_momentum=0.75)
    model.prepare_training()
    key = model.training_only["key_encoder"].encoder
    start = {name: value.clone() for name, value in key.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.5)
    training_step(model)
    sum(training_step(model, 1).losses.values()).backward()
    optimizer.step()
    assert all(torch.equal(start[name], value) for name, value in key.named_parameters())
    model.after_optimizer_step()
    query = {
        **{f"backbone.{n}": p for n, p in model.detector.backbone.named_parameters()},
        **{f"frequency.{n}": p for n, p in model.frequency.named_parameters()},
        **{
            f"projections.{n}": p
            for n, p in model.training_only["contrast"].projections.named_parameters()
        },
    }
    assert set(query) == set(start)
    for name, value in key.named_parameters():
        expected = 0.75 * start[name].double() + 0.25 * query[name].detach().double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7)
    moved = [n for n in start if not torch.equal(start[n], query[n])]
    assert {"backbone.stem.weight", "frequency.convs.0.weight", "projections.p3.weight"} <= set(
        moved
    )
    assert torch.equal(key["backbone"].norm.running_mean, model.detector.backbone.norm.running_mean)


def test_state_for_inference_fits_a_fresh_model_and_nothing_of_training_stays():
    model = comics()
    fresh = comics()
    assert set(model.state_dict()) == set(model.inference_state_dict())
    model.prepare_training()
    sum(training_step(model).losses.values()).backward()
    state = model.inference_state_dict()
    assert not any(name.startswith("training_only.") for name in state)
    load_state(fresh, state, "memory")
    image, _ = sample()
    model.eval(), fresh.eval()
    with torch.no_grad():
        assert torch.equal(model([image])[0].scores, fresh([image])[0].scores)


def test_training_state_resumes_exactly():
    first, second = comics(), comics()
    first.prepare_training()
    for seed in range(2):
        training_step(first, seed)
        first.after_optimizer_step()
    second.prepare_training()
    second.load_state_dict(first.state_dict())
    for model in (first, second):
        model.train()
    one, other = training_step(first, 7), training_step(second, 7)
    for name, loss in one.losses.items():
        assert torch.equal(loss, other.losses[name])
    for (name, value), again in zip(
        first.state_dict().items(), second.state_dict().values(), strict=True
    ):
        assert torch.equal(value, again), name


def test_two_backward_passes_may_follow_two_forward_passes():
    """Banks change between forward and backward; what the losses saved must not."""
    model = comics()
    model.prepare_training()
    training_step(model)
    outputs = [training_step(model, seed) for seed in (1, 2)]
    for output in outputs:
        sum(output.losses.values()).backward()
    assert torch.isfinite(model.detector.backbone.stem.weight.grad).all()


def test_faults_are_named():
    images, targets, keys = views()
    model = comics()
    with pytest.raises(RuntimeError, match="prepare_training"):
        model(images, targets, key_images=keys)
    model.prepare_training()
    with pytest.raises(RuntimeError, match="already"):
        model.prepare_training()
    with pytest.raises(ValueError, match="key_images"):
        model(images, targets)
    with pytest.raises(ValueError, match="sizes"):
        model(images, targets, key_images=[k[:, :32] for k in keys])
    with pytest.raises(ValueError, match="2 images, none"):
        model(images, key_images=keys)

    class Maskless(TinyDetector):
        def training_output(self, *args):
            output = super().training_output(*args)
            return TrainingOutput(output.losses, output.features, output.proposals)

    with pytest.raises(ValueError, match="Maskless gives no mask features"):
        comics(Maskless(), proposal=False)(images, targets)


def test_from_config_reads_its_section():
    overrides = [
        "MODEL.FPN.OUT_CHANNELS", str(CHANNELS), "MODEL.COMICS.KEY_MOMENTUM", "0.5",
        "MODEL.COMICS.PROPOSAL.LEVELS", "['p3', 'p4']",
        "MODEL.COMICS.PROPOSAL.LEVEL_WEIGHTS", "[0.5, 2.0]",
        "MODEL.COMICS.PROPOSAL.WEIGHT", "0.7", "MODEL.COMICS.PROPOSAL.BANK_SIZE", "9",
        "MODEL.COMICS.PROPOSAL.MINING", "cross", "MODEL.COMICS.PROPOSAL.ENQUEUE", "2",
        "MODEL.COMICS.PIXEL.INTRA_WEIGHT", "0.8", "MODEL.COMICS.PIXEL.INTER_WEIGHT", "0.9",
        "MODEL.COMICS.PIXEL.SAMPLING", "all", "MODEL.COMICS.PIXEL.PAIRS", "image",
    ]  # fmt: skip
    model = Comics.from_config(load_config(overrides=overrides), TinyDetector())
    model.prepare_training()
    contrast = model.training_only["contrast"]
    weights = (model.proposal_weight, model.intra_weight, model.inter_weight, model.key_momentum)
    assert weights == (0.7, 0.8, 0.9, 0.5)
    assert contrast.weights["p4"] == 2.0
    assert contrast.banks["p3"].banks[0].storage.shape == (9, 128)
    assert (contrast.banks["p3"].mining, contrast.banks["p3"].per_step) == ("cross", 2)
    assert (model.pixel_contrast.sampling, model.pixel_contrast.pairs) == ("all", "image")
    off = load_config(
        overrides=[
            "MODEL.COMICS.FEA.ENABLED",
            "False",
            "MODEL.COMICS.PROPOSAL.ENABLED",
            "False",
            "MODEL.COMICS.PIXEL.ENABLED",
            "False",
        ]  # fmt: skip
    )
    plain = Comics.from_config(off, TinyDetector())
    assert plain.frequency is None
    assert plain.pixel_contrast is None
    assert not plain.needs_key_images
