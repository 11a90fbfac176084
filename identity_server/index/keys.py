"""What the index knows an address by: a keyed function of the hash that clients send.

The rule: without the lookup key, which neither the database nor the index file holds, nothing can be matched against
a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from identity_server.domain.written_hashes import HASH_BYTES, HASH_CHARACTERS, WrittenHashes, cut_into_blocks
from identity_server.storage.sealing.key_ring import RootKey

KEY_BYTES = 16
_PADDING = "\0" * (HASH_BYTES - HASH_CHARACTERS)
ONE_BY_ONE = 3
"""Up to so many hashes, looking at each costs less than setting up arrays."""

_MANY = 300
"""From so many on, they may come as they are written, and may be looked for some at a time."""

Halves = npt.NDArray[np.uint64]
"""Keys as rows of two numbers, the first of which they are sorted by."""


@dataclass(frozen=True, slots=True)
class Hashes:
    """Hashes that somebody asks for, each once if they are many, and the keys that the index knows them by."""

    written: Sequence[str]
    keys: bytes

    def __len__(self) -> int:
        return len(self.written)

    def some(self, start: int, end: int) -> Hashes:
        """Those from one place to another."""
        return Hashes(self.written[start:end], self.keys[start * KEY_BYTES : end * KEY_BYTES])


class LookupKeys:
    """Makes keys, in one thread at a time: a cipher in use refuses whoever comes meanwhile.

    A key is the CBC-MAC (AES-256) of a hash as it is written: 43 characters in one alphabet, three blocks. For texts of
    one length CBC-MAC is a pseudo-random function, and so another spelling of a hash leads to nothing. It takes three
    calls for all hashes of a lookup, where a keyed hash would take one for each of them.
    """

    def __init__(self, root_key: RootKey) -> None:
        cipher = algorithms.AES(root_key.derive("lookup"))
        # Block by block and with nothing carried over: so it serves as the bare cipher, for as long as it is kept.
        self._encrypt = Cipher(cipher, modes.ECB()).encryptor().update  # noqa: S305 - what a CBC-MAC is made of
        # This one carries its last block over to the next call, where it is taken out again: making a new one each
        # time would cost several times as much as using it.
        self._chain = Cipher(cipher, modes.CBC(bytes(KEY_BYTES))).encryptor().update
        self._carried = 0
        self.fingerprint = root_key.derive("fingerprint of the lookup key").hex()

    def read(self, queries: Sequence[str]) -> Hashes:
        """Those of the queries that are hashes. What is badly formed matches nothing.

        If there are many, each is there once.
        """
        # `isinstance` asks the abstract class that it comes from, and takes long.
        if type(queries) is WrittenHashes:
            keys = self._of_blocks(queries.blocks())
            if not _has_repeats(keys):
                return Hashes(queries, keys)
            queries = list(queries)
        if len(queries) > _MANY:
            queries = list(dict.fromkeys(queries))
        if len(queries) > ONE_BY_ONE:
            found = self.many(queries)
            if found is not None:
                return Hashes(queries, found)
            queries = [query for query in queries if _is_hash(query)]
            if len(queries) > ONE_BY_ONE:
                return Hashes(queries, self.many(queries) or b"")
        each = [(query, key) for query in queries if (key := self.one(query)) is not None]
        return Hashes([query for query, _ in each], b"".join(key for _, key in each))

    def one(self, written_hash: str) -> bytes | None:
        """The key of a hash; None for what is none."""
        if not _is_hash(written_hash):
            return None
        text = int.from_bytes((written_hash + _PADDING).encode(), "little") ^ self._carried
        key = self._chain(text.to_bytes(HASH_BYTES, "little"))[-KEY_BYTES:]
        self._carried = int.from_bytes(key, "little")
        return key

    def many(self, written_hashes: Sequence[str]) -> bytes | None:
        """The keys of many hashes, one after the other; None if something among them is none."""
        if set(map(len, written_hashes)) != {HASH_CHARACTERS}:
            return None
        joined = _PADDING.join(written_hashes) + _PADDING
        if not joined.isascii():
            return None
        blocks = cut_into_blocks(joined.encode(), count=len(written_hashes), start=0, step=HASH_BYTES)
        return self._of_blocks(blocks)

    def _of_blocks(self, blocks: Sequence[bytes]) -> bytes:
        keys = bytes(len(blocks[0]))
        for block in blocks:
            keys = self._encrypt((np.frombuffer(keys, np.uint64) ^ np.frombuffer(block, np.uint64)).tobytes())
        return keys


def _has_repeats(keys: bytes) -> bool:
    in_order = np.sort(halves(keys)[:, 0])
    return bool((in_order[1:] == in_order[:-1]).any())


def _is_hash(query: str) -> bool:
    return len(query) == HASH_CHARACTERS and query.isascii()


def halves(keys: bytes | bytearray) -> Halves:
    """Keys as numbers to compare and sort by."""
    return np.frombuffer(keys, np.uint64).reshape(-1, 2)
