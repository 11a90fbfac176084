"""The search for secrets finds them in every disguise; a search that finds nothing would prove nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.leaks import Ledger, dump, everything_in

_ADDRESS = "Walter.Kestrel+matrix@Example.org"
_SECRET = _ADDRESS.lower().encode()

_DISGUISES = {
    "as it is": _SECRET,
    "in capitals": _SECRET.upper(),
    "local part": b"user walter.kestrel+matrix at",
    "hex": _SECRET.hex().encode(),
    "SQL blob": _SECRET.hex().upper().encode(),
    "base64": base64.b64encode(_SECRET),
    "base64 inside JSON": base64.b64encode(json.dumps({"to": _SECRET.decode()}).encode()),
    "base64, one byte on": base64.b64encode(b"x" + _SECRET + b"yz"),
    "base64, two bytes on": base64.b64encode(b"xx" + _SECRET + b"y"),
    "urlsafe base64": base64.urlsafe_b64encode(b"??" + _SECRET),
    "URL encoded": quote(_SECRET.decode(), safe="").encode(),
    "UTF-16": _SECRET.decode().encode("utf-16"),
    "plain digest": hashlib.sha256(_SECRET).hexdigest().encode(),
    "lookup hash": base64.urlsafe_b64encode(hashlib.sha256(_SECRET + b" email pepper").digest()),
}


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger()
    made.note_address(_ADDRESS, pepper="pepper")
    return made


@pytest.mark.parametrize("disguise", _DISGUISES.values(), ids=_DISGUISES)
def test_every_disguise_is_seen_through(ledger: Ledger, disguise: bytes) -> None:
    assert ledger.find_in(b"before " + disguise + b" after")


def test_half_of_a_token_is_found() -> None:
    ledger = Ledger()
    ledger.note_token("mail token", "k3J9x0qWzP4rT7vB2nM8")
    assert "half of a mail token as it is" in ledger.find_in(b"token=k3J9x0qWzP4r...")


def test_what_is_no_secret_is_not_reported(ledger: Ledger) -> None:
    assert ledger.find_in(b"@walter:example.org asked for a mail to somebody at example.org") == set()


def test_a_finding_does_not_repeat_the_secret(ledger: Ledger) -> None:
    findings = ledger.find_in(_SECRET)
    assert "address as it is" in findings
    assert "kestrel" not in repr(findings) + repr(ledger)


def test_rows_and_blobs_are_found_before_the_log_is_checkpointed(ledger: Ledger, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "some.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE kept (text, bytes)")
        database.execute("INSERT INTO kept VALUES (?, ?)", ("in the clear", _SECRET))

        assert "address as hex" in ledger.find_in(dump(tmp_path / "some.db"))
        assert "address as it is" in ledger.find_in(everything_in(tmp_path))
