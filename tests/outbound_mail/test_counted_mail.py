"""Mails are counted by what becomes of them, and everything else about them stays as it is."""

from __future__ import annotations

import pytest

from identity_server.domain.ports import DeliveryPostponed, DeliveryRefused
from identity_server.outbound.counted_mail import CountedMail
from tests.rendering.kit import make_mail
from tests.support.fakes import FakeMail


async def test_outcomes() -> None:
    relay, outcomes = FakeMail(), list[str]()
    relay.answers.extend((DeliveryRefused("RCPT: 550"), DeliveryPostponed("RCPT: 450")))
    transport = CountedMail(relay, count=outcomes.append)
    mail = make_mail()
    with pytest.raises(DeliveryRefused, match="RCPT: 550"):
        await transport.send(mail)
    with pytest.raises(DeliveryPostponed, match="RCPT: 450"):
        await transport.send(mail)
    await transport.send(mail)
    assert relay.sent == [mail]
    assert outcomes == ["refused", "postponed", "taken"]
