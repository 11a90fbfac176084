from __future__ import annotations

import base64

import pytest

from identity_server.storage.sealing.key_ring import KeyRing, RootKey
from identity_server.storage.sealing.sealer import SealBroken, Sealer, same_digest, token_digest
from tests.support import make
from tests.support.fakes import FakeRandomness


def sealer(key: bytes = b"k" * 32) -> Sealer:
    return Sealer(KeyRing(RootKey(key)), randomness=FakeRandomness())


def test_what_is_sealed_can_be_opened_in_its_place_only() -> None:
    one = sealer()
    sealed = one.seal("table.column", 7, "alice@example.com")
    assert b"alice" not in sealed
    assert one.open("table.column", 7, one.key_id, sealed) == "alice@example.com"
    for place, row in (("table.column", 8), ("table.other", 7)):
        with pytest.raises(SealBroken):
            one.open(place, row, one.key_id, sealed)
    with pytest.raises(SealBroken):
        one.open("table.column", 7, one.key_id, sealed[:-1] + bytes([sealed[-1] ^ 1]))
    other = sealer(b"x" * 32)
    with pytest.raises(SealBroken, match="sealed by key"):
        other.open("table.column", 7, one.key_id, sealed)


def test_the_same_text_never_looks_the_same_twice() -> None:
    one = sealer()
    assert one.seal("t.c", 1, "x") != one.seal("t.c", 1, "x")


def test_blinds_and_digests_depend_on_the_key_and_the_purpose() -> None:
    one, other = sealer(), sealer(b"x" * 32)
    assert one.blind(make.email()) == one.blind(make.email())
    assert one.blind(make.email()) != one.blind(make.email("bob@example.com"))
    assert one.blind(make.email()) != other.blind(make.email())
    assert one.digest("a", "b") != one.digest("b", "a")
    assert one.digest("a", "b") != other.digest("a", "b")


def test_root_key_is_read_as_it_is_written() -> None:
    key = RootKey(bytes(range(224, 256)))
    assert RootKey.parse(key.to_text() + "\n").secret == key.secret
    assert RootKey.parse(base64.urlsafe_b64encode(key.secret).rstrip(b"=").decode()).secret == key.secret
    assert str(key.secret) not in repr(key)
    for bad in ("", "short", "A" * 44, "é" * 43):
        with pytest.raises(ValueError, match="root key"):
            RootKey.parse(bad)


def test_digest_of_a_token_is_no_token() -> None:
    assert token_digest("a") != token_digest("b")
    assert same_digest(token_digest("a"), token_digest("a"))
    assert not same_digest(token_digest("a"), token_digest("b"))
