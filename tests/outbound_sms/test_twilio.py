"""Twilio's Messages API."""

from __future__ import annotations

import base64
import dataclasses
from urllib.parse import parse_qsl

import pytest

from identity_server.domain.ports import (
    DeliveryError,
    DeliveryPostponed,
    DeliveryRefused,
    DeliveryUnknown,
    SmsTransport,
)
from identity_server.outbound.sms import AccountProblem, Poster, TwilioAccount
from identity_server.outbound.sms.twilio import Twilio
from tests.outbound_sms.kit import GSM_7, MESSAGE, NUMBER, UCS_2, Vendor, cut, endless, failure_of

ACCOUNT = "AC" + "0123456789abcdef" * 2
KEY = "SK" + "0123456789abcdef" * 2
SERVICE = "MG" + "0123456789abcdef" * 2
TOKEN = "the-auth-token"
QUEUED = {"sid": "SM1", "status": "queued", "error_code": None, "to": f"+{NUMBER}"}


@pytest.fixture
def account(vendor: Vendor) -> TwilioAccount:
    return TwilioAccount(f"{vendor.base}/", ACCOUNT, TOKEN, messaging_service_sid=SERVICE)


@pytest.fixture
def twilio(http: Poster, account: TwilioAccount) -> SmsTransport:
    return Twilio(account=account, http=http)


def login(vendor: Vendor) -> str:
    scheme, _, credentials = vendor.seen[-1].headers["authorization"].partition(" ")
    assert scheme == "Basic"
    return base64.b64decode(credentials).decode()


def form(vendor: Vendor) -> dict[str, str]:
    return dict(parse_qsl(vendor.seen[-1].body.decode(), strict_parsing=True))


async def test_the_request(twilio: SmsTransport, vendor: Vendor) -> None:
    vendor.answers(201, QUEUED)
    await twilio.send(MESSAGE)
    (seen,) = vendor.seen
    assert seen.path == f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    assert seen.headers["content-type"] == "application/x-www-form-urlencoded"
    assert login(vendor) == f"{ACCOUNT}:{TOKEN}"
    assert form(vendor) == {"To": f"+{NUMBER}", "Body": MESSAGE.body, "MessagingServiceSid": SERVICE}


async def test_a_sender_instead_of_a_service_and_a_key_instead_of_the_account(
    http: Poster, vendor: Vendor, account: TwilioAccount
) -> None:
    vendor.answers(201, QUEUED)
    own = dataclasses.replace(account, messaging_service_sid=None, sender="+15005550006", api_key=KEY)
    await Twilio(account=own, http=http).send(MESSAGE)
    assert login(vendor) == f"{KEY}:{TOKEN}"
    assert form(vendor) == {"To": f"+{NUMBER}", "Body": MESSAGE.body, "From": "+15005550006"}
    with pytest.raises(ValueError, match="a sender is needed"):
        dataclasses.replace(account, messaging_service_sid=None)


@pytest.mark.parametrize("body", [GSM_7, UCS_2])
async def test_texts_pass_unharmed(twilio: SmsTransport, vendor: Vendor, body: str) -> None:
    vendor.answers(201, QUEUED)
    await twilio.send(dataclasses.replace(MESSAGE, body=body))
    assert form(vendor)["Body"] == body


@pytest.mark.parametrize(
    ("status", "code", "outcome", "text"),
    [
        (401, 20003, AccountProblem, "401 (20003)"),
        (404, 20404, AccountProblem, "404 (20404)"),
        (400, 21211, DeliveryRefused, "400 (21211)"),  # not a valid number
        (400, 21408, DeliveryRefused, "400 (21408)"),  # region not enabled
        (400, 21610, DeliveryRefused, "400 (21610)"),  # unsubscribed
        (400, 21606, AccountProblem, "400 (21606)"),  # not our sender
        (400, 21703, AccountProblem, "400 (21703)"),  # a messaging service without senders
        (400, 21611, DeliveryPostponed, "400 (21611)"),  # the sender's queue is full
        (429, 20429, DeliveryPostponed, "429 (20429)"),
        (429, 63038, DeliveryPostponed, "429 (63038)"),
        (400, NUMBER, DeliveryRefused, "400"),
        (500, 20500, DeliveryUnknown, "500 (20500)"),
        (500, 20429, DeliveryUnknown, "500 (20429)"),
        (503, 20503, DeliveryPostponed, "503 (20503)"),
        (202, 0, DeliveryUnknown, "202"),  # not an answer of this API
    ],
)
async def test_failures(
    twilio: SmsTransport, vendor: Vendor, status: int, code: object, outcome: type[DeliveryError], text: str
) -> None:
    vendor.answers(
        status, {"code": code, "message": f"quoted by the vendor: +{NUMBER}", "status": status}, Retry_After="30"
    )
    error = await failure_of(twilio, secrets=(TOKEN, ACCOUNT))
    assert type(error) is outcome
    assert str(error) == f"twilio: {text}"
    if outcome is DeliveryPostponed:
        assert isinstance(error, DeliveryPostponed)
        assert error.retry_after_seconds == 30


async def test_a_message_that_failed_at_once_was_refused(twilio: SmsTransport, vendor: Vendor) -> None:
    vendor.answers(201, {**QUEUED, "status": "failed", "error_code": 30006})
    assert isinstance(await failure_of(twilio), DeliveryRefused)


async def test_broken_answers(twilio: SmsTransport, vendor: Vendor) -> None:
    vendor.reply = cut
    assert isinstance(await failure_of(twilio), DeliveryUnknown)
    vendor.reply = endless(400)
    assert isinstance(await failure_of(twilio), DeliveryRefused)
    vendor.reply = endless(201)
    await twilio.send(MESSAGE)


def test_the_token_does_not_show(account: TwilioAccount) -> None:
    assert TOKEN not in repr(account)
