import logging
import math

import pytest
import torch

from comics.modeling.faces.dcl import (
    forged_contrast_loss,
    inter_instance_loss,
    real_consistency_loss,
)
from comics.modeling.faces.selective_banks import SelectiveBanks
from comics.ops.similarity import unit

LABELS = [0, 1, 0, 1]


def vectors(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return rows / rows.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("temperature", [0.07, 0.7])
@pytest.mark.parametrize("sizes", [(3, 5), (1, 40), (0, 4)])
def test_inter_instance_loss_is_the_formula(sizes, temperature):
    query, key = vectors(5, 9), vectors(5, 9, seed=1)
    labels = torch.tensor([0, 1, 1, 0, 1])
    banks = [vectors(size, 9, seed=2 + size) for size in sizes]
    values = []
    for q, k, label in zip(query, key, labels, strict=True):
        top = math.exp(q @ k / temperature)
        rest = sum(math.exp(q @ u / temperature) for u in banks[1 - label])
        values.append(-math.log(top / (top + rest)))
    found = inter_instance_loss(query, key, labels, banks, temperature)
    assert found.item() == pytest.approx(sum(values) / 5, rel=1e-9)


@pytest.mark.parametrize("temperature", [0.07, 0.7])
@pytest.mark.parametrize("cells", [4, 9])
def test_forged_contrast_is_the_formula(cells, temperature):
    features = vectors(3, cells, 6)
    forged = torch.rand(3, cells, generator=torch.Generator().manual_seed(1)) > 0.5
    forged[0, 0], forged[0, 1], forged[1] = True, False, True  # the second has no real cell
    forged[2, 0], forged[2, 1] = True, False
    values = []
    for f, mask in ((features[0], forged[0]), (features[2], forged[2])):
        real = f[~mask]
        rr = sum(math.exp(a @ b / temperature) for a in real for b in real)
        fr = sum(math.exp(a @ b / temperature) for a in f[mask] for b in real)
        values.append(-math.log(rr / (rr + fr)))
    found = forged_contrast_loss(features @ features.mT, forged, temperature)
    assert found.item() == pytest.approx(sum(values) / 2, rel=1e-9)


@pytest.mark.parametrize("fill", [True, False])
def test_a_fake_of_one_kind_of_cell_gives_an_exact_zero(fill):
    similarity = vectors(2, 4, 4).requires_grad_()
    loss = forged_contrast_loss(similarity, torch.full((2, 4), fill), 0.07)
    loss.backward()
    assert loss == 0 and (similarity.grad == 0).all()


@pytest.mark.parametrize("temperature", [0.07, 0.7])
def test_real_consistency_is_the_formula_a_constant_apart(temperature):
    features = vectors(3, 5, 4)
    values = []
    for f in features:
        terms = [math.exp(a @ b / temperature) for a in f for b in f]
        values.append(-math.log(sum(terms) / len(terms)))
    found = real_consistency_loss(features @ features.mT, temperature)
    assert found.item() == pytest.approx(sum(values) / 3, rel=1e-9)
    alike = real_consistency_loss(torch.ones(1, 5, 5), temperature)
    assert alike.item() == pytest.approx(-1 / temperature, rel=1e-5)


def banks(select, **overrides):
    settings = {"size": 8, "dim": 3, "momentum": 0.5, "threshold": 0.5, "topk": 1}
    return SelectiveBanks(**{**settings, **overrides}, select=select)


def test_only_keys_near_the_other_prototype_are_kept():
    memory = banks("threshold")
    keys = unit(torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [1.0, 0.2, 0], [0, 1.0, 0.2]]))
    labels = torch.tensor([0, 1, 1, 1])
    memory.update(keys, labels)
    real, fake = memory.rows()
    prototype = unit(keys[1:].mean(dim=0))
    assert torch.allclose(memory.prototypes.vectors, torch.stack([keys[0], prototype]))
    assert torch.equal(fake, keys[[2]])  # cosine with (1, 0, 0): 0, 0.98, 0
    assert torch.equal(real, keys[[0]] if keys[0] @ prototype > 0.5 else keys[:0])
    memory.update(keys[[3]], labels[[3]])
    assert torch.allclose(
        memory.prototypes.vectors[1], unit(0.5 * prototype + 0.5 * keys[3]), atol=1e-6
    )


def test_rules_without_threshold():
    keys = unit(torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [1.0, 0.2, 0], [1.0, 0, 0]]))
    labels = torch.tensor([0, 1, 1, 1])
    everything, hardest = banks("all"), banks("topk")
    everything.update(keys[1:], labels[1:])
    hardest.update(keys[1:], labels[1:])
    assert torch.equal(everything.rows()[1], keys[1:])
    assert len(hardest.rows()[1]) == 0  # no real seen yet: nothing to be near to
    hardest.update(keys, labels)
    assert torch.equal(hardest.rows()[1], keys[[3]])
    with pytest.raises(ValueError, match="threshold"):
        banks("hard")


def test_the_key_encoder_follows_and_gets_no_gradient(tiny_method, face_batch, train_step):
    method = tiny_method("DCL")
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.1)
    key_encoder = method.training_only["key_encoder"]
    before = [p.clone() for p in key_encoder.encoder.parameters()]
    train_step(method, optimizer, face_batch(LABELS))
    train_step(method, optimizer, face_batch(LABELS, 1))
    assert all(p.grad is None and not p.requires_grad for p in key_encoder.parameters())
    network = [*method.encoder.parameters(), *method.training_only["embedding"].parameters()]
    moved = 0
    for old, new, query in zip(before, key_encoder.encoder.parameters(), network, strict=True):
        assert not torch.equal(new, query) or torch.equal(old, query)
        moved += not torch.equal(old, new)
    assert moved == len(before)
    assert all(p.grad is not None for p in network)


def test_first_step_has_nothing_to_contrast_with_second_has(tiny_method, face_batch):
    method = tiny_method("DCL")
    assert method(face_batch(LABELS)).losses["loss_inter"] == 0
    assert [len(rows) for rows in method.training_only["banks"].rows()] == [2, 2]
    assert method(face_batch(LABELS, 1)).losses["loss_inter"] > 0


def test_weights_of_warm_up_and_after(tiny_method, face_batch):
    method = tiny_method("DCL")
    state = {k: v.clone() for k, v in method.state_dict().items()}
    first = method(face_batch(LABELS)).losses
    method.load_state_dict(state)
    method.start_epoch(5)
    later = method(face_batch(LABELS)).losses
    assert later["loss_ce"].item() == pytest.approx(first["loss_ce"].item() * 0.5 / 0.9, rel=1e-5)
    assert later["loss_intra_real"].item() == pytest.approx(
        first["loss_intra_real"].item() * 5, rel=1e-5
    )


def test_weights_scale_their_terms(tiny_method, face_batch):
    losses = {}
    for weights in ("[1.0, 1.0, 1.0]", "[2.0, 0.5, 0.25]"):
        method = tiny_method("DCL", "MODEL.FACE.DCL.WEIGHTS", weights)
        method(face_batch(LABELS))
        batch = face_batch(LABELS, 1)
        batch.valid["paired_real"][:] = False  # noise, which is all forged: the masks tell
        losses[weights] = method(batch).losses
    plain, scaled = losses.values()
    for name, factor in (("inter", 2), ("intra_fake", 0.5), ("intra_real", 0.25)):
        value = plain[f"loss_{name}"].item()
        assert value != 0
        assert scaled[f"loss_{name}"].item() == pytest.approx(factor * value, rel=1e-4)
    assert scaled["loss_ce"].item() == pytest.approx(plain["loss_ce"].item(), rel=1e-5)
    for wrong in ("[1.0, 1.0]", "[1.0, -1.0, 1.0]"):
        with pytest.raises(ValueError, match="WEIGHTS"):
            tiny_method("DCL", "MODEL.FACE.DCL.WEIGHTS", wrong)


def test_the_share_of_accepted_keys_is_counted(tiny_method, face_batch):
    method = tiny_method("DCL", "MODEL.FACE.DCL.SELECT_THRESHOLD", "2.0")  # no cosine is above 1
    assert method(face_batch(LABELS)).metrics["accepted"] == 0
    assert tiny_method("DCL")(face_batch(LABELS)).metrics["accepted"] == 1  # threshold -1
    assert "accepted" not in tiny_method("DCL")(face_batch(LABELS, valid=False)).metrics


@pytest.mark.parametrize(
    ("threshold", "spread", "warned"), [(0.5, 0.0, True), (2.0, 1.0, True), (0.0, 1.0, False)]
)
def test_a_threshold_that_selects_nothing_is_warned_of_once(threshold, spread, warned, caplog):
    memory = banks("threshold", threshold=threshold, dim=8, size=64)
    generator = torch.Generator().manual_seed(0)
    shares = []
    with caplog.at_level(logging.WARNING, logger="comics"):
        for _ in range(60):
            keys = torch.ones(40, 8) + 10 * spread * torch.randn(40, 8, generator=generator)
            shares.append(memory.update(unit(keys), torch.arange(40) % 2))
    assert caplog.text.count("accepts") == warned
    if not warned:
        assert 0.1 < sum(shares) / 60 < 0.9
    assert memory.update(keys[:0], torch.zeros(0).long()) is None


def test_regions_come_from_the_paired_real_then_the_mask_then_nowhere(tiny_method, face_batch):
    method = tiny_method("DCL")
    batch = face_batch([1, 1, 1, 0])
    real = batch.images.clone()
    real[:, :, :32] = batch.images[:, :, :32] ^ 128  # the upper half differs by 128
    batch.views["paired_real"].copy_(real)
    batch.valid["paired_real"].copy_(torch.tensor([True, False, False, True]))
    batch.valid["mask"].copy_(torch.tensor([True, True, False, True]))
    forged, known = method._forged_cells(batch, (8, 8))
    assert known.tolist() == [True, True, False, False]
    upper = torch.zeros(8, 8, dtype=torch.bool)
    upper[:4] = True
    middle = torch.zeros(8, 8, dtype=torch.bool)
    middle[2:6, 2:6] = True
    assert torch.equal(forged[0].view(8, 8), upper)
    assert torch.equal(forged[1].view(8, 8), middle)


def test_switches_narrow_what_a_sample_must_bring(tiny_method, face_batch):
    plain = tiny_method("DCL", "MODEL.FACE.DCL.INTER", "False", "MODEL.FACE.DCL.INTRA", "False")
    assert plain.views == () and not plain.needs_masks
    losses = plain(face_batch(LABELS, views=())).losses
    assert set(losses) == {"loss_ce"} and plain.phi == 0
    inter = tiny_method("DCL", "MODEL.FACE.DCL.INTRA", "False")
    assert inter.views == ("key",)
    assert set(inter(face_batch(LABELS)).losses) == {"loss_ce", "loss_inter"}


def test_crops_of_another_size_are_refused(tiny_method, face_batch):
    with pytest.raises(ValueError, match="16 cells.*64"):
        tiny_method("DCL")(face_batch(LABELS, side=32))


@pytest.mark.parametrize("side", [299, 64])
def test_the_paper_s_embedding_has_100_dimensions_at_299(side, tiny_method):
    method = tiny_method(
        "DCL", "MODEL.FACE.ENCODER", "resnet10t", "MODEL.FACE.CROP_SIZE", str(side)
    )
    assert method.training_only["banks"].dim == {299: 100, 64: 4}[side]
