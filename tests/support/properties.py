"""How often a property is tried whose examples take more or less time than others'."""

from __future__ import annotations

from typing import Final

from hypothesis import settings

_OF_ALL: Final = 100


def examples(count: int) -> int:
    """This many, or the part of them that the profile tries of a hundred: `make fast` tries few."""
    return max(1, count * settings().max_examples // _OF_ALL)
