"""The order in which arms are measured: each in its turn, round after round."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def turns(arms: Sequence[T], number: int) -> list[T]:
    """Returns the order of a round: each begins one arm further, every other one goes backwards.

    So neighbours change, and no arm follows itself, as the first and last would if rounds were only reversed: with its
    weights still in the cache it would look faster than the others.
    """
    start = number % len(arms)
    order = [*arms[start:], *arms[:start]]
    return order[::-1] if number % 2 else order
