"""Nets below the rule that secrets aren't written anywhere: what a debugger, a log line or a report may show."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from identity_server.domain.identifiers import ClientSecret
from identity_server.key_files import KeySources
from identity_server.observability import redact_text
from identity_server.services.validation import EmailRequest


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


@pytest.mark.parametrize("text", ["a.b" * 100_000, "a@" * 100_000, "a@b" * 100_000, "@." * 100_000, "a@." * 100_000])
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
    ],
)
def test_redaction_finds_addresses(text: str, shown: str) -> None:
    assert redact_text(text) == shown
