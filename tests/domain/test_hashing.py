from __future__ import annotations

import pytest

from identity_server.domain.hashing import (
    Pepper,
    encode_digest,
    hash_threepid,
    parse_plain_query,
    pepper_from,
    written_hash,
)
from identity_server.domain.identifiers import Medium, Threepid
from tests.support import make


# The examples of the specification, "Client behaviour" of association lookup.
@pytest.mark.parametrize(
    ("address", "medium", "expected"),
    [
        ("alice@example.com", Medium.EMAIL, "4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc"),
        ("bob@example.com", Medium.EMAIL, "LJwSazmv46n0hlMlsb_iYxI0_HXEqy_yj6Jm636cdT8"),
        ("18005552067", Medium.MSISDN, "nlo35_T5fzSGZzJApqu8lgIudJvmOQtDaHtr-I4rU7I"),
    ],
)
def test_hashes_of_the_specification(address: str, medium: Medium, expected: str) -> None:
    digest = hash_threepid(Threepid(medium, address), "matrixrocks")
    assert encode_digest(digest) == expected
    assert written_hash(Threepid(medium, address), "matrixrocks") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Alice@Example.com email", make.email("alice@example.com")),
        ("18005552067 msisdn", Threepid(Medium.MSISDN, "18005552067")),
        ("alice@example.com", None),
        ("alice@example.com fax", None),
        ("a b email", None),
        ("+18005552067 msisdn", None),
        ("١٢٣ msisdn", None),
        ("", None),
    ],
)
def test_plain_queries(text: str, expected: Threepid | None) -> None:
    assert parse_plain_query(text) == expected


def test_pepper_uses_every_letter_alike() -> None:
    assert pepper_from(bytes(range(62)))[:5] == "ABCDE"
    assert pepper_from(bytes([255] * 32 + [0] * 32)) == "A" * 32, "bytes that would favour some letters are skipped"
    with pytest.raises(ValueError, match="more random bytes"):
        pepper_from(bytes([255] * 64))


def test_pepper_is_honoured_until_its_grace_is_over() -> None:
    pepper = Pepper(1, "x", created_at_ms=0, retired_at_ms=None)
    assert pepper.honoured(now_ms=10**15, grace_ms=0)
    retired = Pepper(1, "x", created_at_ms=0, retired_at_ms=100)
    assert retired.honoured(now_ms=149, grace_ms=50)
    assert not retired.honoured(now_ms=150, grace_ms=50)
