import itertools
import math

import pytest
import torch

from comics.modeling.faces.layers import (
    LevelDiscriminator,
    binary_cross_entropy,
    reverse_gradient,
)
from comics.modeling.faces.metric_learning import pair_margin_loss
from comics.modeling.faces.triplet import triplet_loss

LABELS = [0, 1, 0, 1]


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("margin", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 1, 0, 1, 1], [0, 1], [1, 1, 1]])
def test_triplet_loss_is_the_formula(labels, margin):
    z = randn(len(labels), 3).requires_grad_()
    values = []
    for a, p, n in itertools.permutations(range(len(labels)), 3):
        if labels[a] == labels[p] != labels[n]:
            near = float((z[a] - z[p]).detach().square().sum())
            far = float((z[a] - z[n]).detach().square().sum())
            values.append(max(near - far + margin, 0))
    loss = triplet_loss(z, torch.tensor(labels), margin)
    loss.backward()
    assert loss.item() == pytest.approx(sum(values) / max(len(values), 1))
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("margin", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 1, 0, 1, 1], [0, 1], [1, 1, 1], [0]])
def test_pair_margin_loss_is_the_formula(labels, margin):
    z = randn(len(labels), 3).requires_grad_()
    same, apart = [], []
    for a, b in itertools.combinations(range(len(labels)), 2):
        distance = float((z[a] - z[b]).detach().norm())
        if labels[a] == labels[b]:
            same.append(distance**2)
        else:
            apart.append(max(margin - distance, 0) ** 2)
    loss = pair_margin_loss(z, torch.tensor(labels), margin)
    loss.backward()
    expected = sum(same) / max(len(same), 1) + sum(apart) / max(len(apart), 1)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert z.grad.isfinite().all()


def test_equal_embeddings_have_finite_gradients():
    z = torch.ones(3, 4, requires_grad=True)
    pair_margin_loss(z, torch.tensor([0, 1, 1]), 1.0).backward()
    assert z.grad.isfinite().all()


def test_gradient_is_reversed():
    x = randn(3).requires_grad_()
    (reverse_gradient(x, 0.5) ** 2).sum().backward()
    assert torch.allclose(x.grad, -0.5 * 2 * x)


def test_the_discriminator_learns_what_the_embeddings_unlearn():
    torch.manual_seed(0)
    network = LevelDiscriminator(4, 8)
    weak, strong = torch.randn(5, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    loss = network(weak, strong)
    p_weak, p_strong = network.layers(weak).sigmoid(), network.layers(strong).sigmoid()
    expected = (-p_weak.log().mean() - (1 - p_strong).log().mean()) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    own = torch.autograd.grad(loss, [weak, *network.parameters()], retain_graph=True)
    plain = torch.autograd.grad(expected, [weak, *network.parameters()])
    assert torch.allclose(own[0], -plain[0], atol=1e-6)
    for one, other in zip(own[1:], plain[1:], strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert network(weak, strong[:0]) == 0


def test_binary_cross_entropy_is_the_formula():
    logits = randn(4)
    p = [1 / (1 + math.exp(-v)) for v in logits]
    expected = -(math.log(1 - p[0]) + math.log(p[1]) + math.log(1 - p[2]) + math.log(p[3])) / 4
    assert binary_cross_entropy(logits, torch.tensor(LABELS)).item() == pytest.approx(expected)
    assert binary_cross_entropy(logits[:0], torch.zeros(0).long()) == 0


def test_l1_is_between_the_levels_of_the_same_frame(tiny_method, face_batch):
    method = tiny_method("L1Alignment")
    batch = face_batch(LABELS, valid=[True, False, True, True])
    loss = method(batch).losses["loss_l1"]
    weak, strong, valid = method.embed_levels(batch)
    pairs = zip(weak[valid], strong, strict=True)
    expected = sum((w - s).abs().mean().item() for w, s in pairs) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    same = face_batch(LABELS)
    same.views["strong"].copy_(same.images)
    assert method(same).losses["loss_l1"].item() == pytest.approx(0, abs=1e-6)


def test_mixed_cross_entropy_trains_on_both_levels(tiny_method, face_batch):
    mixed = tiny_method("CrossEntropy", "MODEL.FACE.CROSS_ENTROPY.MIXED", "True")
    assert mixed.views == ("strong",) and tiny_method("CrossEntropy").views == ()
    batch = face_batch(LABELS, valid=[True, False, True, True])
    loss = mixed(batch).losses["loss_ce"]
    images = torch.cat([batch.images, batch.views["strong"][[0, 2, 3]]])
    logits = mixed.map_logits(mixed.feature_map(images))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, torch.tensor([0, 1, 0, 1, 0, 0, 1]).float()
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_multiclass_probability_is_that_of_any_forgery(tiny_method, face_batch):
    method = tiny_method("MulticlassCrossEntropy", prepared=False).eval()
    crops = face_batch(LABELS).images
    with torch.no_grad():
        probabilities = method.class_logits(method.feature_map(crops)).softmax(dim=1)
        assert probabilities.shape == (4, 5)
        assert torch.allclose(method(crops).sigmoid(), 1 - probabilities[:, 0], atol=1e-6)


@pytest.mark.parametrize("branch", ["strong", "weak"])
def test_each_branch_sees_its_own_level(branch, tiny_method, face_batch):
    method = tiny_method("MetricLearning", "MODEL.FACE.METRIC.BRANCH", branch)
    seen = {}
    for name, encoder in (("own", method.encoder), ("other", method.training_only["encoder"])):
        encoder.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
    batch = face_batch(LABELS)
    forward_map = method.encoder.forward_map
    method.encoder.forward_map = lambda x: (seen.update(own=x), forward_map(x))[1]
    sum(method(batch).losses.values()).backward()
    weak, strong = batch.images, batch.views["strong"]
    own, other = (strong, weak) if branch == "strong" else (weak, strong)
    assert torch.equal(seen["own"], method.preprocess(own))
    assert torch.equal(seen["other"], method.preprocess(other))
    assert all(p.grad is not None for p in method.parameters())


def test_an_unknown_branch_is_refused(tiny_method):
    with pytest.raises(ValueError, match="METRIC.BRANCH"):
        tiny_method("MetricLearning", "MODEL.FACE.METRIC.BRANCH", "both")
