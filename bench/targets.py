"""What the server has set itself, as ratios within one run, and whether it holds.

The rule: machines differ, so nothing here is a speed; a figure is compared with another of the same run, or is a
size or a time that no operator should have to exceed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.plan import (
    BIND,
    INVITE,
    MEMORY,
    PING_WHILE,
    ROTATION,
    START_AGAIN,
    START_FIRST,
    by_workers,
)
from bench.results import BARE, HELPED, INSTALLED, OURS, TWO_WORKERS, Results, ratio

_SMALL = 100_000
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """One promise.

    Attributes:
        measure: the figure at a number of associations; None where it wasn't measured.
        at_least: whether the figure is to be this much or more; otherwise this much or less.
    """

    what: str
    measure: Callable[[Results, int], float | None]
    limit: float
    at_least: bool = True
    unit: str = ""

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


def _against(server: str, cell: str) -> Callable[[Results, int], float | None]:
    return lambda results, size: ratio(results.get(size, cell, OURS), results.get(size, cell, server))


def _at_small(cell: str, server: str) -> Callable[[Results, int], float | None]:
    return lambda results, _: ratio(results.get(_SMALL, cell, OURS), results.get(_SMALL, cell, server))


def _figure(cell: str, server: str, name: str, *, per: float = 1.0) -> Callable[[Results, int], float | None]:
    def measure(results: Results, size: int) -> float | None:
        value = results.get(size, cell, server, name)
        return None if value is None else value / per

    return measure


def _ping(results: Results, size: int) -> float | None:
    return ratio(results.get(size, PING_WHILE, HELPED, "p99_ms"), results.get(size, PING_WHILE, OURS, "p99_ms"))


def _growth(cell: str) -> Callable[[Results, int], float | None]:
    def measure(results: Results, size: int) -> float | None:
        slower = ratio(results.get(_SMALL, cell, OURS), results.get(size, cell, OURS))
        return None if slower is None or size == _SMALL else 100 * (slower - 1)

    return measure


def _workers(cell: str) -> Callable[[Results, int], float | None]:
    name = by_workers(cell)
    return lambda results, size: ratio(results.get(size, name, TWO_WORKERS), results.get(size, name, OURS))


def _rotation(results: Results, size: int) -> float | None:
    return ratio(results.get(size, ROTATION, OURS, "max_ms"), results.get(size, ROTATION, OURS, "normal_p99_ms"))


TARGETS = (
    *(
        target
        for cell in ("ping", "account", "hash_details")
        for target in (
            Target(f"{cell}, against Sydent helped", _against(HELPED, cell), 3.2, unit="x"),
            Target(f"{cell}, of the bare handler", _against(BARE, cell), 0.75),
        )
    ),
    Target("lookup of 1, against Sydent helped", _against(HELPED, "lookup of 1"), 12, unit="x"),
    Target("lookup of 1, of the bare handler", _against(BARE, "lookup of 1"), 0.75),
    Target("lookup of 100, against Sydent helped", _against(HELPED, "lookup of 100"), 14, unit="x"),
    Target("lookup of 100, of the bare handler", _against(BARE, "lookup of 100"), 0.35),
    Target("lookup of 1000, against Sydent helped", _against(HELPED, "lookup of 1000"), 14, unit="x"),
    Target("lookup of 1000, of the bare handler", _against(BARE, "lookup of 1000"), 0.20),
    Target("lookup of 10000, against Sydent helped", _against(HELPED, "lookup of 10000"), 14, unit="x"),
    Target("full flow to bind, against Sydent as installed, at 100 000", _at_small(BIND, INSTALLED), 10, unit="x"),
    Target("store-invite, against Sydent helped", _against(HELPED, INVITE), 5, unit="x"),
    Target("p99 of a ping while one looks up 10 000: Sydent's is longer by", _ping, 20, unit="x"),
    *(
        Target(f"{cell} costs more than at 100 000 by", _growth(cell), 10, at_least=False, unit="%")
        for cell in ("lookup of 1", "lookup of 100", "lookup of 1000", "lookup of 10000")
    ),
    *(
        Target(f"{cell}, 2 workers against 1", _workers(cell), 1.6, unit="x")
        for cell in ("lookup of 1", "lookup of 100", "lookup of 1000")
    ),
    Target(
        "memory of the parent and one worker",
        _figure(MEMORY, OURS, "pss_of_all", per=_MIB),
        150,
        at_least=False,
        unit="MiB",
    ),
    Target(
        "memory of a further worker, its own",
        _figure(MEMORY, TWO_WORKERS, "largest_uss_of_others", per=_MIB),
        60,
        at_least=False,
        unit="MiB",
    ),
    Target("start with a kept index", _figure(START_AGAIN, OURS, "seconds"), 3, at_least=False, unit="s"),
    Target("start with an index to be built", _figure(START_FIRST, OURS, "seconds"), 20, at_least=False, unit="s"),
    Target("slowest request during a rotation, against the normal p99", _rotation, 3, at_least=False, unit="x"),
)
"""Those that name no size are for a million associations in one process."""
