"""The signed webhook, and the terminal."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import io
import logging

import pytest

from identity_server.domain.ports import (
    DeliveryError,
    DeliveryPostponed,
    DeliveryRefused,
    DeliveryUnknown,
    SmsTransport,
)
from identity_server.outbound.sms import AccountProblem, Poster, Webhook
from identity_server.outbound.sms.log import LogTransport
from identity_server.outbound.sms.webhook import WebhookTransport, sign
from tests.outbound_sms.kit import GSM_7, MESSAGE, NUMBER, UCS_2, FixedClock, Seen, Vendor, cut, endless, failure_of

SECRET = bytes(range(32))


@pytest.fixture
def webhook(http: Poster, vendor: Vendor) -> SmsTransport:
    return WebhookTransport(webhook=Webhook(f"{vendor.base}/sms", SECRET), http=http, clock=FixedClock())


def is_genuine(seen: Seen) -> bool:
    """What docs/sms.md tells the other side to do, but for the age."""
    signed = f"{seen.headers['webhook-id']}.{seen.headers['webhook-timestamp']}.".encode() + seen.body
    expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    return f"v1,{expected}" in seen.headers["webhook-signature"].split(" ")


async def test_the_request(webhook: SmsTransport, vendor: Vendor) -> None:
    vendor.answers(204)
    await webhook.send(MESSAGE)
    (seen,) = vendor.seen
    assert seen.path == "/sms"
    assert seen.headers["webhook-id"] == "ref-1"
    assert seen.headers["webhook-timestamp"] == "1800000000"
    assert is_genuine(seen)
    assert not is_genuine(dataclasses.replace(seen, body=seen.body.replace(b"482915", b"482916")))
    assert seen.json == {
        "type": "sms.send",
        "timestamp": "2027-01-15T08:00:00Z",
        "data": {"to": f"+{NUMBER}", "country_code": "44", "text": MESSAGE.body, "reference": "ref-1"},
    }


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The vector that the libraries of Standard Webhooks test themselves with."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("body", [GSM_7, UCS_2])
async def test_texts_pass_unharmed(webhook: SmsTransport, vendor: Vendor, body: str) -> None:
    vendor.answers(200)
    await webhook.send(dataclasses.replace(MESSAGE, body=body))
    assert vendor.seen[0].json["data"]["text"] == body
    assert is_genuine(vendor.seen[0])


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (401, AccountProblem),
        (422, DeliveryRefused),
        (429, DeliveryPostponed),
        (500, DeliveryUnknown),
        (503, DeliveryPostponed),
    ],
)
async def test_failures(webhook: SmsTransport, vendor: Vendor, status: int, outcome: type[DeliveryError]) -> None:
    vendor.answers(status, {"detail": "quoted by the vendor"}, Retry_After="60")
    error = await failure_of(webhook)
    assert type(error) is outcome
    assert str(error) == f"webhook: {status}"
    if outcome is DeliveryPostponed:
        assert isinstance(error, DeliveryPostponed)
        assert error.retry_after_seconds == 60


async def test_broken_answers(webhook: SmsTransport, vendor: Vendor) -> None:
    vendor.reply = cut
    assert isinstance(await failure_of(webhook), DeliveryUnknown)
    vendor.reply = endless(422)
    assert isinstance(await failure_of(webhook), DeliveryRefused)


def test_the_secret_does_not_show() -> None:
    assert str(SECRET) not in repr(Webhook("https://x", SECRET))


async def test_the_terminal_shows_a_message_and_the_log_does_not(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        await LogTransport().send(MESSAGE)
    lines = capsys.readouterr().out.splitlines()
    assert f"SMS to:  +{NUMBER}" in lines
    assert MESSAGE.body in lines
    assert NUMBER not in caplog.text


async def test_no_text_steers_the_terminal() -> None:
    stream = io.StringIO()
    await LogTransport(stream=stream).send(
        dataclasses.replace(MESSAGE, body="482915\x1b[2J\x9b31m\x07\u202e\r\n@id.example #482915")
    )
    assert not {"\x1b", "\x9b", "\x07", "\u202e", "\r"} & set(stream.getvalue())
    assert "@id.example #482915" in stream.getvalue().splitlines()
