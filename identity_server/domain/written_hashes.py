"""The hashes of a large lookup, as they stand in its JSON.

The rule: what is taken for a list of hashes is one, and nothing but that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
import orjson

HASH_CHARACTERS = 43
BLOCK_BYTES = 16
HASH_BYTES = 3 * BLOCK_BYTES
"""What a hash takes in whole blocks of a cipher."""

Bytes = npt.NDArray[np.uint8]

_QUOTED_BYTES = HASH_CHARACTERS + 2
_WRITTEN_BYTES = _QUOTED_BYTES + 1
_QUOTE, _COMMA, _FIRST_PRINTABLE = b'", '
_WORD = 8
# Of the last eight bytes, those that are the hash's.
_END_OF_HASH = np.uint64(2 ** (8 * (HASH_CHARACTERS % _WORD)) - 1)


class WrittenHashes(Sequence[str]):
    """Hashes as a list in JSON has them: each in quotes, and a comma behind it.

    They are checked, made into keys and written into the answer all at once, as they came; making a string of each, and
    looking at each of these, would take as long as finding all of them.

    Attributes:
        text: the list without its brackets, and with a comma at its end.
    """

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text

    @classmethod
    def read(cls, written_list: bytes) -> WrittenHashes | None:
        """The hashes in a list, brackets and all; None if anything else is in there, or space between them."""
        text = written_list[1:-1] + b","
        count, rest = divmod(len(text), _WRITTEN_BYTES)
        is_list = written_list.startswith(b"[") and written_list.endswith(b"]")
        if not is_list or rest or not text.isascii() or b"\\" in text:
            return None
        everything = np.frombuffer(text, np.uint8)
        each = everything.reshape(-1, _WRITTEN_BYTES)
        # Nothing is escaped, so every quote begins or ends a string; and if there are two for each, these are they.
        is_list_of_hashes = (
            (each[:, 0] == _QUOTE).all()
            and (each[:, -2] == _QUOTE).all()
            and (each[:, -1] == _COMMA).all()
            and np.count_nonzero(everything == _QUOTE) == 2 * count
            and everything.min() >= _FIRST_PRINTABLE
        )
        return cls(text) if is_list_of_hashes else None

    def __len__(self) -> int:
        return len(self.text) // _WRITTEN_BYTES

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> WrittenHashes: ...
    def __getitem__(self, place: int | slice) -> str | WrittenHashes:
        if isinstance(place, slice):
            start, end, _ = place.indices(len(self))
            return WrittenHashes(self.text[start * _WRITTEN_BYTES : end * _WRITTEN_BYTES])
        start = place * _WRITTEN_BYTES + 1
        return self.text[start : start + HASH_CHARACTERS].decode()

    def __iter__(self) -> Iterator[str]:
        return iter(orjson.loads(b"[%b]" % self.text[:-1]))

    def blocks(self) -> list[bytes]:
        """The first block of each, then the second, then the third, with nothing behind its end."""
        # Eight bytes more, for what the last one reads.
        *blocks, last = cut_into_blocks(self.text + bytes(_WORD), count=len(self), start=1, step=_WRITTEN_BYTES)
        words = np.frombuffer(bytearray(last), np.uint64).reshape(-1, BLOCK_BYTES // _WORD)
        words[:, -1] &= _END_OF_HASH
        return [*blocks, words.tobytes()]

    def quoted(self, places: npt.NDArray[np.int64]) -> Bytes:
        """Some of them, in their quotes, a row for each."""
        all_quoted = np.ndarray((len(self),), f"V{_QUOTED_BYTES}", self.text, 0, (_WRITTEN_BYTES,))
        return all_quoted[places].view(np.uint8).reshape(-1, _QUOTED_BYTES)


def cut_into_blocks(text: bytes, *, count: int, start: int, step: int) -> list[bytes]:
    """The first block of each of some hashes, one after the other; all the second ones; all the third ones.

    Args:
        text: has the hashes in it.
        count: how many.
        start: where the first begins.
        step: from there to the next.
    """
    # As things of sixteen bytes: numpy takes eight times as long to copy the same as pairs of numbers.
    return [
        np.ndarray((count,), f"V{BLOCK_BYTES}", text, start + place, (step,)).tobytes()
        for place in range(0, HASH_BYTES, BLOCK_BYTES)
    ]
