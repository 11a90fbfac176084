"""Values made of randomness: opaque strings for the outside, ids for rows."""

from __future__ import annotations

import base64

from identity_server.domain.ports import Randomness

_ROW_ID_BYTES = 8


def opaque(randomness: Randomness, size: int) -> str:
    """`size` random bytes in the URL-safe alphabet of the specification's opaque identifiers."""
    return base64.urlsafe_b64encode(randomness.token_bytes(size)).rstrip(b"=").decode()


def row_id(randomness: Randomness) -> int:
    """A random id of 63 bits, positive in every database; practically never the same twice."""
    return int.from_bytes(randomness.token_bytes(_ROW_ID_BYTES), "big") >> 1
