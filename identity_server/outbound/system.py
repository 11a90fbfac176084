"""The wall clock and the source of randomness, as the ports want them.

The only module of the program that reads either; everywhere else they are passed in.
"""

from __future__ import annotations

import secrets
import time


class SystemClock:
    """The clock of the machine (`domain.ports.Clock`)."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000


class SystemRandomness:
    """The operating system's randomness (`domain.ports.Randomness`)."""

    def token_bytes(self, length: int) -> bytes:
        """`length` random bytes, fit for secrets."""
        return secrets.token_bytes(length)
