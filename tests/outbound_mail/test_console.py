from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from identity_server.domain.ports import DeliveryPostponed, DeliveryRefused, MailTransport
from identity_server.outbound.mail import ConsoleTransport
from identity_server.rendering.templates import Templates
from tests.rendering.kit import SERVER, make_mail, make_mails, write


async def test_a_mail_is_shown_as_its_reader_sees_it() -> None:
    stream = io.StringIO()
    url = "https://id.example.org/_matrix/identity/confirm?token=" + "x" * 100
    console: MailTransport = ConsoleTransport(mails=make_mails(), stream=stream)
    await console.send(make_mail(confirm_url=url, language=("fr",)))
    lines = stream.getvalue().splitlines()
    assert url in lines
    assert "To:      alice@example.org" in lines
    assert any(line.startswith("Subject: Confirmez votre adresse") for line in lines)
    assert "<html" not in stream.getvalue()
    assert "=C3" not in stream.getvalue()


async def test_it_goes_to_standard_output_and_not_to_the_log(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        await ConsoleTransport(mails=make_mails()).send(make_mail())
    assert "alice@example.org" in capsys.readouterr().out
    assert "alice@example.org" not in caplog.text


async def test_no_value_steers_the_terminal() -> None:
    stream = io.StringIO()
    evil = "@\x1b[2J\x9b31m\x07\u202e:example.org"
    await ConsoleTransport(mails=make_mails(), stream=stream).send(
        make_mail(user_id=evil, confirm_url=f"https://{evil}")
    )
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(stream.getvalue())


async def test_it_fails_as_the_other_transport_does(tmp_path: Path) -> None:
    write(tmp_path, {"b/mail/verification.txt.j2": "{{ missing }}"})
    console = ConsoleTransport(
        mails=make_mails(Templates.load(server_name=SERVER, path=tmp_path)), stream=io.StringIO()
    )
    with pytest.raises(DeliveryRefused):
        await console.send(make_mail("nobody"))
    with pytest.raises(DeliveryPostponed):
        await console.send(make_mail(brand="b"))
