"""Batches of pictures that the model sees at nearly the same size, so that little is padding.

A detector pads the pictures of a batch to the largest of them. Portraits and landscapes in one
batch make it a third larger than its pictures are; here each waits for its like, not for long.

Shape letters: H, W height and width of a picture as the model sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

MAX_WASTE = 1.15  # padded area over own area, of every picture of a batch; a decision
LOOK_AHEAD_BATCHES = 4  # pictures that wait, in batches
WAITING_BYTES = 2**29  # of pictures that wait; the oldest then goes with whatever is like it


def size_batches(
    items: Iterable[Item],
    shape_of: Callable[[Item], tuple[int, int]],
    batch_size: int,
    bytes_of: Callable[[Item], int] = lambda _: 0,
) -> Iterator[list[Item]]:
    """Batches of at most ``batch_size`` items of similar (H, W); every item once.

    The oldest item that waits is always in the next batch, so none waits longer than for
    ``LOOK_AHEAD_BATCHES`` batches of others. The same items make the same batches.

    Args:
        items: pictures, decoded.
        shape_of: (H, W) as the model sees it.
        batch_size: 1 or more.
        bytes_of: memory that an item holds; no more than ``WAITING_BYTES`` wait.
    """
    waiting: list[Item] = []
    for item in items:
        waiting.append(item)
        while _is_due(waiting, shape_of, batch_size, bytes_of):
            yield _take(waiting, shape_of, batch_size)
    while waiting:
        yield _take(waiting, shape_of, batch_size)


def _is_due(waiting: list, shape_of: Callable, batch_size: int, bytes_of: Callable) -> bool:
    if not waiting:
        return False
    return (
        len(_like_the_oldest(waiting, shape_of, batch_size)) == batch_size
        or len(waiting) >= LOOK_AHEAD_BATCHES * batch_size
        or sum(map(bytes_of, waiting)) > WAITING_BYTES
    )


def _take(waiting: list, shape_of: Callable, batch_size: int) -> list:
    """Remove the next batch from ``waiting``."""
    chosen = _like_the_oldest(waiting, shape_of, batch_size)
    batch = [waiting[position] for position in chosen]
    for position in reversed(chosen):
        del waiting[position]
    return batch


def _like_the_oldest(waiting: list, shape_of: Callable, batch_size: int) -> list[int]:
    """Positions of the oldest item and those that go with it, in their order."""
    shapes = [shape_of(item) for item in waiting]
    chosen, height, width = [0], *shapes[0]
    smallest = height * width
    for position, (own_height, own_width) in enumerate(shapes[1:], start=1):
        if len(chosen) == batch_size:
            break
        padded = max(height, own_height) * max(width, own_width)
        least = min(smallest, own_height * own_width)
        if padded <= MAX_WASTE * least:
            chosen.append(position)
            height, width, smallest = max(height, own_height), max(width, own_width), least
    return chosen
