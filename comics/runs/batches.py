"""Batches of pictures that the model sees at one size, so that nothing is padded.

A detector pads the pictures of a batch to the largest of them, and the padding beside a picture
changes what is found in it. Here a picture waits, for a limited time, until others of its size
fill a batch.

Shape letters: H, W height and width of a picture as the model sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

LOOK_AHEAD_BATCHES = 4  # pictures that wait, in batches
WAITING_BYTES = 2**29  # of pictures that wait; the oldest then goes with whatever is like it


def size_batches(
    items: Iterable[Item],
    shape_of: Callable[[Item], tuple[int, int]],
    batch_size: int,
    bytes_of: Callable[[Item], int] = lambda _: 0,
) -> Iterator[list[Item]]:
    """Batches of at most ``batch_size`` items of one (H, W); every item once.

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


def _is_due(
    waiting: list[Item],
    shape_of: Callable[[Item], tuple[int, int]],
    batch_size: int,
    bytes_of: Callable[[Item], int],
) -> bool:
    if not waiting:
        return False
    return (
        len(_like_the_oldest(waiting, shape_of, batch_size)) == batch_size
        or len(waiting) >= LOOK_AHEAD_BATCHES * batch_size
        or sum(map(bytes_of, waiting)) > WAITING_BYTES
    )


def _take(
    waiting: list[Item], shape_of: Callable[[Item], tuple[int, int]], batch_size: int
) -> list[Item]:
    """Remove the next batch from ``waiting``."""
    chosen = _like_the_oldest(waiting, shape_of, batch_size)
    batch = [waiting[position] for position in chosen]
    for position in reversed(chosen):
        del waiting[position]
    return batch


def _like_the_oldest(
    waiting: list[Item], shape_of: Callable[[Item], tuple[int, int]], batch_size: int
) -> list[int]:
    """Positions of the oldest item and of those of its size, in their order."""
    shapes = [tuple(shape_of(item)) for item in waiting]
    alike = [position for position, shape in enumerate(shapes) if shape == shapes[0]]
    return alike[:batch_size]
