"""Values made of randomness: opaque strings for the outside, ids for rows."""

from __future__ import annotations

import base64

from identity_server.domain.ports import Randomness

_ROW_ID_BYTES = 8
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def opaque(randomness: Randomness, size: int) -> str:
    """`size` random bytes in the URL-safe alphabet of the specification's opaque identifiers."""
    return base64.urlsafe_b64encode(randomness.token_bytes(size)).rstrip(b"=").decode()


def row_id(randomness: Randomness) -> int:
    """A random id of 63 bits, positive in every database; practically never the same twice."""
    return int.from_bytes(randomness.token_bytes(_ROW_ID_BYTES), "big") >> 1


def letters(randomness: Randomness, count: int) -> str:
    """`count` random letters, upper and lower case."""
    found = ""
    while len(found) < count:
        # Of 256 values, 208 spread evenly over 52 letters.
        usable = (byte for byte in randomness.token_bytes(2 * count) if byte < 4 * len(_LETTERS))
        found += "".join(_LETTERS[byte % len(_LETTERS)] for byte in usable)
    return found[:count]
