"""Phone numbers in one form."""

from __future__ import annotations

import pytest

from identity_server.domain.errors import InvalidAddress
from identity_server.domain.identifiers import Medium, Threepid
from identity_server.domain.phone import parse_phone_number


@pytest.mark.parametrize(
    ("number", "country"),
    [
        ("07700900123", "GB"),
        ("07700 900 123", "gb"),
        ("(07700) 900-123", "GB"),
        ("+44 7700 900123", "US"),
        ("+44 7700 900123", ""),
        ("00447700900123", "FR"),
        ("٠٧٧٠٠٩٠٠١٢٣", "GB"),
        # As address books put it on the clipboard.
        ("\u202a+44 7700 900123\u202c", "US"),
    ],
)
def test_every_spelling_is_one_number(number: str, country: str) -> None:
    parsed = parse_phone_number(number, country)
    assert parsed.threepid == Threepid(Medium.MSISDN, "447700900123")
    assert parsed.international == "+44 7700 900123"
    assert parsed.calling_code == "44"


def test_leading_zeros_that_belong_to_a_number_stay() -> None:
    assert parse_phone_number("06 1234 5678", "IT").msisdn == "390612345678"


def test_countries_may_share_a_calling_code() -> None:
    assert parse_phone_number("613-555-0123", "CA").calling_code == "1"


@pytest.mark.parametrize(
    ("number", "country"),
    [
        ("", "GB"),
        ("nonsense", "GB"),
        ("07700900123", "ZZ"),
        ("07700900123", ""),
        ("112", "GB"),
        ("555-0123", "US"),
        ("+44 7700 900123 ext. 5", "GB"),
        ("+999 1234567", "GB"),
        ("07700900123\n", "GB"),
        ("\x0007700900123", "GB"),
        ("1" * 16, "GB"),
        # Within Germany there are numbers of 15 digits; with the country's code they are none.
        ("+49" + "1" * 14, ""),
        ("1" * 1000, "GB"),
    ],
)
def test_what_cannot_be_texted_is_refused(number: str, country: str) -> None:
    with pytest.raises(InvalidAddress) as caught:
        parse_phone_number(number, country)
    assert not number or number not in caught.value.message


def test_a_number_does_not_show_in_a_log() -> None:
    assert "7700" not in repr(parse_phone_number("07700900123", "GB"))
