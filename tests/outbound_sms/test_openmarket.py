"""OpenMarket's Global SMS API v4."""

from __future__ import annotations

import dataclasses

import pytest

from identity_server.config import Originator, OriginatorKind
from identity_server.domain.ports import (
    DeliveryError,
    DeliveryPostponed,
    DeliveryRefused,
    DeliveryUnknown,
    SmsTransport,
)
from identity_server.outbound.sms import AccountProblem, OpenMarketAccount, Poster
from identity_server.outbound.sms.openmarket import OpenMarket, choose_sender
from tests.outbound_sms.kit import GSM_7, MESSAGE, NUMBER, UCS_2, Vendor, cut, endless, failure_of

PASSWORD = "pä:ss wörd"
SENDERS = {
    "default": (Originator(OriginatorKind.ALPHA, "Matrix"),),
    "44": (
        Originator(OriginatorKind.LONG, "447700900001"),
        Originator(OriginatorKind.SHORT, "60777"),
        Originator(OriginatorKind.ALPHA, "Matrix UK"),
    ),
}


@pytest.fixture
def openmarket(http: Poster, vendor: Vendor) -> SmsTransport:
    account = OpenMarketAccount(f"{vendor.base}/sms/v4/mt", "000-000-123-45678", PASSWORD, SENDERS)
    return OpenMarket(account=account, http=http)


async def test_the_request(openmarket: SmsTransport, vendor: Vendor) -> None:
    vendor.answers(202, Location=f"{vendor.base}/sms/v4/mt/03155-0331L-1439U-51SLFX", X_Request_Id="BAC=1")
    await openmarket.send(MESSAGE)
    (seen,) = vendor.seen
    assert seen.path == "/sms/v4/mt"
    assert seen.headers["authorization"] == "Basic MDAwLTAwMC0xMjMtNDU2Nzg6cMOkOnNzIHfDtnJk"
    assert seen.headers["content-type"] == "application/json"
    assert seen.json == {
        "mobileTerminate": {
            "message": {"type": "text", "content": "Your code is 482915"},
            "destination": {"address": NUMBER},
            "source": {"ton": 3, "address": "60777"},
        }
    }


@pytest.mark.parametrize("body", [GSM_7, UCS_2])
async def test_texts_pass_unharmed(openmarket: SmsTransport, vendor: Vendor, body: str) -> None:
    vendor.answers(202)
    await openmarket.send(dataclasses.replace(MESSAGE, body=body))
    assert vendor.seen[0].json["mobileTerminate"]["message"]["content"] == body


@pytest.mark.parametrize(
    ("number", "country_code", "source"),
    [
        # The digits add up to 34, 35, 36; of three senders that is the second, the third, the first.
        ("447700900120", "44", {"ton": 3, "address": "60777"}),
        ("447700900121", "44", {"ton": 5, "address": "Matrix UK"}),
        ("447700900122", "44", {"ton": 1, "address": "447700900001"}),
        ("33199001234", "33", {"ton": 5, "address": "Matrix"}),
    ],
)
async def test_the_sender_follows_from_the_number(
    openmarket: SmsTransport, vendor: Vendor, number: str, country_code: str, source: object
) -> None:
    vendor.answers(202)
    await openmarket.send(dataclasses.replace(MESSAGE, to=number, country_code=country_code))
    assert vendor.seen[0].json["mobileTerminate"]["source"] == source


def test_digit_sums() -> None:
    senders = [Originator(OriginatorKind.SHORT, str(number)) for number in range(10)]
    assert [choose_sender(senders, number).text for number in ("1", "19", "123456789", "4477")] == [
        "1",
        "0",
        "5",
        "2",
    ]


async def test_without_senders_openmarket_chooses(http: Poster, vendor: Vendor) -> None:
    vendor.answers(202)
    await OpenMarket(account=OpenMarketAccount(vendor.base, "u", "p"), http=http).send(MESSAGE)
    assert "source" not in vendor.seen[0].json["mobileTerminate"]


@pytest.mark.parametrize(
    ("status", "content", "outcome", "text"),
    [
        (401, {"error": {"code": "150", "description": "quoted by the vendor"}}, AccountProblem, "401 (150)"),
        (400, {"error": {"code": 14, "description": f"bad {NUMBER}"}}, DeliveryRefused, "400 (14)"),
        (400, {"error": {"code": NUMBER}}, DeliveryRefused, "400"),
        (400, {"error": "quoted by the vendor"}, DeliveryRefused, "400"),
        (400, [NUMBER], DeliveryRefused, "400"),
        (404, None, AccountProblem, "404"),
        (429, None, DeliveryPostponed, "429"),
        (500, None, DeliveryUnknown, "500"),
        (503, None, DeliveryPostponed, "503"),
    ],
)
async def test_failures(
    openmarket: SmsTransport, vendor: Vendor, status: int, content: object, outcome: type[DeliveryError], text: str
) -> None:
    vendor.answers(status, content, Retry_After="7")
    error = await failure_of(openmarket, secrets=(PASSWORD, "000-000"))
    assert type(error) is outcome
    assert str(error) == f"openmarket: {text}"
    if status in {429, 503}:
        assert isinstance(error, DeliveryPostponed)
        assert error.retry_after_seconds == 7


async def test_broken_answers(openmarket: SmsTransport, vendor: Vendor) -> None:
    vendor.reply = cut
    assert isinstance(await failure_of(openmarket), DeliveryUnknown)
    vendor.reply = endless(400)
    assert isinstance(await failure_of(openmarket), DeliveryRefused)


def test_the_password_does_not_show() -> None:
    assert PASSWORD not in repr(OpenMarketAccount("https://x", "u", PASSWORD))
