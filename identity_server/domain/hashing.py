"""Hashed lookup: how an address becomes what clients send (Identity Service API, "Association lookup").

The rule: a client and this server must reach the same digest from the same canonical address.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from enum import StrEnum

from identity_server.domain.errors import InvalidParameter
from identity_server.domain.identifiers import Threepid, parse_threepid

PEPPER_LENGTH = 32
_PEPPER_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Algorithm(StrEnum):
    """How the addresses of a lookup are encoded (MSC2134)."""

    SHA256 = "sha256"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Pepper:
    """A pepper and its place in time.

    Attributes:
        id: grows with each rotation.
        value: what clients hash with, `[a-zA-Z0-9]+`.
        retired_at_ms: when a newer one took over; None while it is the newest that is in use.
    """

    id: int
    value: str
    created_at_ms: int
    retired_at_ms: int | None

    def honoured(self, *, now_ms: int, grace_ms: int) -> bool:
        """Whether lookups with this pepper are still answered."""
        return self.retired_at_ms is None or now_ms < self.retired_at_ms + grace_ms


def pepper_from(random_bytes: bytes) -> str:
    """A pepper of letters and digits; every random byte below 248 gives one character without bias.

    Raises:
        ValueError: too few usable bytes; 64 suffice but once in 10^17 times.
    """
    size = len(_PEPPER_ALPHABET)
    usable = [byte for byte in random_bytes if byte < 256 - 256 % size]
    if len(usable) < PEPPER_LENGTH:
        raise ValueError("more random bytes are needed")
    return "".join(_PEPPER_ALPHABET[byte % size] for byte in usable[:PEPPER_LENGTH])


def hash_threepid(threepid: Threepid, pepper: str) -> bytes:
    """The SHA-256 digest that a client makes of an address.

    >>> encode_digest(hash_threepid(parse_threepid("email", "alice@example.com"), "matrixrocks"))
    '4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc'
    """
    return hashlib.sha256(f"{threepid.address} {threepid.medium} {pepper}".encode()).digest()


def encode_digest(digest: bytes) -> str:
    """URL-safe unpadded base64, as it goes over the wire."""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def written_hash(threepid: Threepid, pepper: str) -> str:
    """The hash of an address as clients send it: 43 characters."""
    return encode_digest(hash_threepid(threepid, pepper))


def parse_plain_query(text: str) -> Threepid | None:
    """The address in a query of algorithm `none` ("address medium"), or None: such a one matches nothing."""
    address, _, medium = text.rpartition(" ")
    try:
        return parse_threepid(medium, address)
    except InvalidParameter:
        return None
