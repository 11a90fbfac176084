"""One mailbox is one address: no look-alike of it counts, is mailed, or is bound beside it."""

from __future__ import annotations

import pytest

from identity_server.domain.errors import InvalidEmail
from identity_server.domain.identifiers import canonical_email
from tests.support.harness import Harness, User

SAME_DOMAIN = [
    "alice@\N{FULLWIDTH LATIN SMALL LETTER E}xample.com",
    "alice@\N{CIRCLED LATIN SMALL LETTER E}xample.com",
    "alice@\N{MATHEMATICAL BOLD SMALL E}xample.com",
    "alice@exa\N{SCRIPT CAPITAL M}ple.com",
    "alice@example\N{IDEOGRAPHIC FULL STOP}com",
    "alice@example\N{FULLWIDTH FULL STOP}com",
    "alice@exam\N{VARIATION SELECTOR-16}ple.com",
    "alice@exam\N{COMBINING GRAPHEME JOINER}ple.com",
    "alice@\N{TELEPHONE SIGN}.com",
]

NOTHING_TO_SEE = [
    "al\N{COMBINING GRAPHEME JOINER}ice@example.com",
    "al\N{VARIATION SELECTOR-1}ice@example.com",
    "al\N{HANGUL FILLER}ice@example.com",
    "al\N{HALFWIDTH HANGUL FILLER}ice@example.com",
    "al\N{BRAILLE PATTERN BLANK}ice@example.com",
    "al\N{MONGOLIAN FREE VARIATION SELECTOR ONE}ice@example.com",
    "al\N{VARIATION SELECTOR-256}ice@example.com",
]


@pytest.mark.parametrize("address", SAME_DOMAIN + NOTHING_TO_SEE)
def test_is_refused(address: str) -> None:
    with pytest.raises(InvalidEmail):
        canonical_email(address)


@pytest.mark.parametrize(
    "address",
    [
        "alice@example.com",
        "alice@xn--bcher-kva.de",
        "alice@b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.de",
        "alice@b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.xn--p1ai",
        "\N{CYRILLIC SMALL LETTER A}\N{CYRILLIC SMALL LETTER EN}@example.com",
        "alice@\N{KATAKANA LETTER TE}\N{KATAKANA LETTER SU}\N{KATAKANA LETTER TO}.jp",
        "alice@localhost",
    ],
)
def test_is_an_address_of_its_own(address: str) -> None:
    assert canonical_email(address) == address


async def test_no_mail_goes_out(server: Harness, alice: User) -> None:
    reply = await server.request_token(alice, SAME_DOMAIN[0])
    assert (reply.status, reply.errcode) == (400, "M_INVALID_EMAIL")
    assert server.mail.sent == []
    assert server.count("validation_sessions") == 0
