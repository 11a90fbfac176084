"""Keys: the same by either way, of all of the hash, and of nothing else."""

from __future__ import annotations

import re

import orjson
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from identity_server.domain.hashing import encode_digest
from identity_server.domain.written_hashes import WrittenHashes
from identity_server.index.keys import KEY_BYTES, LookupKeys
from identity_server.storage.sealing.key_ring import RootKey
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


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=30, unique=True))
def test_as_they_are_written_they_have_the_same_keys(digests: list[bytes]) -> None:
    hashes = [encode_digest(digest) for digest in digests]
    written = WrittenHashes.read(orjson.dumps(hashes))
    assert written is not None
    assert [*written] == hashes == [written[place] for place in range(len(hashes))]
    assert [*written[1:3]] == hashes[1:3]
    assert KEYS.read(written).keys == KEYS.many(hashes)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'["' + b"A" * 20 + b'","' + b"B" * 20 + b'"]',
        b'[1,"' + b"A" * 41 + b'"]',
        b'["' + b"A" * 41 + b'",1]',
        b'["' + b"A" * 43 + b'"',
        b'"' + b"A" * 43 + b'"]',
    ],
)
def test_what_is_no_list_of_hashes(text: bytes) -> None:
    assert WrittenHashes.read(text) is None


@given(st.lists(st.text(alphabet='AB",\\\né', min_size=18, max_size=90), min_size=1, max_size=4))
def test_what_is_read_as_hashes_is_a_list_of_nothing_else(texts: list[str]) -> None:
    read = WrittenHashes.read(orjson.dumps(texts))
    assert (read is not None) == all(re.fullmatch("[AB,]{43}", text) for text in texts)
