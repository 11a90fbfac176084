"""The short cut for plain addresses must not be one to somewhere else."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from identity_server.domain.errors import InvalidEmail
from identity_server.domain.identifiers import Medium, Threepid, canonical_email
from identity_server.sydent import addresses
from identity_server.sydent.addresses import NotAnAddress, UnknownMedium, canonical

_LETTERS = "ab09._+-@ßÉxn"
_LABELS = st.text("ab9-", min_size=0, max_size=66)


def _expected(address: str) -> str | None:
    try:
        return canonical_email(address)
    except InvalidEmail:
        return None


def _found(address: str) -> str | None:
    try:
        return canonical("email", address).address
    except NotAnAddress:
        return None


@given(st.text(_LETTERS, max_size=12) | st.builds("{}@{}.{}".format, _LABELS, _LABELS, _LABELS))
@example("a@xn--bcher-kva.example")
@example("a@ab--cd.example")
@example("a" * 65 + "@example.com")
@example("a@" + "b" * 63 + ".com")
@example("a@" + "b" * 64 + ".com")
@example("a@b.com\n")
@example("a@localhost")
@example("a@10.0.0.1")
@example("a@" + ("b" * 60 + ".") * 4 + "com")
def test_every_address_is_what_the_long_way_makes_of_it(address: str) -> None:
    assert _found(address) == _expected(address)


@pytest.mark.parametrize("address", ["alice@example.com", "a.b+c_d-e@mail.example.co.uk", "9@8.test"])
def test_short_cut_is_taken(address: str) -> None:
    assert addresses._PLAIN.match(address)


def test_phone_numbers_are_digits() -> None:
    assert canonical("msisdn", "447700900123") == Threepid(Medium.MSISDN, "447700900123")
    for wrong in ("+447700900123", "0447700900123", "44 77", "", "4" * 16, "\u0664\u0664"):
        with pytest.raises(NotAnAddress):
            canonical("msisdn", wrong)


def test_other_media_are_unknown() -> None:
    with pytest.raises(UnknownMedium):
        canonical("fax", "123")
