"""Values made of randomness: opaque strings for the outside, ids for rows."""

from __future__ import annotations

import base64

from identity_server.domain.ports import Randomness

_ROW_ID_BYTES = 8
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CODE_BYTES = 16
_MESSAGE_ID_BYTES = 16


def opaque(randomness: Randomness, size: int) -> str:
    """`size` random bytes in the URL-safe alphabet of the specification's opaque identifiers."""
    return base64.urlsafe_b64encode(randomness.token_bytes(size)).rstrip(b"=").decode()


def message_id(randomness: Randomness, domain: str) -> str:
    """A full `Message-ID` for a new mail, with the domain that it is made in."""
    return f"<{opaque(randomness, _MESSAGE_ID_BYTES)}@{domain}>"


def decimal_code(randomness: Randomness, digits: int) -> str:
    """A code for people to copy; every one of its length is as likely as any other."""
    # Of 128 bits, the remainder favours no code by more than one in 10^30.
    return f"{int.from_bytes(randomness.token_bytes(_CODE_BYTES), 'big') % 10**digits:0{digits}}"


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
