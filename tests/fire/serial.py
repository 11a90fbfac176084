"""Whether what people saw of one address, all at once, can have come of one request after the other.

The rule: a request takes effect at one moment between its sending and its answer. If there is an order of such moments that
explains every answer, the history is serial; all orders that the times allow are tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto


class Did(Enum):
    """What a request does to an address."""

    BIND = auto()
    UNBIND = auto()
    LOOK = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """A request that was answered.

    Attributes:
        who: who binds or unbinds; of a lookup, whom it has found.
        begun, ended: by the monotonic clock.
    """

    did: Did
    who: str | None
    begun: float
    ended: float

    def after(self, owner: str | None) -> str | None:
        """Who has the address after this."""
        if self.did is Did.BIND:
            return self.who
        if self.did is Did.UNBIND and owner == self.who:
            return None
        return owner


def is_serial(steps: Sequence[Step], *, owner: str | None = None) -> bool:
    """Whether one order of the steps explains all of them; nobody else does anything to the address meanwhile.

    Args:
        owner: who has the address before.
    """
    everything = frozenset(range(len(steps)))
    tried: set[tuple[frozenset[int], str | None]] = set()
    left = [(everything, owner)]
    while left:
        state = left.pop()
        if state in tried:
            continue
        tried.add(state)
        remaining, now = state
        if not remaining:
            return True
        # Whatever began after another one was answered comes after it.
        first_end = min(steps[each].ended for each in remaining)
        for each in remaining:
            step = steps[each]
            if step.begun <= first_end and (step.did is not Did.LOOK or step.who == now):
                left.append((remaining - {each}, step.after(now)))
    return False
