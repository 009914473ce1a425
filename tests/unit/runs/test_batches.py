from hypothesis import given
from hypothesis import strategies as st

from comics.runs.batches import LOOK_AHEAD_BATCHES, WAITING_BYTES, size_batches

PORTRAIT, LANDSCAPE = (1024, 768), (768, 1024)


def batches_of(shapes, batch_size, **options):
    items = list(enumerate(shapes))
    return list(size_batches(items, lambda item: item[1], batch_size, **options))


shapes = st.tuples(st.integers(1, 4), st.integers(1, 4))  # few, so that some are alike


@given(st.lists(shapes, max_size=60), st.integers(1, 6))
def test_every_item_once_in_batches_of_one_size(given_shapes, batch_size):
    batches = batches_of(given_shapes, batch_size)
    assert sorted(item for batch in batches for item in batch) == list(enumerate(given_shapes))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert [position for position, _ in batch] == sorted(position for position, _ in batch)
        assert len({shape for _, shape in batch}) == 1  # nothing is padded


@given(st.lists(shapes, max_size=80), st.integers(1, 5))
def test_look_ahead_is_bounded_and_the_oldest_goes_first(given_shapes, batch_size):
    taken = 0

    def items():
        nonlocal taken
        for item in enumerate(given_shapes):
            taken += 1
            yield item

    left = dict(enumerate(given_shapes))
    for batch in size_batches(items(), lambda item: item[1], batch_size):
        assert batch[0][0] == min(left)
        waited = taken - (len(given_shapes) - len(left))
        assert waited <= LOOK_AHEAD_BATCHES * batch_size
        for position, _ in batch:
            del left[position]
    assert not left


def test_portraits_and_landscapes_go_apart():
    batches = batches_of([PORTRAIT, LANDSCAPE] * 8, 4)
    assert [len(batch) for batch in batches] == [4, 4, 4, 4]
    assert all(len({shape for _, shape in batch}) == 1 for batch in batches)


def test_equal_sizes_wait_for_nothing():
    seen = []

    def items():
        for number in range(6):
            seen.append(number)
            yield number

    batches = size_batches(items(), lambda _: PORTRAIT, 2)
    assert next(batches) == [0, 1] and seen == [0, 1]


def test_memory_of_what_waits_is_bounded():
    sizes = [WAITING_BYTES // 2 + 1] * 4
    shapes_of = [(10, 10), (10, 100), (100, 10), (50, 50)]
    held = []

    def items():
        for number, size in enumerate(sizes):
            held.append(size)
            yield number

    for batch in size_batches(items(), lambda n: shapes_of[n], 4, lambda n: sizes[n]):
        assert sum(held) <= WAITING_BYTES + sizes[0]
        del held[: len(batch)]
