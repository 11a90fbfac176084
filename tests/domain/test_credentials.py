"""Hashes of codes."""

from __future__ import annotations

import argon2
import pytest

from identity_server.domain.credentials import SALT_BYTES, CodeHasher
from identity_server.domain.identifiers import SessionId

SID = SessionId("sid")
SALT = b"s" * SALT_BYTES


def hasher_with(**keys: bytes) -> CodeHasher:
    return CodeHasher(lambda: keys)


@pytest.fixture
def hasher() -> CodeHasher:
    return hasher_with(k=b"k" * 32)


def test_the_code_of_the_session_matches_and_no_other(hasher: CodeHasher) -> None:
    hashed = hasher.hash(SID, "123456", salt=SALT)
    assert hasher.matches(hashed, SID, "123456")
    assert not hasher.matches(hashed, SID, "123457")
    assert not hasher.matches(hashed, SessionId("other"), "123456")
    assert not hasher_with(k=b"K" * 32).matches(hashed, SID, "123456")


def test_the_hash_costs_what_it_should_and_shows_no_code(light_argon2: pytest.MonkeyPatch) -> None:
    light_argon2.undo()
    hasher = hasher_with(k=b"k" * 32)
    hashed = hasher.hash(SID, "123456", salt=SALT)
    parameters = argon2.extract_parameters(hashed.removeprefix("k"))
    assert parameters.type is argon2.Type.ID
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (19 * 1024, 2, 1)
    assert "123456" not in hashed
    assert hashed != hasher.hash(SID, "123456", salt=b"t" * SALT_BYTES)


@pytest.mark.parametrize("code", ["", "x" * 255, "\uff11\uff12\uff13\uff14\uff15\uff16", "\U0001f511"])
def test_anything_can_be_tried(hasher: CodeHasher, code: str) -> None:
    assert not hasher.matches(hasher.hash(SID, "123456", salt=SALT), SID, code)


def test_a_code_outlives_the_key_that_it_was_hashed_under_being_replaced(hasher: CodeHasher) -> None:
    hashed = hasher.hash(SID, "123456", salt=SALT)
    after = hasher_with(n=b"n" * 32, k=b"k" * 32)
    assert after.matches(hashed, SID, "123456")
    assert after.hash(SID, "123456", salt=SALT).startswith("n$argon2id$")
    assert not hasher_with(n=b"k" * 32).matches(hashed, SID, "123456"), "the key is known by its name"
