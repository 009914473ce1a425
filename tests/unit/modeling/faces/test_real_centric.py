import copy
import itertools
import math

import pytest
import torch

from comics.modeling.faces.hard_features import HardFeatureMemory, mix, smooth
from comics.modeling.faces.supervised_contrastive import margin_loss
from comics.ops.similarity import unit

LABELS = [0, 1, 0, 1, 0, 1]
NODE = "MODEL.FACE.REAL_CENTRIC."


def vectors(count, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
@pytest.mark.parametrize(("batch", "extra", "negatives"), [(2, 0, 0), (6, 3, 0), (7, 4, 5)])
def test_margin_loss_is_the_formula(batch, extra, negatives, temperature):
    z, more, mixed = vectors(batch), vectors(extra, seed=1), vectors(negatives, seed=2)
    labels, more_labels = torch.arange(batch) % 2, torch.arange(extra) % 2
    found = margin_loss(
        z, labels, temperature, extra=more, extra_labels=more_labels, negatives=mixed
    )
    everything, all_labels = torch.cat([z, more]), torch.cat([labels, more_labels]).tolist()
    values = []
    for i in range(batch):
        others = [a for a in range(batch + extra) if a != i]
        bottom = sum(math.exp(z[i] @ everything[a] / temperature) for a in others)
        bottom += sum(math.exp(z[i] @ n / temperature) for n in mixed)
        own = [p for p in others if all_labels[p] == labels[i]]
        if own:
            logs = [math.log(math.exp(z[i] @ everything[p] / temperature) / bottom) for p in own]
            values.append(-sum(logs) / len(logs))
    expected = sum(values) / len(values) if values else 0.0
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_margin_loss_without_a_pair_is_an_exact_zero():
    z = vectors(2).requires_grad_()
    margin_loss(z, torch.tensor([0, 1]), 0.1).backward()
    assert (z.grad == 0).all()


def test_hard_features_are_the_extremes_of_everything_seen_this_epoch():
    memory = HardFeatureMemory(3, 5)
    seen = []
    for seed in range(4):
        z, labels = vectors(6, seed=seed).float(), torch.tensor(LABELS)
        memory.update_centre(z, labels)
        memory.update_hard(z, labels)
        seen.append(z)
    everything, labels = torch.cat(seen), torch.tensor(LABELS * 4)
    centre = unit(everything[labels == 0].mean(dim=0))
    assert torch.allclose(memory.centre(), centre, atol=1e-6)
    for label, sign in ((0, 1), (1, -1)):
        order = (sign * (memory.rows(label) @ centre)).tolist()
        assert len(order) == 3 and order == sorted(order)
    memory.reset()
    assert memory.centre() is None and len(memory.rows(0)) == 0
    memory.update_hard(everything, labels)
    assert len(memory.rows(1)) == 0  # nothing to compare with before the first real


def test_the_latest_centre_ranks_old_and_new_alike():
    memory = HardFeatureMemory(2, 2)
    axis = unit(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 1.0]]))
    memory.update_centre(axis[:1], torch.tensor([0]))
    memory.update_hard(axis, torch.ones(4).long())
    assert torch.equal(memory.rows(1), axis[[0, 1]])
    assert len(memory.rows(0)) == 0


@pytest.mark.parametrize("neighbours", [1, 2, 9])
def test_smoothing_is_the_mean_with_the_nearest(neighbours):
    hard, batch = vectors(3), vectors(5, seed=1)
    found = smooth(hard, batch, neighbours)
    for h, z in zip(hard, found, strict=True):
        nearest = sorted(batch, key=lambda b, h=h: -float(b @ h))[:neighbours]
        total = h + sum(nearest)
        assert torch.allclose(z.double(), total / total.norm(), atol=1e-6)
    assert smooth(hard, batch[:0], 2).shape == (0, 5)


def test_mixing_lies_between_an_anchor_and_its_nearest():
    torch.manual_seed(0)
    anchors, batch = vectors(2), vectors(6, seed=1)
    found = mix(anchors, batch, 4, 0.5).double()
    assert found.shape == (8, 5)
    for index, z in enumerate(found):
        anchor = anchors[index // 4]
        partner = sorted(batch, key=lambda b, a=anchor: -float(b @ a))[index % 4]
        plane = torch.stack([anchor, partner], dim=1)
        weights = torch.linalg.lstsq(plane, z[:, None]).solution.flatten()
        assert (weights >= -1e-6).all() and torch.allclose(plane @ weights, z, atol=1e-5)
    assert mix(anchors, batch[:0], 4, 0.5).shape == (0, 5)


def test_the_mixing_coefficient_is_u_shaped():
    torch.manual_seed(0)
    anchor, partner = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    share = torch.cat([mix(anchor, partner, 1, 0.5) for _ in range(2000)])
    share = share[:, 0] / share.sum(dim=1)
    ends = ((share < 0.1) | (share > 0.9)).float().mean().item()
    assert ends == pytest.approx(0.41, abs=0.05)  # Beta(0.5, 0.5): 4 / pi * asin(sqrt(0.1))
    assert share.mean().item() == pytest.approx(0.5, abs=0.05)


def stage_two(tiny_method, face_batch, train_step, optimizer_type, name="RealCentric", **settings):
    method = tiny_method(name)
    optimizer = optimizer_type(method.parameters(), **settings)
    for seed in range(3):
        train_step(method, optimizer, face_batch(LABELS, seed))
    method.start_epoch(1)
    return method, optimizer


@pytest.mark.parametrize(
    ("optimizer_type", "settings"),
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
        (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.1}),
    ],
)
def test_stage_two_moves_the_classifier_and_nothing_else(
    optimizer_type, settings, tiny_method, face_batch, train_step
):
    method, optimizer = stage_two(tiny_method, face_batch, train_step, optimizer_type, **settings)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    method.train()  # as after a validation
    assert not method.encoder.training
    for seed in range(3):
        output = train_step(method, optimizer, face_batch(LABELS, seed))
        assert set(output.losses) == {"loss_ce"}
    changed = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"classifier.weight", "classifier.bias", "training_only.clock.step"}
    assert method.training and not method.encoder.training


def test_stage_one_leaves_the_classifier_alone(tiny_method, face_batch, train_step):
    method = tiny_method("RealCentric")
    optimizer = torch.optim.SGD(method.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    before = method.classifier.weight.clone()
    for seed in range(2):
        assert set(train_step(method, optimizer, face_batch(LABELS, seed)).losses) == {
            "loss_contrastive"
        }
    assert torch.equal(before, method.classifier.weight)
    trained = [*method.encoder.parameters(), *method.training_only["projector"].parameters()]
    assert all(p.grad is not None for p in trained)


def test_a_checkpoint_of_stage_two_resumes_in_stage_two(tiny_method, face_batch, train_step):
    method, optimizer = stage_two(
        tiny_method, face_batch, train_step, torch.optim.SGD, lr=0.1, momentum=0.9
    )
    train_step(method, optimizer, face_batch(LABELS, 5))
    resumed = tiny_method("RealCentric")
    other = torch.optim.SGD(resumed.parameters(), 0.1, momentum=0.9)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in (6, 7):
        train_step(method, optimizer, face_batch(LABELS, seed))
        train_step(resumed, other, face_batch(LABELS, seed))
    for key, value in method.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_a_new_epoch_forgets_and_the_same_epoch_does_not(tiny_method, face_batch):
    method = tiny_method("RealCentric", NODE + "STAGE1_EPOCHS", "3")
    method(face_batch(LABELS))
    memory = method.training_only["memory"]
    assert memory.real_count == 6 and memory.held.tolist() == [3, 3]  # images and positives
    method.start_epoch(0)
    assert memory.real_count == 6
    method.start_epoch(1)
    assert memory.real_count == 0 and memory.held.tolist() == [0, 0] and memory.centre() is None


@pytest.mark.parametrize("fusion", ["smooth", "linear", "linear+smooth"])
@pytest.mark.parametrize("mixed", ["negatives", "fakes", "none"])
@pytest.mark.parametrize("positives", ["True", "False"])
def test_every_row_of_the_tables_trains(fusion, mixed, positives, tiny_method, face_batch):
    keys = {"FUSION": fusion, "MIXED": mixed, "POSITIVES": positives, "LINEAR_HARD": "2"}
    overrides = itertools.chain(*((NODE + k, v) for k, v in keys.items()))
    method = tiny_method("RealCentric", *overrides)
    method(face_batch(LABELS))
    z, labels = unit(torch.randn(12, 16)), torch.tensor(LABELS * 2)
    extra, extra_labels = method.fused_positives(z, labels)
    per_class = {"smooth": 3, "linear": 8, "linear+smooth": 8}[fusion] * (positives == "True")
    assert extra_labels.tolist() == [0] * per_class + [1] * per_class
    assert len(method.mixed_features(z, labels)) == (0 if mixed == "none" else 4 * 4)
    loss = method(face_batch(LABELS, 1)).losses["loss_contrastive"]
    loss.backward()
    assert loss.isfinite() and loss > 0


def test_only_stage_two_may_be_the_best(tiny_method):
    for name in ("RealCentric", "SupervisedContrastive"):
        method = tiny_method(name)
        assert not method.may_be_best and not tiny_method(name, prepared=False).may_be_best
        method.start_epoch(1)
        assert method.may_be_best
    assert tiny_method("CrossEntropy").may_be_best


def test_defaults_are_the_numbers_of_table_5(tiny_method, face_batch):
    from comics.config import get_cfg

    keys = get_cfg().MODEL.FACE.REAL_CENTRIC
    assert keys.HARD_SIZE == 32 and keys.LOCAL_HARD * keys.MIXED_NEIGHBOURS == 16


def test_without_its_features_it_is_supervised_contrastive_learning(tiny_method, face_batch):
    overrides = (NODE + "POSITIVES", "False", NODE + "MIXED", "none")
    batch = face_batch(LABELS)
    one = tiny_method("RealCentric", *overrides)(batch).losses["loss_contrastive"]
    two = tiny_method("SupervisedContrastive")(batch).losses["loss_contrastive"]
    assert torch.equal(one, two)
