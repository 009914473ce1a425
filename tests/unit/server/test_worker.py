"""The order of jobs, and what is told of it."""

import asyncio
import threading

import pytest

from comics.server.errors import ApiError
from comics.server.worker import ClientGone, ModelWorker


async def nobody_left():
    return False


def test_the_place_of_each_job():
    worker, gate, begun = ModelWorker(), threading.Event(), threading.Event()

    def job(stop):
        begun.set()
        assert gate.wait(30)

    async def run():
        tickets = ["first-one", None, "third-one"]
        tasks = [
            asyncio.create_task(worker.run(job, nobody_left, lambda: None, ticket))
            for ticket in tickets
        ]
        while not begun.is_set():
            await asyncio.sleep(0.01)
        assert [worker.ahead(ticket) for ticket in ("first-one", "third-one")] == [0, 2]
        assert worker.ahead("another") is None
        gate.set()
        await asyncio.gather(*tasks)
        assert worker.ahead("third-one") is None

    asyncio.run(run())
    worker.close()


def test_a_job_that_was_dropped_holds_no_place():
    worker, gate, begun = ModelWorker(), threading.Event(), threading.Event()
    cleaned = []

    def job(stop):
        begun.set()
        assert gate.wait(30)

    async def left():
        return True

    async def run():
        task = asyncio.create_task(worker.run(job, nobody_left, lambda: None, "the-first"))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        with pytest.raises(ClientGone):
            await worker.run(job, left, lambda: cleaned.append(1), "the-second")
        await asyncio.sleep(0.01)  # it is dropped in the loop's next turn
        assert worker.ahead("the-second") is None and cleaned == [1]
        gate.set()
        await task
        worker.close()
        with pytest.raises(ApiError, match="shut down"):
            await worker.run(job, left, lambda: cleaned.append(2), "the-third")
        assert worker.ahead("the-third") is None and cleaned == [1, 2]

    asyncio.run(run())
