import logging
import math

import pytest
import torch

from comics.modeling.faces.feature_bank import FeatureBank
from comics.modeling.faces.guide_losses import (
    draw_columns,
    guide_loss,
    log_probabilities,
    pull_loss,
    push_floor,
    push_loss,
    sample_weights,
)
from comics.modeling.faces.guide_space import Guides, domain_angles
from comics.modeling.faces.guides import guide_embeddings


def scene(batch, size, seed=0):
    """Cosines of a batch with a bank whose last rows are the batch itself."""
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(size, 6, generator=generator, dtype=torch.float64)
    bank = bank / bank.norm(dim=1, keepdim=True)
    own = torch.zeros(batch, size, dtype=torch.bool)
    own[torch.arange(batch), size - batch + torch.arange(batch)] = True
    domains = torch.randint(0, 4, (size,), generator=generator)
    return bank[-batch:], bank, own, domains[-batch:], domains


@pytest.mark.parametrize("temperature", [0.1, 0.7])
@pytest.mark.parametrize(("batch", "size"), [(1, 1), (3, 5), (4, 30)])
def test_guide_loss_is_the_formula(batch, size, temperature):
    features, bank, own, domains, _ = scene(batch, size)
    guides = guide_embeddings(3, 6, 120.0).double()
    found = guide_loss(features @ bank.T, own, features @ guides.T, domains, temperature)
    for i in range(batch):
        terms = [
            math.exp(features[i] @ v / temperature)
            for v, o in zip(bank, own[i], strict=True)
            if not o
        ]
        terms += [math.exp(features[i] @ g / temperature) for g in guides]
        top = math.exp(features[i] @ guides[domains[i]] / temperature)
        assert found[i].item() == pytest.approx(-math.log(top / sum(terms)), rel=1e-9)


@pytest.mark.parametrize(("batch", "size", "neighbours"), [(2, 9, 3), (5, 40, 12), (4, 14, 13)])
def test_sample_weights_are_the_formula(batch, size, neighbours):
    features, bank, own, domains, bank_domains = scene(batch, size, seed=3)
    similarity = features @ bank.T
    found = sample_weights(similarity, own, domains, bank_domains, neighbours, 0.5)
    confidences = []
    for i in range(batch):
        rest = [
            (float(similarity[i, j]), int(bank_domains[j])) for j in range(size) if not own[i, j]
        ]
        nearest = sorted(rest, reverse=True)[:neighbours]
        same = sum(max(s, 0) for s, d in nearest if d == domains[i])
        other = sum(
            max(s, 0) * (0.5 if d != 0 and domains[i] != 0 else 1.0)
            for s, d in nearest
            if d != domains[i]
        )
        confidences.append(same / (same + other) if same + other > 0 else 0.0)
    total = sum(math.exp(-c) for c in confidences)
    expected = torch.tensor([math.exp(-c) / total for c in confidences], dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=1e-9)
    assert found.sum().item() == pytest.approx(1)


def test_weights_are_equal_while_the_bank_is_small():
    features, bank, own, domains, bank_domains = scene(3, 6)
    weights = sample_weights(features @ bank.T, own, domains, bank_domains, 6, 0.5)
    assert torch.allclose(weights, torch.full((3,), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("floor", [-1.5, -30.0])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_push_and_pull_are_the_formulas(temperature, floor):
    features, bank, own, _, _ = scene(4, 12, seed=5)
    values = features @ bank.T
    similarity = values.clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.rand(4, 12, generator=generator) > 0.6) & ~own
    drawn[2] = False
    log_probability = log_probabilities(similarity, own, temperature)
    pulls, pushes = [], []
    for i in (0, 1, 3):
        bottom = sum(math.exp(values[i, j] / temperature) for j in range(12) if not own[i, j])
        p = [math.exp(values[i, j] / temperature) / bottom for j in range(12) if drawn[i, j]]
        pulls.append(sum(-math.log(v) for v in p) / len(p))
        pushes.append(sum(max(math.log(v), floor) for v in p) / len(p))
    pull, push = pull_loss(log_probability, drawn), push_loss(log_probability, drawn, floor)
    assert pull.item() == pytest.approx(sum(pulls) / 3, rel=1e-9)
    assert push.item() == pytest.approx(sum(pushes) / 3, rel=1e-9)
    (gradient,) = torch.autograd.grad(pull, similarity, retain_graph=True)
    assert (gradient[2] == 0).all() and (gradient[own] == 0).all()
    (gradient,) = torch.autograd.grad(push, similarity)
    below = log_probability.detach() < floor
    if below[drawn].all():
        assert (gradient == 0).all()
    else:  # Pulling raises the similarity of drawn features, pushing lowers it
        assert gradient[drawn & ~below].sum() > 0


@pytest.mark.parametrize(("size", "temperature"), [(13, 0.1), (5120, 0.1), (5120, 0.5)])
def test_the_push_has_a_gradient_like_the_pull_s(size, temperature):
    """The form -log(1 - e^l) had 1e-4 to 1e-7 of it."""
    features, bank, own, _, _ = scene(4, size, seed=2)
    drawn = torch.zeros(4, size, dtype=torch.bool)
    for row in range(4):  # the likest of F, which a push is for
        drawn[row, (features[row] @ bank.T).masked_fill(own[row], -2).topk(3).indices] = True
    norms = {}
    for name in ("pull", "push"):
        z = features.clone().requires_grad_()
        value = log_probabilities(z @ bank.T, own, temperature)
        floor = push_floor(size - 1, temperature)
        loss = pull_loss(value, drawn) if name == "pull" else push_loss(value, drawn, floor)
        (gradient,) = torch.autograd.grad(loss, z)
        norms[name] = gradient.norm().item()
    assert norms["push"] == pytest.approx(norms["pull"], rel=1e-6)


def test_the_floor_is_a_cosine_of_one_below_the_others():
    # All others at cosine 1 with the sample, one of them at 0: exactly the floor but for that one
    value = log_probabilities(torch.tensor([[1.0] * 999 + [0.0, 1.0]]),
                              torch.tensor([[False] * 1000 + [True]]), 0.1)  # fmt: skip
    assert value[0, 999].item() == pytest.approx(push_floor(1000, 0.1), abs=2e-3)


def test_a_domain_of_its_own_is_left_out_of_the_guide_loss(tiny_method, face_batch):
    """As printed, two features of one domain repel each other; masked, they do not."""
    batch = face_batch([0, 0, 1, 1])
    values = {}
    for masked in ("False", "True"):
        method = tiny_method("GuideSpace", "MODEL.FACE.GUIDE_SPACE.MASK_SAME_DOMAIN", masked)
        values[masked] = method(batch).losses["loss_guide"].item()
    assert values["True"] < values["False"]
    method = tiny_method("GuideSpace", "MODEL.FACE.GUIDE_SPACE.MASK_SAME_DOMAIN", "True")
    with torch.no_grad():
        features = method.embed(method.feature_map(batch.images))
        features = torch.nn.functional.normalize(features, dim=1)
    guides = method.training_only["guides"]
    method(batch)
    target = guides.assign(features, batch.methods)[batch.methods]
    expected = 0.0
    for i in range(4):
        others = [j for j in range(4) if batch.methods[j] != batch.methods[i]]
        terms = [math.exp(features[i] @ features[j] / 0.1) for j in others]
        terms += [math.exp(features[i] @ g / 0.1) for g in guides.embeddings]
        top = features[i] @ guides.embeddings[target[i]] / 0.1
        expected += (math.log(sum(terms)) - top.item()) / 4
    assert values["True"] == pytest.approx(expected, rel=1e-4)


def test_angles_of_domains_are_those_of_their_means():
    features = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 1.0, 0], [0, -0.6, 0.8]])
    real, between = domain_angles(features, torch.tensor([0, 1, 1, 2]))
    assert real.item() == pytest.approx(90)
    assert between.item() == pytest.approx(math.degrees(math.acos(-0.6)))
    assert domain_angles(features[1:3], torch.tensor([1, 1])) == (None, None)
    assert domain_angles(features[1:], torch.tensor([1, 1, 2]))[0] is None


def angle_after(method, batch, train_step, steps=60):
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    for _ in range(steps):
        metrics = train_step(method, optimizer, batch).metrics
    return {name: value.item() for name, value in metrics.items()}


def test_an_embedding_reaches_what_features_after_a_relu_cannot(
    tiny_method, face_batch, train_step, caplog
):
    batch = face_batch([0, 1, 0, 1, 0, 1])
    batch.methods.copy_(batch.labels)
    key = "MODEL.FACE.GUIDE_SPACE.EMBEDDING_DIM"
    with caplog.at_level(logging.WARNING, logger="comics"):
        plain = angle_after(tiny_method("GuideSpace"), batch, train_step)
    assert caplog.text.count("EMBEDDING_DIM") == 1
    caplog.clear()
    embedded = angle_after(tiny_method("GuideSpace", key, "8"), batch, train_step)
    assert "EMBEDDING_DIM" not in caplog.text
    assert plain["angle_real_fake_wanted"] == pytest.approx(120, abs=0.01)
    assert plain["angle_real_fake"] <= 90
    assert embedded["angle_real_fake"] > 100


def test_wanted_angles_are_logged_beside_the_reached_ones(tiny_method, face_batch):
    metrics = tiny_method("GuideSpace")(face_batch([0, 1] * 4)).metrics
    assert metrics["angle_between_fakes_wanted"].item() == pytest.approx(90, abs=0.01)
    assert 0 <= metrics["angle_between_fakes"].item() <= 180
    assert not tiny_method("GuideSpace")(face_batch([0, 0])).metrics


def test_a_floor_above_zero_is_refused(tiny_method):
    with pytest.raises(ValueError, match="PUSH_FLOOR"):
        tiny_method("GuideSpace", "MODEL.FACE.GUIDE_SPACE.PUSH_FLOOR", "0.5")


def test_nothing_drawn_is_an_exact_zero_even_in_a_bank_of_one():
    similarity = torch.ones(1, 1, requires_grad=True)
    own = torch.ones(1, 1, dtype=torch.bool)
    log_probability = log_probabilities(similarity, own, 0.1)
    loss = pull_loss(log_probability, ~own) + push_loss(log_probability, ~own, -1.0)
    loss.backward()
    assert loss == 0 and similarity.grad == 0


def test_drawing_is_without_replacement_and_fair():
    torch.manual_seed(0)
    eligible = torch.zeros(2000, 12, dtype=torch.bool)
    eligible[:, 2:10] = True
    eligible[0] = False
    eligible[1, :] = False
    eligible[1, 4] = True
    drawn = draw_columns(eligible, 3)
    assert not (drawn & ~eligible).any()
    assert drawn[0].sum() == 0 and drawn[1].sum() == 1
    assert (drawn[2:].sum(dim=1) == 3).all()
    share = drawn[2:, 2:10].float().mean(dim=0)
    assert (share - 3 / 8).abs().max() < 0.05


def test_the_feature_bank_knows_its_own_batch_after_wrapping():
    bank = FeatureBank(5, 2)
    for start in (0, 3, 6):
        features = torch.arange(start, start + 3)[:, None].repeat(1, 2).float()
        held = bank.push(features, torch.arange(start, start + 3), torch.full((3,), -1))
    assert held.features[:, 0].tolist() == [4, 5, 6, 7, 8]
    assert held.domains.tolist() == [4, 5, 6, 7, 8] and held.clusters.tolist() == [-1] * 5
    assert held.own.nonzero().tolist() == [[0, 2], [1, 3], [2, 4]]
    with pytest.raises(ValueError, match="batch of 6"):
        bank.push(torch.zeros(6, 2), torch.zeros(6).long(), torch.zeros(6).long())


def test_domains_keep_their_mean_while_absent():
    embeddings = guide_embeddings(2, 4, 120.0)
    guides = Guides(embeddings, momentum=0.9)
    first = guides.assign(embeddings[[0, 2, 1]], torch.tensor([0, 1, 2]))
    assert first.tolist() == [0, 2, 1]  # domain 1 lies on guide 2
    assert torch.allclose(guides.means, embeddings[[2, 1]])
    again = guides.assign(embeddings[[0]], torch.tensor([0]))  # reals only
    assert again.tolist() == [0, 2, 1]
    guides.assign(embeddings[[1]], torch.tensor([1]))
    assert torch.allclose(guides.means[0], 0.9 * embeddings[2] + 0.1 * embeddings[1])
    assert torch.allclose(guides.means[1], embeddings[1])


def test_a_fake_of_unknown_method_is_refused(tiny_method, face_batch):
    for name in ("GuideSpace", "MulticlassCrossEntropy"):
        method, batch = tiny_method(name), face_batch([0, 1, 1])
        batch.methods[2] = -1
        with pytest.raises(ValueError, match=r"crop2\.png: .*1\.\.4, got -1"):
            method(batch)


def test_the_guide_loss_draws_a_domain_to_its_guide(tiny_method, face_batch, train_step):
    method = tiny_method("GuideSpace")
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    batch = face_batch([0, 1, 1, 0])
    batch.methods.copy_(torch.tensor([0, 1, 1, 0]))

    def cosine():
        with torch.no_grad():
            feature = method.encoder(method.preprocess(batch.images))
        guide = method.training_only["guides"].embeddings[0]
        return torch.nn.functional.cosine_similarity(feature[[0, 3]], guide).mean().item()

    before = cosine()
    for _ in range(15):
        train_step(method, optimizer, batch)
    assert cosine() > before + 0.1


@pytest.mark.parametrize(
    ("key", "loss"), [("GUIDE", "loss_guide"), ("PUSH", "loss_push"), ("PULL", "loss_pull")]
)
def test_a_weight_of_zero_leaves_the_term_out(key, loss, tiny_method, face_batch):
    with_it = tiny_method("GuideSpace")(face_batch([0, 1] * 4))
    without = tiny_method("GuideSpace", f"MODEL.FACE.GUIDE_SPACE.{key}_WEIGHT", "0.0")
    assert loss in with_it.losses
    assert loss not in without(face_batch([0, 1] * 4)).losses


def test_adjustment_starts_at_its_epoch(tiny_method, face_batch):
    method = tiny_method("GuideSpace", "MODEL.FACE.GUIDE_SPACE.ADJUST_EPOCH", "2")
    batch = face_batch([0, 1] * 6)
    equal = torch.full((12,), 1 / 12)
    seen = []
    method._weights, original = lambda *a: seen.append(original(*a)) or seen[-1], method._weights
    for epoch in range(3):
        method.start_epoch(epoch)
        method(batch)
    assert torch.allclose(seen[0], equal) and torch.allclose(seen[1], equal)
    assert not torch.allclose(seen[2], equal) and seen[2].sum().item() == pytest.approx(1)
