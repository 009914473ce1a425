import numpy as np
import pytest

from comics.data.faces.orders import SharedOrder

# Three sources: many faces in scenes of one real and two forged ones; few; real faces alone
LABELS = np.array([0, 1, 1] * 40 + [0, 1] * 3 + [0] * 10)
SOURCES = np.array([0] * 120 + [1] * 6 + [2] * 10)
SCENES = np.concatenate([np.repeat(np.arange(40), 3), [-1] * 6, [-1] * 10])


def order(size=16, shares=(2.0, 1.0, 1.0), paired=1.0, seed=0):
    return SharedOrder(seed, size, LABELS, SOURCES, SCENES, shares, paired)


def test_every_batch_has_the_shares_of_the_sources_and_pairs_of_one_source():
    for number in range(3):
        batches = order().epoch(number)
        assert batches.shape == (len(LABELS) // 16, 16)
        for batch in batches:
            pairs = batch.reshape(-1, 2)
            sources = SOURCES[pairs]
            assert (sources[:, 0] == sources[:, 1]).all()
            assert np.bincount(sources[:, 0], minlength=3).tolist() == [4, 2, 2]
            both = sources[:, 0] != 2
            assert (LABELS[pairs[both]] == [0, 1]).all()
            assert (LABELS[pairs[~both]] == 0).all()


def test_shares_that_do_not_divide_a_batch_hold_on_average():
    batches = np.concatenate([order(10, (5.0, 1.0, 1.5)).epoch(n) for n in range(200)])
    counts = np.stack([(SOURCES[batches[:, ::2]] == s).sum(axis=1) for s in range(3)])
    wanted = 5 * np.array([5.0, 1.0, 1.5]) / 7.5
    assert (np.abs(counts - wanted[:, None]) <= 1).all()
    assert counts.mean(axis=1) == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize(("paired", "low", "high"), [(1.0, 1.0, 1.0), (0.5, 0.4, 0.65)])
def test_pairs_are_of_one_scene(paired, low, high):
    pairs = np.concatenate([order(paired=paired).epoch(n) for n in range(30)]).reshape(-1, 2)
    pairs = pairs[SOURCES[pairs[:, 0]] == 0]
    share = (SCENES[pairs[:, 0]] == SCENES[pairs[:, 1]]).mean()
    assert low <= share <= high


def test_faces_of_a_source_come_equally_often():
    forged = np.concatenate([order().epoch(n)[:, 1::2] for n in range(10)])
    uses = np.bincount(forged.ravel(), minlength=len(LABELS))
    few = uses[(SOURCES == 1) & (LABELS == 1)]
    assert few.min() >= 1 and few.max() - few.min() <= 10  # within an epoch they differ by one


def test_order_depends_on_seed_and_epoch_alone():
    assert (order().epoch(2) == order().epoch(2)).all()
    assert (order().epoch(2) != order().epoch(3)).any()
    assert (order().epoch(2) != order(seed=1).epoch(2)).any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 15}, "even"),
        ({"shares": (1.0, 0.0, 1.0)}, "positive"),
        ({"shares": (1.0, 1.0, 1.0, 1.0)}, "no face"),
    ],
)
def test_unusable_shares(changes, words):
    with pytest.raises(ValueError, match=words):
        order(**changes)
