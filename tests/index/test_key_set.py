"""Sets of keys: exact, whatever is put in and however it is asked for."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from identity_server.index.key_set import KeySet
from identity_server.index.keys import KEY_BYTES, Halves, halves

# Few first halves, so that many keys are alike as far as that.
KEYS = st.builds(lambda first, second: bytes([first]) * 8 + bytes([second]) * 8, st.integers(0, 5), st.integers(0, 3))
LISTS = st.lists(st.lists(st.one_of(KEYS, st.binary(min_size=16, max_size=16)), max_size=12), max_size=8)


def of(keys: list[bytes]) -> Halves:
    return halves(b"".join(keys))


def as_list(keys: Halves) -> list[bytes]:
    text = np.ascontiguousarray(keys).tobytes()
    return [text[start : start + KEY_BYTES] for start in range(0, len(text), KEY_BYTES)]


@given(LISTS)
def test_what_is_there_was_put_in(lists: list[list[bytes]]) -> None:
    found, put = KeySet(), set[bytes]()
    for keys in lists:
        missing = found.missing(of(keys))
        assert sorted(as_list(missing)) == sorted(set(keys) - put)
        found.add(missing)
        put |= set(keys)
        assert set(found) == put


@given(st.lists(st.binary(min_size=16, max_size=16), unique=True, min_size=1, max_size=30))
def test_what_was_put_in_is_there_and_each_missing_one_is_named_once(keys: list[bytes]) -> None:
    found = KeySet()
    assert sorted(as_list(found.missing(of(keys + keys)))) == sorted(keys)
    found.add(found.missing(of(keys)))
    assert len(found.missing(of(keys))) == 0
    for key in keys:
        assert len(found.missing(of([key]))) == 0
    assert len(found) == len(keys)


def test_many_thousands() -> None:
    found, put = KeySet(), list[bytes]()
    for _ in range(12):
        some = [os.urandom(KEY_BYTES) for _ in range(1_500)]
        assert len(found.missing(of(some))) == 1_500
        found.add(found.missing(of(some)))
        put += some
    assert len(found.missing(of(put))) == 0
    assert set(found) == set(put)
    assert len(found) == len(put)
    fresh = os.urandom(KEY_BYTES)
    assert as_list(found.missing(of([*put[:50], fresh, *put[50:99]]))) == [fresh]
    assert as_list(found.missing(of([put[3], fresh]))) == [fresh]
