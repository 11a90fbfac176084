"""Vonage's Messages API."""

from __future__ import annotations

import base64
import dataclasses

import pytest

from identity_server.domain.ports import (
    DeliveryError,
    DeliveryPostponed,
    DeliveryRefused,
    DeliveryUnknown,
    SmsTransport,
)
from identity_server.outbound.sms import AccountProblem, Poster, VonageAccount
from identity_server.outbound.sms.vonage import Vonage
from tests.outbound_sms.kit import GSM_7, MESSAGE, NUMBER, UCS_2, Vendor, cut, endless, failure_of

SECRET = "the-api-secret"
TAKEN = {"message_uuid": "aaaaaaaa-bbbb-cccc-dddd-0123456789ab"}


@pytest.fixture
def account(vendor: Vendor) -> VonageAccount:
    return VonageAccount(f"{vendor.base}/v1/messages", "abcd1234", sender="+447700900000", api_secret=SECRET)


@pytest.fixture
def vonage(http: Poster, account: VonageAccount) -> SmsTransport:
    return Vonage(account=account, http=http)


def problem(kind: str, *parameters: str) -> object:
    return {
        "type": f"https://developer.vonage.com/api-errors#{kind}",
        "title": "quoted by the vendor",
        "detail": f"The number {NUMBER}",
        "instance": "bf0ca0bf927b3b52e3cb03217e1a1ddf",
        "invalid_parameters": [{"name": name, "reason": NUMBER} for name in parameters],
    }


async def test_the_request(vonage: SmsTransport, vendor: Vendor) -> None:
    vendor.answers(202, TAKEN)
    await vonage.send(MESSAGE)
    (seen,) = vendor.seen
    assert seen.path == "/v1/messages"
    assert seen.headers["content-type"] == "application/json"
    assert base64.b64decode(seen.headers["authorization"].removeprefix("Basic ")).decode() == f"abcd1234:{SECRET}"
    assert seen.json == {
        "message_type": "text",
        "channel": "sms",
        "to": NUMBER,
        "from": "447700900000",
        "text": MESSAGE.body,
        "client_ref": "ref-1",
    }


@pytest.mark.parametrize("body", [GSM_7, UCS_2])
async def test_texts_pass_unharmed(vonage: SmsTransport, vendor: Vendor, body: str) -> None:
    vendor.answers(202, TAKEN)
    await vonage.send(dataclasses.replace(MESSAGE, body=body))
    assert vendor.seen[0].json["text"] == body


@pytest.mark.parametrize(
    ("status", "content", "outcome"),
    [
        (401, problem("unauthorized"), AccountProblem),
        (402, problem("low-balance"), AccountProblem),
        (403, problem("forbidden"), AccountProblem),
        (422, problem("invalid-params", "to"), DeliveryRefused),
        (422, problem("invalid-params", "from", "to"), DeliveryRefused),
        (422, problem("invalid-params", "from"), AccountProblem),
        (422, {"invalid_parameters": NUMBER}, DeliveryRefused),
        (422, None, DeliveryRefused),
        (429, problem("rate-limit"), DeliveryPostponed),
        (500, problem("internal"), DeliveryUnknown),
        (503, None, DeliveryPostponed),
        (201, TAKEN, DeliveryUnknown),  # not an answer of this API
    ],
)
async def test_failures(
    vonage: SmsTransport, vendor: Vendor, status: int, content: object, outcome: type[DeliveryError]
) -> None:
    vendor.answers(status, content, Retry_After="2")
    error = await failure_of(vonage, secrets=(SECRET, "abcd1234"))
    assert type(error) is outcome
    assert str(error) == f"vonage: {status}"
    if outcome is DeliveryPostponed:
        assert isinstance(error, DeliveryPostponed)
        assert error.retry_after_seconds == 2


async def test_broken_answers(vonage: SmsTransport, vendor: Vendor) -> None:
    vendor.reply = cut
    assert isinstance(await failure_of(vonage), DeliveryUnknown)
    vendor.reply = endless(422)
    assert isinstance(await failure_of(vonage), DeliveryRefused)


def test_the_secret_does_not_show(account: VonageAccount) -> None:
    assert SECRET not in repr(account)
