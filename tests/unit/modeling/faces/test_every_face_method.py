"""What holds for every registered face method; a new one is tested once it is registered."""

import copy
import warnings

import pytest
import torch

import comics.modeling.faces  # noqa: F401
from comics.registry import FACE_METHODS

TWO_STAGE = {"RealCentric", "SupervisedContrastive"}
LABELS = [0, 1, 0, 1, 0, 1, 0, 1]


def optimizer_of(method, lr=0.01):
    return torch.optim.SGD(method.parameters(), lr, momentum=0.9, weight_decay=0.01)


def losses_of(output):
    return {name: loss.item() for name, loss in output.losses.items()}


def finite_gradients(method):
    return all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_the_table_holds_the_papers_methods_and_baselines():
    assert {name for name, _ in FACE_METHODS} >= {
        "DCL", "RealCentric", "GuideSpace", "CompressionRelation", "CrossEntropy",
        "MulticlassCrossEntropy", "SupervisedContrastive", "L1Alignment", "AdversarialAlignment",
        "Triplet", "MetricLearning",
    }  # fmt: skip


@pytest.mark.parametrize("encoder", ["ThreeConvolutions", "resnet10t"])
def test_two_steps_then_a_fresh_model_predicts_the_same(
    face_method, encoder, tiny_method, face_batch, train_step
):
    method = tiny_method(face_method, "MODEL.FACE.ENCODER", encoder)
    optimizer = optimizer_of(method)
    for seed in range(2):
        output = train_step(method, optimizer, face_batch(LABELS, seed))
        assert output.losses
        assert all(torch.isfinite(loss) for loss in output.losses.values()), output.losses
        assert all(loss.ndim == 0 for loss in output.losses.values())
    assert finite_gradients(method)
    fresh = tiny_method(face_method, "MODEL.FACE.ENCODER", encoder, prepared=False).eval()
    result = fresh.load_state_dict(method.inference_state_dict(), strict=True)
    assert not result.missing_keys
    crops = face_batch([0, 1, 1], 7).images
    with torch.no_grad():
        before, after = method.eval()(crops), fresh(crops.float())
    assert before.shape == (3,) and before.dtype == torch.float32
    assert torch.equal(before, after)


def test_prediction_is_of_each_crop_alone_and_of_none(face_method, tiny_method, face_batch):
    method = tiny_method(face_method, prepared=False).eval()
    crops = face_batch([0, 1, 1], 7).images
    with torch.no_grad():
        together = method(crops)
        alone = torch.cat([method(crop[None]) for crop in crops])
        none = method(crops[:0])
    assert torch.allclose(together, alone, atol=1e-4)
    assert none.shape == (0,)


def test_training_modules_are_absent_from_the_model_file(face_method, tiny_method):
    bare, prepared = tiny_method(face_method, prepared=False), tiny_method(face_method)
    assert prepared.inference_state_dict().keys() == bare.state_dict().keys()
    with pytest.raises(RuntimeError, match="already"):
        prepared.prepare_training()
    with pytest.raises(RuntimeError, match="prepare_training"):
        bare(None)


def test_a_checkpoint_continues_the_run_exactly(face_method, tiny_method, face_batch, train_step):
    straight = tiny_method(face_method)
    optimizer = optimizer_of(straight)
    for seed in range(2):
        train_step(straight, optimizer, face_batch(LABELS, seed))
    resumed = tiny_method(face_method)
    other = optimizer_of(resumed)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed.start_epoch(0)  # the epoch that the checkpoint was written in
    for seed in range(2, 4):
        torch.manual_seed(seed)
        one = train_step(straight, optimizer, face_batch(LABELS, seed))
        torch.manual_seed(seed)
        two = train_step(resumed, other, face_batch(LABELS, seed))
        assert losses_of(one) == losses_of(two)
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]], ids=["reals", "fakes"])
def test_a_batch_of_one_class_is_legal(face_method, labels, tiny_method, face_batch, train_step):
    method = tiny_method(face_method)
    optimizer = optimizer_of(method)
    for seed in range(2):
        output = train_step(method, optimizer, face_batch(labels, seed))
        assert all(torch.isfinite(loss) for loss in output.losses.values()), output.losses
        assert finite_gradients(method)
    assert all(value.isfinite().all() for value in method.state_dict().values())


@pytest.mark.parametrize("valid", [False, [True, False, False, True]], ids=["none", "some"])
def test_samples_without_pairs_are_legal(face_method, valid, tiny_method, face_batch, train_step):
    method = tiny_method(face_method)
    optimizer = optimizer_of(method)
    for seed in range(2):
        output = train_step(method, optimizer, face_batch([0, 1, 0, 1], seed, valid=valid))
        assert all(torch.isfinite(loss) for loss in output.losses.values()), output.losses
        assert finite_gradients(method)
    assert all(value.isfinite().all() for value in method.state_dict().values())


def test_mixed_precision_trains(face_method, tiny_method, face_batch):
    method = tiny_method(face_method)
    for seed in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            output = method(face_batch(LABELS, seed))
        total = sum(output.losses.values())
        total.backward()
        assert total.isfinite() and finite_gradients(method)


def test_overfits_eight_crops(face_method, tiny_method, face_batch, train_step):
    method = tiny_method(face_method)
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    batch = face_batch(LABELS)
    epochs = (0, 1) if face_method in TWO_STAGE else (0,)
    for epoch in epochs:
        method.start_epoch(epoch)
        for _ in range(30):
            train_step(method, optimizer, batch)
    if face_method == "CompressionRelation":  # F' is an average over thousands of steps
        method.tests_with_momentum = False
    for module in method.modules():  # batch statistics of few steps are not settled either
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad(), warnings.catch_warnings():
        method.train()
        method.encoder.train()  # also where a second stage froze it
        method.feature_map(batch.images)
        logits = method.eval()(batch.images)
    assert ((logits > 0).long() == batch.labels).all(), logits


def test_bad_batches_are_refused(face_method, tiny_method, face_batch):
    method = tiny_method(face_method)
    batch = face_batch(LABELS)
    object.__setattr__(batch, "labels", torch.tensor([0, 1, 0, 2, 0, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"crop3\.png: label must be 0 .* got 2"):
        method(batch)
    if method.views:
        with pytest.raises(ValueError, match=f"view '{method.views[0]}'"):
            method(face_batch(LABELS, views=()))
    with pytest.raises(ValueError, match=r"\[N, 3, h, w\]"):
        method.eval()(torch.zeros(2, 1, 64, 64))


def test_what_a_method_declares_is_all_that_it_reads(face_method, tiny_method, face_batch):
    method = tiny_method(face_method)
    batch = face_batch(LABELS, views=method.views, masks=method.needs_masks)
    if not method.needs_methods:
        object.__setattr__(batch, "methods", torch.full((8,), -1))
    if not method.needs_clusters:
        object.__setattr__(batch, "clusters", torch.full((8,), -1))
    method(batch)


@pytest.mark.parametrize("valid", [True, False])
def test_every_parameter_gets_a_gradient(face_method, tiny_method, face_batch, valid):
    """Else DistributedDataParallel would wait for one, unless the method says so."""
    method = tiny_method(face_method)
    if method.skips_parameters:
        assert face_method in ("MetricLearning", "RealCentric", "SupervisedContrastive")
        return
    for epoch, labels in ((0, LABELS), (3, [0, 0, 0, 0])):
        method.start_epoch(epoch)
        method.zero_grad()
        sum(method(face_batch(labels, 0, valid)).losses.values()).backward()
        without = [
            name for name, p in method.named_parameters() if p.requires_grad and p.grad is None
        ]
        assert not without, f"epoch {epoch}"
