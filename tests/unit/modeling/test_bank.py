from collections import deque

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import multiprocessing

from comics.modeling.bank import ClassBanks, Prototypes, RingBuffer, gather_rows
from comics.ops.similarity import unit


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.lists(st.integers(0, 17), max_size=8))
def test_ring_buffer_is_a_bounded_queue(size, pushes):
    ring, queue, value = RingBuffer(size, 2), deque(maxlen=size), 0
    for count in pushes:
        rows = [[value + i, -(value + i)] for i in range(count)]
        value += count
        ring.push(torch.tensor(rows, dtype=torch.float32).reshape(-1, 2))
        queue.extend(rows)
        assert len(ring) == len(queue)
        assert ring.rows().tolist() == list(queue)


def test_ring_buffer_state_is_saved_and_rows_are_a_copy():
    ring = RingBuffer(3, 2)
    ring.push(torch.arange(10.0).reshape(5, 2))
    before = ring.rows()
    again = RingBuffer(3, 2)
    again.load_state_dict(ring.state_dict())
    assert torch.equal(again.rows(), before)
    again.push(torch.zeros(1, 2))
    ring.push(torch.full((3, 2), 9.0))
    assert before.tolist() == [[4, 5], [6, 7], [8, 9]]
    assert again.rows().tolist() == [[6, 7], [8, 9], [0, 0]]


def test_ring_buffer_needs_room():
    with pytest.raises(ValueError, match="size 0"):
        RingBuffer(0, 4)


def test_prototypes_follow_the_formula_and_ignore_absent_classes():
    prototypes = Prototypes(2, 3, momentum=0.9)
    prototypes.update(0, torch.zeros(0, 3))
    assert not prototypes.seen.any()
    first, second = unit(torch.randn(4, 3)), unit(torch.randn(2, 3))
    prototypes.update(1, first)
    mean = first.double().mean(0)
    expected = mean / mean.norm()
    torch.testing.assert_close(prototypes.vectors[1].double(), expected, atol=1e-6, rtol=0)
    prototypes.update(1, second)
    expected = 0.9 * expected + 0.1 * second.double().mean(0)
    expected /= expected.norm()
    torch.testing.assert_close(prototypes.vectors[1].double(), expected, atol=1e-6, rtol=0)
    assert prototypes.seen.tolist() == [False, True]
    assert torch.equal(prototypes.vectors[0], torch.zeros(3))


@pytest.mark.parametrize("update", ["proposal", "batch"])
@pytest.mark.parametrize("counts", [(1,), (4, 1), (7, 60, 2)])
def test_prototypes_equal_a_loop_over_keys(update, counts):
    """In float64: eq. 2 of the COMICS paper once per key, or once with the mean of a step."""
    torch.manual_seed(len(counts))
    prototypes = Prototypes(1, 5, momentum=0.9, update=update)
    wanted = None
    for count in counts:
        keys = unit(torch.randn(count, 5))
        prototypes.update(0, keys)
        steps = keys.double() if update == "proposal" else keys.double().mean(0, keepdim=True)
        for key in steps:
            wanted = key if wanted is None else 0.9 * wanted + 0.1 * key
        wanted = wanted / wanted.norm()
        torch.testing.assert_close(prototypes.vectors[0].double(), wanted, atol=1e-5, rtol=0)


def test_per_proposal_the_last_of_many_keys_decide():
    """A step of 60 keys that turn from one direction to another: the two rules disagree."""
    keys = torch.zeros(60, 2)
    keys[:40, 0], keys[40:, 1] = 1.0, 1.0
    found = {}
    for update in ("proposal", "batch"):
        prototypes = Prototypes(1, 2, momentum=0.9, update=update)
        prototypes.update(0, keys)
        found[update] = prototypes.vectors[0]
    assert found["proposal"][1] > 0.98  # 1 - 0.9 ** 20 of it is of the last 20
    assert found["batch"][0] > 0.89  # 2 / sqrt(5)


def banks(mining, size=50, per_step=2):
    return ClassBanks(
        num_classes=2, size=size, dim=3, momentum=0.9, per_step=per_step, mining=mining
    )


@pytest.mark.parametrize("mining", ["own", "cross"])
def test_hardest_keys_of_each_class_are_kept(mining):
    torch.manual_seed(3)
    memory = banks(mining)
    for _ in range(3):
        keys, labels = unit(torch.randn(20, 3)), torch.randint(0, 2, (20,))
        held = [memory.rows(label) for label in (0, 1)]
        memory.update(keys, labels)
        for label in (0, 1):
            reference = memory.prototypes.vectors[label if mining == "own" else 1 - label]
            group = keys[labels == label]
            ranked = sorted(group, key=lambda k: float(k.double() @ reference.double()))
            hardest = ranked[:2] if mining == "own" else ranked[::-1][:2]
            assert torch.equal(memory.rows(label), torch.cat((held[label], torch.stack(hardest))))


def test_one_class_leaves_the_other_bank_alone():
    memory = banks("cross")
    keys = unit(torch.randn(6, 3))
    memory.update(keys, torch.ones(6, dtype=torch.int64))
    assert len(memory.rows(0)) == 0
    assert torch.equal(memory.rows(1), keys[:2])  # nothing to compare with: order of arrival
    before = memory.state_dict()
    memory.update(keys[:0], torch.zeros(0, dtype=torch.int64))
    assert all(torch.equal(before[k], v) for k, v in memory.state_dict().items())


def test_unknown_mining_and_class_counts_are_errors():
    with pytest.raises(ValueError, match="hard"):
        banks("hard")
    with pytest.raises(ValueError, match="PROTOTYPE_UPDATE.*'step'"):
        Prototypes(2, 3, 0.9, update="step")
    with pytest.raises(ValueError, match="two classes"):
        ClassBanks(num_classes=3, size=4, dim=3, momentum=0.9, per_step=2, mining="cross")


def test_gather_in_one_process_changes_nothing():
    rows = torch.randn(3, 2)
    assert gather_rows(rows)[0] is rows


def rank_rows(rank, step):
    """Unequal counts: 3 and 5 rows, then none on the first process, then none at all."""
    counts = ((3, 5), (0, 4), (0, 0))[step]
    generator = torch.Generator().manual_seed(10 * rank + step)
    keys = unit(torch.randn(counts[rank], 3, generator=generator))
    return keys, torch.arange(counts[rank]) % 2


def one_process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    memory = banks("own", size=4)
    gathered = []
    for step in range(3):
        keys, labels = gather_rows(*rank_rows(rank, step))
        memory.update(keys, labels)
        gathered.append((keys, labels))
    torch.save({"state": memory.state_dict(), "gathered": gathered}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow  # two interpreters start and import torch
def test_two_processes_with_unequal_counts_keep_identical_banks(tmp_path):
    multiprocessing.spawn(one_process, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = banks("own", size=4)
    for step in range(3):
        parts = zip(*(rank_rows(rank, step) for rank in (0, 1)), strict=True)
        keys, labels = map(torch.cat, parts)
        alone.update(keys, labels)
        for result in (first, second):
            assert torch.equal(result["gathered"][step][0], keys)
            assert torch.equal(result["gathered"][step][1], labels)
    for name, value in alone.state_dict().items():
        assert torch.equal(first["state"][name], value)
        assert torch.equal(second["state"][name], value)
    assert len(alone.rows(0)) == len(alone.rows(1)) == 4
