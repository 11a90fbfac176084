"""Hashing of secrets that are short enough to be guessed.

A code of six digits can be tried out in no time by whoever has a fast digest of it. So it is hashed slowly, and
under a key that isn't in the database. The rule: this is CPU-bound (some 20 ms and 19 MiB); callers use a thread.
"""

from __future__ import annotations

import hashlib
import hmac

from argon2 import PasswordHasher, Type
from argon2.exceptions import VerifyMismatchError

from identity_server.domain.identifiers import SessionId

SALT_BYTES = 16
_MEMORY_KIB = 19 * 1024
_PASSES = 2


class CodeHasher:
    """Hashes and compares the codes of validation sessions.

    Args:
        key: secret, and kept apart from the hashes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._argon2 = PasswordHasher(
            time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=1, salt_len=SALT_BYTES, type=Type.ID
        )

    def hash(self, sid: SessionId, code: str, *, salt: bytes) -> str:
        """The hash of a session's code, in argon2's own notation; it fits no other session.

        Args:
            sid: the session.
            code: what was sent for it.
            salt: `SALT_BYTES` random bytes.
        """
        return self._argon2.hash(self._bound_to(sid, code), salt=salt)

    def matches(self, hashed: str, sid: SessionId, code: str) -> bool:
        """Whether this is the code that was hashed for the session."""
        try:
            return self._argon2.verify(hashed, self._bound_to(sid, code))
        except VerifyMismatchError:
            return False

    def _bound_to(self, sid: SessionId, code: str) -> bytes:
        # Neither part can hold a NUL, so the joined text is unambiguous.
        return hmac.digest(self._key, f"{sid}\0{code}".encode(), hashlib.sha256)
