"""Keys: the same by either way, of all of the hash, and of nothing else."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from identity_server.domain.hashing import encode_digest
from identity_server.index.keys import KEY_BYTES, LookupKeys
from identity_server.storage.key_ring import RootKey
from tests.support.databases import ROOT_KEY

KEYS = LookupKeys(ROOT_KEY)
GOOD = encode_digest(bytes(range(32)))


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=30))
def test_many_at_once_are_as_one_by_one(digests: list[bytes]) -> None:
    hashes = [encode_digest(digest) for digest in digests]
    assert KEYS.many(hashes) == b"".join(KEYS.one(each) or b"" for each in hashes)


def test_a_key_is_the_cbc_mac_of_the_text() -> None:
    cbc = Cipher(algorithms.AES(ROOT_KEY.derive("lookup")), modes.CBC(bytes(16))).encryptor()
    assert KEYS.one(GOOD) == cbc.update(GOOD.encode() + bytes(5))[-KEY_BYTES:]


@pytest.mark.parametrize("place", range(43))
def test_every_character_of_a_hash_counts(place: int) -> None:
    other = GOOD[:place] + ("A" if GOOD[place] != "A" else "B") + GOOD[place + 1 :]
    assert KEYS.one(other) != KEYS.one(GOOD)


def test_another_root_key_makes_other_keys() -> None:
    assert LookupKeys(RootKey(b"x" * 32)).one(GOOD) != KEYS.one(GOOD)


@given(st.text(alphabet="AB_-+/=\né\0 ", min_size=40, max_size=45))
def test_what_is_no_hash_for_one_is_none_among_many(query: str) -> None:
    assert (KEYS.many([GOOD, query, GOOD]) is None) == (KEYS.one(query) is None) == (len(query) != 43 or "é" in query)
