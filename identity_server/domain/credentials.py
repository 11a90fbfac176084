"""Hashing of secrets that are short enough to be guessed.

A code of six digits can be tried out in no time by whoever has a fast digest of it. So it is hashed slowly, and
under a key that isn't in the database. The rule: this is CPU-bound (some 20 ms and 19 MiB); callers use a thread.
"""

from __future__ import annotations

import hashlib
import hmac

from argon2 import PasswordHasher, Type
from argon2.exceptions import VerifyMismatchError

SALT_BYTES = 16
_MEMORY_KIB = 19 * 1024
_PASSES = 2


class CodeHasher:
    """Hashes and compares codes, each of which belongs to one validation session, or one visit to the privacy page.

    Args:
        key: secret, and kept apart from the hashes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._argon2 = PasswordHasher(
            time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=1, salt_len=SALT_BYTES, type=Type.ID
        )

    def hash(self, owner: str, code: str, *, salt: bytes) -> str:
        """The hash of an owner's code, in argon2's own notation; it fits no other owner.

        Args:
            owner: the id of the session or visit.
            code: what was sent for it.
            salt: `SALT_BYTES` random bytes.
        """
        return self._argon2.hash(self._bound_to(owner, code), salt=salt)

    def matches(self, hashed: str, owner: str, code: str) -> bool:
        """Whether this is the code that was hashed for the owner."""
        try:
            return self._argon2.verify(hashed, self._bound_to(owner, code))
        except VerifyMismatchError:
            return False

    def _bound_to(self, owner: str, code: str) -> bytes:
        # Neither part can hold a NUL, so the joined text is unambiguous.
        return hmac.digest(self._key, f"{owner}\0{code}".encode(), hashlib.sha256)
