"""A set of keys in sixteen bytes each, that says at once which of a thousand it hasn't got.

The rule: exact. A key that it claims to have was put into it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from identity_server.index.file import Column
from identity_server.index.keys import KEY_BYTES, ONE_BY_ONE, Halves

_SMALL = 4_096
_SMALL_SHARE = 8
_NO_KEYS = np.empty((0, 2), np.uint64)


class KeySet:
    """Keys in two sorted runs: new ones are sorted into the small one, so that the large one is seldom rewritten.

    Python's own set would take six times the memory, and wait for it key by key.
    """

    __slots__ = ("_large", "_small")

    def __init__(self) -> None:
        self._large = _Run(_NO_KEYS)
        self._small = _Run(_NO_KEYS)

    def __len__(self) -> int:
        return len(self._large) + len(self._small)

    def missing(self, keys: Halves) -> Halves:
        """Those of these keys that aren't here, each of them once."""
        runs = [run for run in (self._large, self._small) if len(run)]
        if len(keys) <= ONE_BY_ONE:
            # Most lookups are of one address: setting up arrays would cost several times as much.
            places = [place for place, key in enumerate(keys.tolist()) if not any(run.holds(*key) for run in runs)]
            left = keys[places] if places else _NO_KEYS
        else:
            known = np.zeros(len(keys), bool)
            for run in runs:
                known |= run.which(keys)
            left = _NO_KEYS if known.all() else keys[~known]
        return _distinct(left)

    def add(self, keys: Halves) -> None:
        """Put in keys that are missing, as `missing` has given them."""
        if not len(keys):
            return
        self._small.insert(keys)
        if len(self._small) > max(_SMALL, len(self._large) // _SMALL_SHARE):
            self._large.insert(self._small.keys())
            self._small = _Run(_NO_KEYS)

    def to_bytes(self) -> bytes:
        """All keys, one after the other."""
        return b"".join(run.keys().tobytes() for run in (self._large, self._small))

    def __iter__(self) -> Iterator[bytes]:
        """Every key."""
        text = self.to_bytes()
        return (text[start : start + KEY_BYTES] for start in range(0, len(text), KEY_BYTES))


class _Run:
    __slots__ = ("_first", "_second")

    def __init__(self, keys: Halves) -> None:
        self._first: Column = keys[:, 0].copy()
        self._second: Column = keys[:, 1].copy()

    def __len__(self) -> int:
        return len(self._first)

    def holds(self, first: int, second: int) -> bool:
        place = int(self._first.searchsorted(np.uint64(first)))
        while place < len(self) and int(self._first[place]) == first:
            if int(self._second[place]) == second:
                return True
            place += 1
        return False

    def which(self, keys: Halves) -> Column:
        """Of each key, whether it is here."""
        places = self._first.searchsorted(keys[:, 0])
        alike: Column = self._first.take(places, mode="clip") == keys[:, 0]
        same: Column = alike & (self._second.take(places, mode="clip") == keys[:, 1])
        # Two keys with the same first half are rarer than one in a thousand sets, but they may be.
        for place in (alike & ~same).nonzero()[0].tolist():
            same[place] = self.holds(*keys[place].tolist())
        return same

    def insert(self, keys: Halves) -> None:
        """Sort in keys that are in order."""
        first = np.concatenate((self._first, keys[:, 0]))
        # Timsort, which makes one run of two in no more than a look at each.
        order = first.argsort(kind="stable")
        self._first = first[order]
        self._second = np.concatenate((self._second, keys[:, 1]))[order]

    def keys(self) -> Halves:
        return np.column_stack((self._first, self._second))


def _distinct(keys: Halves) -> Halves:
    """In order, each once."""
    if len(keys) < 2:  # noqa: PLR2004 - one is in order
        return keys
    in_order = keys[keys[:, 0].argsort()]
    if (in_order[1:, 0] != in_order[:-1, 0]).all():
        return in_order
    in_order = keys[np.lexsort((keys[:, 1], keys[:, 0]))]
    again = (in_order[1:] == in_order[:-1]).all(axis=1)
    return in_order[np.concatenate(([True], ~again))]
