import math

import pytest
import torch

from comics.modeling.faces.compression_relation import (
    relation_loss,
    video_contrast_loss,
    warmed_momentum,
)

LABELS = [0, 1, 0, 1]
NODE = "MODEL.FACE.COMPRESSION_RELATION."


def vectors(count, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("temperatures", [(0.04, 0.1), (0.5, 1.0)])
@pytest.mark.parametrize(("batch", "size"), [(1, 1), (3, 7), (4, 30)])
def test_relation_loss_is_the_formula(batch, size, temperatures):
    weak, strong, bank = vectors(batch), vectors(batch, seed=1), vectors(size, seed=2)
    values = []
    for w, s in zip(weak, strong, strict=True):
        top_w = [math.exp(w @ u / temperatures[0]) for u in bank]
        top_s = [math.exp(s @ u / temperatures[1]) for u in bank]
        values.append(
            -sum(
                a / sum(top_w) * math.log(b / sum(top_s)) for a, b in zip(top_w, top_s, strict=True)
            )
        )
    found = relation_loss(weak, strong, bank, *temperatures)
    assert found.item() == pytest.approx(sum(values) / batch, rel=1e-9, abs=1e-12)


def test_only_the_strong_side_learns_from_the_relation():
    weak, strong = vectors(3).requires_grad_(), vectors(3, seed=1).requires_grad_()
    relation_loss(weak, strong, vectors(9, seed=2), 0.04, 0.1).backward()
    assert weak.grad is None and (strong.grad != 0).any()


@pytest.mark.parametrize("temperature", [0.07, 0.7])
@pytest.mark.parametrize("labels", [[0, 1, 1, 0, 1], [0, 0, 0, 0, 0]])
def test_video_contrast_is_the_formula(labels, temperature):
    query, key = vectors(5), vectors(5, seed=1)
    banks = [vectors(4, seed=2), vectors(7, seed=3)]
    total = 0.0
    for label in (0, 1):
        values = []
        for i in (i for i in range(5) if labels[i] == label):
            top = math.exp(query[i] @ key[i] / temperature)
            rest = sum(math.exp(query[i] @ u / temperature) for u in banks[1 - label])
            values.append(-math.log(top / (top + rest)))
        total += sum(values) / len(values) if values else 0.0
    found = video_contrast_loss(query, key, torch.tensor(labels), banks, temperature)
    assert found.item() == pytest.approx(total, rel=1e-9)


def test_banks_take_the_keys_after_the_losses(tiny_method, face_batch):
    method = tiny_method("CompressionRelation")
    first = method(face_batch(LABELS, valid=[True, True, False, True])).losses
    assert first["loss_relation"] == 0 and first["loss_contrast"] == 0  # empty banks
    assert [len(bank) for bank in method.training_only["banks"]] == [1, 2]
    second = method(face_batch(LABELS, 1)).losses
    assert second["loss_relation"] > 0 and second["loss_contrast"] > 0
    assert [len(bank) for bank in method.training_only["banks"]] == [3, 4]
    for bank in method.training_only["banks"]:
        assert torch.allclose(bank.rows().norm(dim=1), torch.ones(len(bank)), atol=1e-5)


def test_predicts_with_the_momentum_networks(tiny_method, face_batch, train_step):
    crops = face_batch(LABELS, 9).images
    results = {}
    for choice in ("momentum", "query"):
        method = tiny_method("CompressionRelation", NODE + "TEST_WITH", choice)
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.5)
        for seed in range(3):
            train_step(method, optimizer, face_batch(LABELS, seed))
        with torch.no_grad():
            results[choice] = method.eval()(crops)
            momentum = method.training_only["momentum"]
            expected = {
                "momentum": method.predict(momentum(method.preprocess(crops))),
                "query": method.predict(method.projector(method.encoder(method.preprocess(crops)))),
            }[choice]
        assert torch.allclose(results[choice], expected, atol=1e-6)
        fresh = tiny_method("CompressionRelation", NODE + "TEST_WITH", choice, prepared=False)
        fresh.load_state_dict(method.inference_state_dict())
        with torch.no_grad():
            assert torch.equal(fresh.eval()(crops), results[choice])
    assert not torch.allclose(results["momentum"], results["query"])


def test_weights_of_warm_up_and_after(tiny_method, face_batch, train_step):
    method = tiny_method(
        "CompressionRelation", NODE + "BETA", "[1.0, 1.0]", NODE + "WARMUP_STEPS", "2"
    )
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.0)
    values = [train_step(method, optimizer, face_batch(LABELS)).losses for _ in range(4)]
    method.training_only["clock"].step.fill_(1)
    again = method(face_batch(LABELS)).losses
    method.training_only["clock"].step.fill_(2)
    after = method(face_batch(LABELS)).losses
    assert values[1]["loss_contrast"] < 0.05 * values[2]["loss_contrast"]
    assert again["loss_contrast"] < 0.05 * after["loss_contrast"]


@pytest.mark.parametrize(
    ("relation", "contrast", "test_with", "losses", "modules"),
    [
        ("False", "False", "query", {"loss_ce"}, {"clock"}),
        ("False", "False", "momentum", {"loss_ce"}, {"clock", "momentum"}),
        ("True", "False", "momentum", {"loss_ce", "loss_relation"}, {"clock", "momentum", "banks"}),
        ("False", "True", "momentum", {"loss_ce", "loss_contrast"}, {"clock", "momentum", "banks"}),
    ],
)
def test_rows_of_table_3(relation, contrast, test_with, losses, modules, tiny_method, face_batch):
    keys = {"RELATION": relation, "CONTRAST": contrast, "TEST_WITH": test_with}
    overrides = [word for key, value in keys.items() for word in (NODE + key, value)]
    method = tiny_method("CompressionRelation", *overrides)
    assert set(method(face_batch(LABELS)).losses) == losses
    assert set(method.training_only.keys()) == modules
    assert ("other" in method.views) == ("banks" in modules)


def test_the_momentum_warms_up_to_its_value():
    assert [warmed_momentum(0.999, step) for step in (0, 90)] == [0.1, 0.91]
    assert warmed_momentum(0.999, 8990) == 8991 / 9000
    assert warmed_momentum(0.999, 9000) == 0.999


def test_with_a_warm_up_the_momentum_networks_keep_up(tiny_method, face_batch, train_step):
    """Share of the way that F went which F' has gone too, after 40 steps."""
    followed = {}
    for warm_up in ("True", "False"):
        method = tiny_method("CompressionRelation", NODE + "MOMENTUM_WARMUP", warm_up)
        start = torch.cat([p.detach().flatten().clone() for p in method.encoder.parameters()])
        optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], 1e-2)
        for seed in range(40):
            train_step(method, optimizer, face_batch(LABELS, seed))
        now = torch.cat([p.detach().flatten() for p in method.encoder.parameters()])
        slow = method.training_only["momentum"].encoder[0].parameters()
        behind = torch.cat([p.flatten() for p in slow])
        followed[warm_up] = 1 - ((now - behind).norm() / (now - start).norm()).item()
    assert followed["True"] > 0.7 and followed["False"] < 0.1
