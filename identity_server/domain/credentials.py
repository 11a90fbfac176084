"""Hashing of secrets that are short enough to be guessed.

A code of six digits can be tried out in no time by whoever has a fast digest of it. So it is hashed slowly, and
under a key that isn't in the database. The rule: this is CPU-bound (some 20 ms and 19 MiB); callers use a thread.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping

from argon2 import PasswordHasher, Type
from argon2.exceptions import VerifyMismatchError

SALT_BYTES = 16
_MEMORY_KIB = 19 * 1024
_PASSES = 2


class CodeHasher:
    """Hashes and compares codes, each of which belongs to one validation session, or one visit to the privacy page.

    Args:
        keys: secret, and kept apart from the hashes; by their names, which stand in the hashes. The first is for new
            ones. Asked for every time, because the keys of a server may change while it runs.
    """

    def __init__(self, keys: Callable[[], Mapping[str, bytes]]) -> None:
        self._keys = keys
        self._argon2 = PasswordHasher(
            time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=1, salt_len=SALT_BYTES, type=Type.ID
        )

    def hash(self, owner: str, code: str, *, salt: bytes) -> str:
        """The hash of an owner's code: a key's name, and argon2's own notation. It fits no other owner.

        Args:
            owner: the id of the session or visit.
            code: what was sent for it.
            salt: `SALT_BYTES` random bytes.
        """
        key_name, key = next(iter(self._keys().items()))
        return key_name + self._argon2.hash(_bound_to(key, owner, code), salt=salt)

    def matches(self, hashed: str, owner: str, code: str) -> bool:
        """Whether this is the code that was hashed for the owner."""
        key_name, dollar, argon2 = hashed.partition("$")
        key = self._keys().get(key_name)
        if key is None:
            return False
        try:
            return self._argon2.verify(dollar + argon2, _bound_to(key, owner, code))
        except VerifyMismatchError:
            return False


def _bound_to(key: bytes, owner: str, code: str) -> bytes:
    # Neither part can hold a NUL, so the joined text is unambiguous.
    return hmac.digest(key, f"{owner}\0{code}".encode(), hashlib.sha256)
