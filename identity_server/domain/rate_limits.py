"""Rate limits by the generic cell rate algorithm: one timestamp per key, no counters, no windows.

The timestamp ("theoretical arrival time") is the moment at which a key's allowance is whole again.
"""

from __future__ import annotations

import math
import unicodedata
from contextlib import suppress
from dataclasses import dataclass

import email_validator


@dataclass(frozen=True, slots=True)
class RateLimit:
    """An allowance: `burst` calls at once, and then one every `interval_ms`."""

    burst: int
    interval_ms: int

    @property
    def longest_ms(self) -> int:
        """How long it takes until an allowance that was used up is whole again."""
        return self.burst * self.interval_ms

    @classmethod
    def per_second(cls, *, burst: int, rate_hz: float) -> RateLimit:
        """From Sydent's pair of a burst and a rate in calls per second."""
        return cls(burst=burst, interval_ms=math.ceil(1000 / rate_hz))

    def take(self, arrival_ms: int | None, *, now_ms: int, cost: int = 1) -> tuple[bool, int]:
        """Try to use one call, or what counts for several.

        Args:
            arrival_ms: the key's theoretical arrival time; None for a key not seen before.
            now_ms: the time.
            cost: how many calls it counts for.

        Returns:
            (True, the new theoretical arrival time), or (False, milliseconds until a call is allowed).
        """
        start = now_ms if arrival_ms is None else max(arrival_ms, now_ms)
        taken = start + cost * self.interval_ms
        wait_ms = taken - (now_ms + self.burst * self.interval_ms)
        return (False, wait_ms) if wait_ms > 0 else (True, taken)


def mailbox_of(address: str) -> str:
    """Whom mail to a canonical address reaches, as far as can be told: to be counted by, never to be mailed.

    Someone who may write a few times to each address must not have a thousand addresses of one person: what
    follows a `+`, dots, look-alike letters and the two ways to write a domain don't count. That a few neighbours
    may share a name here is harmless.

    >>> mailbox_of("alice.smith+news@example.org")
    'alicesmith@example.org'
    """
    local, _, domain = address.rpartition("@")
    # Others are written in one way only.
    if not domain.isascii() or "xn--" in domain:
        # What can't be mailed is, as it stands, a name like any other.
        with suppress(email_validator.EmailNotValidError):
            domain = email_validator.validate_email(
                f"a@{domain}", check_deliverability=False, globally_deliverable=False
            ).ascii_domain
    plain = unicodedata.normalize("NFKC", local).casefold()
    # An address may begin with a plus: then there is nothing before it to count by.
    name = plain.partition("+")[0].replace(".", "")
    return f"{name or plain}@{domain}"
