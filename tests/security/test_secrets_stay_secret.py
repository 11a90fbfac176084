"""Nets below the rule that secrets aren't written anywhere: what a debugger, a log line or a report may show."""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from identity_server.domain.identifiers import ClientSecret
from identity_server.key_files import KeySources
from identity_server.observability import log_what_nobody_awaits, redact_text, set_up_logging
from identity_server.services.validation.email import EmailRequest


def test_representations_hide_secrets() -> None:
    sources = KeySources(
        server_name="id.example.org",
        directory=Path("keys"),
        signing_text="ed25519 0 SIGNING",
        root_text="ROOT",
        root_passphrase="PASSPHRASE",
    )
    request = EmailRequest(
        email="alice@example.com", client_secret=ClientSecret("MONKEYS"), send_attempt=1, next_link="https://private"
    )
    shown = repr((sources, request))
    assert "id.example.org" in shown
    assert [word for word in ("SIGNING", "ROOT", "PASSPHRASE", "alice", "MONKEYS", "private") if word in shown] == []


@pytest.mark.parametrize(
    "text",
    [
        "a.b" * 100_000,
        "a@" * 100_000,
        "a@b" * 100_000,
        "@." * 100_000,
        "a@." * 100_000,
        "%40" * 100_000,
        '"' * 300_000,
        "+0" * 100_000,
        "0 " * 100_000,
        "token" * 60_000,
        "a+b=c.d" * 50_000,
        "+-" * 100_000,
        "a+" * 100_000 + "=" + "b." * 100_000,
        "=40a.b" * 60_000,
        "SRS0=" * 60_000,
        "://" * 100_000,
        "://a@b" * 60_000,
    ],
)
def test_redaction_takes_no_longer_than_the_text_is_long(text: str) -> None:
    started = time.process_time()
    redact_text(text)
    assert time.process_time() - started < 2, "quadratic: this took minutes"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("to alice@example.com now", "to <address> now"),
        ("x=alice@example.com", "x=<address>"),
        ("{'to': 'alice@example.com'}", "{'to': '<address>'}"),
        ("<alice@example.com>,bob@example.com", "<<address>>,<address>"),
        ("b@alice@example.com", "b@<address>"),
        ("@alice:example.org", "@alice:example.org"),
        ("ALICE@EXAMPLE.COM", "<address>"),
        ("?email=alice%40example.com&lang=en", "?email=<address>&lang=en"),
        ("next=https%3A%2F%2Fx%3Fa%3Dalice%2540example.com", "next=<address>"),
        ("alice\\u0040example.com", "<address>"),
        ('RCPT TO:<"alice kestrel"@example.com>', "RCPT TO:<<address>>"),
        ("alice@[IPv6:2001:db8::1]", "<address>"),
        ("jürgen@bücher.example", "<address>"),
        ("アリス\uff20例え。テスト", "<address>"),
        ("to bounce+alice=example.com@relay.example: gone", "to <address>: gone"),
        ("from=list-return-12-alice=sub.example.com@relay.example", "from=<address>"),
        ("<SRS0=HHHH=TT=example.com=alice@relay.example>", "<<address>>"),
        ("a+b=c@example.com", "a+b=<address>"),
        ("to alice=40example.com now", "to <address> now"),
        ("rcpt=al.ice=40mail.example.com", "rcpt=<address>"),
        ("size=40 ms=40.5 status=404 took=40s. Then x=40e.5", "size=40 ms=40.5 status=404 took=40s. Then x=40e.5"),
        ("550 <alice@localhost>: unknown", "550 <<address>>: unknown"),
        ("RCPT TO:alice@relay-1.", "RCPT TO:<address>."),
        ("alice%40localhost, 'bob'@localhost", "<address>, 'bob'@localhost"),
        ('"alice kestrel"@localhost', "<address>"),
        ("postgresql://identity:word@localhost/db", "postgresql://identity:word@localhost/db"),
        ("ssh://git@host:22 and alice@localhost", "ssh://git@host:22 and <address>"),
        ("checkout@v4 node@20 image@sha256:abc", "checkout@v4 node@20 image@sha256:abc"),
        ("mxid=@alice:localhost, /@alice:localhost", "mxid=@alice:localhost, /@alice:localhost"),
        ("%2Fprofile%2F%40alice%3Alocalhost", "%2Fprofile%2F@alice%3Alocalhost"),
        ("a%3D%40alice:localhost", "a%3D@alice:localhost"),
        ("+447700900123", "<number>"),
        ("To number: +44 (0) 7700 900-123.", "To number: <number>."),
        ("07700 900123", "<number>"),
        ("(030) 123-4567", "<number>"),
        ("?client_secret=monkeys.GREAT&sid=12", "?client_secret=<redacted>&sid=12"),
        ("{'token': 'abc', 'sid': '12'}", "{'token': '<redacted>', 'sid': '12'}"),
        ("at 2026-11-29T08:15:04.375617Z after 0.123456789 s", "at 2026-11-29T08:15:04.375617Z after 0.123456789 s"),
        (
            "127.0.0.1:8090, job 4611686018427387904, token_type",
            "127.0.0.1:8090, job 4611686018427387904, token_type",
        ),
    ],
)
def test_redaction_finds_addresses(text: str, shown: str) -> None:
    assert redact_text(text) == shown


SECRETS = {"walter.kestrel@example.com": "kestrel", "447700900123": "7009", "654321": "6543"}


class Quotes(Exception):
    """An error that quotes what it is about, as those of libraries do."""


@pytest.fixture(params=["json", "console"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "log"
    set_up_logging(level="DEBUG", form=request.param, path=path)
    return path


def spilled(text: str) -> list[str]:
    return [part for part in SECRETS.values() if part in text]


@pytest.mark.parametrize("secret", SECRETS)
async def test_an_error_in_the_log_quotes_nobody(log: Path, secret: str) -> None:
    async def fail() -> None:
        raise Quotes(f"{{'to': '{secret}'}} doesn't fit") from ValueError(secret)

    try:
        await fail()
    except Quotes:
        structlog.get_logger("ours").exception("job.unreadable")
        logging.getLogger("a.library").exception("it was %s", secret)
    # asyncio says that nobody has asked for its result.
    task = asyncio.create_task(fail())
    await asyncio.wait({task})
    del task
    # What has just been made is in the young generations; all others take a quarter of a second.
    gc.collect(1)
    text = log.read_text()
    assert text.count("Quotes") >= 3
    assert "Task exception was never retrieved" in text
    assert spilled(text) == []


@pytest.mark.parametrize("wrapped", [str.encode, ValueError, lambda text: [{"a": (text,)}], lambda text: {text: 1}])
def test_whatever_is_logged_is_looked_at(log: Path, wrapped: Callable[[str], object]) -> None:
    address = "walter.kestrel@example.com"
    structlog.get_logger("ours").warning("planted", value=wrapped(address), job_id=654321)
    logging.getLogger("a.library").warning("planted", extra={"value": wrapped(address)})
    text = log.read_text()
    assert text.count("planted") == 2
    assert "kestrel" not in text
    assert "654321" in text, "numbers of ours are needed"


def test_errors_that_nobody_awaits_are_logged(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    log_what_nobody_awaits()

    class Finalized:
        def __del__(self) -> None:
            raise Quotes(*SECRETS)

    Finalized()
    assert "Quotes" in log.read_text()
    assert spilled(log.read_text()) == []


def test_a_log_that_cannot_be_written_says_so_and_no_more(
    log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), text)

    (handler,) = (each for each in logging.getLogger().handlers if isinstance(each, logging.FileHandler))
    monkeypatch.setattr(handler, "stream", io.StringIO())
    handler.handle(logging.makeLogRecord({"msg": "%d", "args": tuple(SECRETS)}))
    assert "a line couldn't be logged: TypeError" in capsys.readouterr().err
    monkeypatch.setattr(handler.stream, "write", no_space)
    structlog.get_logger("ours").warning("planted", value=" ".join(SECRETS))
    err = capsys.readouterr().err
    assert "a line couldn't be logged: OSError No space left on device" in err
    assert spilled(err) == []
    assert log.read_text() == ""
