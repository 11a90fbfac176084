"""Codes are hashed and compared in threads, two at a time: each takes 19 MiB and a core for a while."""

from __future__ import annotations

import asyncio

from identity_server.domain.credentials import SALT_BYTES, CodeHasher
from identity_server.domain.ports import Randomness

_AT_ONCE = 2


class SlowCodes:
    """Hashes and compares; one of these serves the whole process.

    Args:
        hasher: does it.
    """

    def __init__(self, hasher: CodeHasher, *, randomness: Randomness) -> None:
        self._hasher = hasher
        self._randomness = randomness
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def hash(self, owner: str, code: str) -> str:
        """The hash of a code, which fits this owner alone: a session or a visit."""
        salt = self._randomness.token_bytes(SALT_BYTES)
        async with self._turn:
            return await asyncio.to_thread(self._hasher.hash, owner, code, salt=salt)

    async def matches(self, hashed: str, owner: str, code: str) -> bool:
        """Whether this is the code that was hashed for the owner."""
        async with self._turn:
            return await asyncio.to_thread(self._hasher.matches, hashed, owner, code)
