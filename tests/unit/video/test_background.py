import itertools
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comics.video.background import Consumer, Producer, WeightedQueue


def wait_for(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_a_producer_yields_everything_in_order():
    with Producer(range(100), 3, "test") as producer:
        assert list(producer) == list(range(100))
        assert producer.skipped == 0


def test_a_producer_works_ahead_no_further_than_its_queue():
    made = []

    def numbers():
        for number in range(50):
            made.append(number)
            yield number

    with Producer(numbers(), 4, "test") as producer:
        iterator = iter(producer)
        next(iterator)
        assert wait_for(lambda: len(made) == 1 + 4 + 1)  # taken, queued, held by the thread
        time.sleep(0.02)
        assert len(made) == 6


def test_an_error_comes_after_the_items_before_it():
    def broken():
        yield 1
        raise OSError("cable pulled")

    taken = []
    with Producer(broken(), 4, "test") as producer, pytest.raises(OSError, match="cable"):
        for item in producer:  # not list(): it would lose what came before the error
            taken.append(item)  # noqa: PERF402
    assert taken == [1]


def test_leaving_a_producer_ends_its_thread():
    before = threading.active_count()
    with Producer(itertools.count(), 2, "test") as producer:
        assert next(iter(producer)) == 0
    assert threading.active_count() == before


def test_stop_ends_an_endless_source_after_what_waits():
    with Producer(itertools.count(), 2, "test") as producer:
        iterator = iter(producer)
        next(iterator)
        producer.stop()
        rest = list(iterator)
    assert len(rest) <= 4
    assert rest == list(range(1, 1 + len(rest)))


def test_a_source_that_does_not_wait_loses_what_there_is_no_room_for():
    def camera():
        yield from range(20)  # items that may be lost
        yield "sound"  # one that may not

    with Producer(camera(), 3, "test", may_skip=lambda item: item != "sound") as producer:
        assert wait_for(lambda: producer.skipped == 17)
        assert list(producer) == [0, 1, 2, "sound"]


def test_a_consumer_gets_everything_in_order():
    got = []
    with Consumer(got.append, 3, "test") as consumer:
        for number in range(100):
            consumer.put(number)
        consumer.finish()
    assert got == list(range(100))


def test_a_full_consumer_makes_wait():
    gate, got = threading.Event(), []

    def slow(item):
        gate.wait(5)
        got.append(item)

    put = []

    def fill(consumer):
        for number in range(6):
            consumer.put(number)
            put.append(number)
        consumer.finish()

    with Consumer(slow, 2, "test") as consumer:
        thread = threading.Thread(target=fill, args=(consumer,))
        thread.start()
        assert wait_for(lambda: len(put) == 3)  # one at work, two queued
        time.sleep(0.02)
        assert len(put) == 3
        gate.set()
        thread.join(5)
    assert got == list(range(6))


@pytest.mark.parametrize("where", ["put", "finish"])
def test_an_error_of_a_consumer_is_raised_where_items_are_put(where):
    def broken(item):
        raise OSError("disk full")

    before = threading.active_count()
    with pytest.raises(OSError, match="disk full"), Consumer(broken, 2, "test") as consumer:  # noqa: PT012
        consumer.put(1)
        if where == "put":
            for number in range(1000):
                consumer.put(number)
        consumer.finish()
    assert threading.active_count() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_leaving_a_consumer_by_an_error_drops_what_waits(error):
    started, got = threading.Event(), []

    def slow(item):
        started.set()
        time.sleep(0.02)
        got.append(item)

    before = threading.active_count()
    with pytest.raises(error), Consumer(slow, 50, "test") as consumer:  # noqa: PT012
        for number in range(40):
            consumer.put(number)
        started.wait(5)
        raise error
    assert threading.active_count() == before
    assert len(got) < 40


@given(weights=st.lists(st.floats(0, 3), max_size=30), capacity=st.floats(0.5, 4))
def test_a_queue_holds_no_more_than_its_capacity_but_for_one(weights, capacity):
    queue = WeightedQueue(capacity, weigh=lambda item: item)
    held, order = [], []
    for weight in weights:
        if queue.put(weight):
            held.append(weight)
            assert len(held) == 1 or sum(held) <= capacity + 1e-9
        else:
            assert sum(held) + weight > capacity - 1e-9
            order.append(queue.get(0)[0])
            assert order[-1] == held.pop(0)
    assert [queue.get(0)[0] for _ in held] == held
    assert queue.get(0) is None


def test_light_items_leave_room_for_heavy_ones():
    items = ["sound"] * 20 + ["frame"] * 3
    taken = []

    def source():
        for item in items:
            taken.append(item)
            yield item

    with Producer(source(), 2, "test", weigh=lambda i: 1 if i == "frame" else 0.01) as producer:
        assert wait_for(lambda: taken == items[:22])
        assert list(producer) == items
