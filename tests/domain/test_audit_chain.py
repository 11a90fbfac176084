"""A link's hash hangs on everything in the entry, and on what went before; a statement on who made it, and on what."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from identity_server.domain.audit import AuditEntry, AuditEvent
from identity_server.domain.audit_chain import BEGINNING, Link, Statement, after, sign, signed_link
from identity_server.domain.signing import SigningKey

KEY = SigningKey(server_name="id.example.org", version="0", seed=b"k" * 32)
ENTRY = AuditEntry(b"s" * 16, 1000, AuditEvent.BOUND, None, None, "0123abcd", (b"1" * 16, b"2" * 16))


@pytest.mark.parametrize(
    "change",
    [
        {"salt": b"t" * 16},
        {"at_ms": 1001},
        {"event": AuditEvent.UNBOUND},
        {"server_name": "example.org"},
        {"count": 0},
        {"key_id": ""},
        {"commitments": (b"1" * 16,)},
        {"commitments": (b"2" * 16, b"1" * 16)},
    ],
)
def test_hash_hangs_on_everything_in_the_entry(change: dict[str, Any]) -> None:
    assert after(BEGINNING, replace(ENTRY, **change)).hash != after(BEGINNING, ENTRY).hash


def test_hash_hangs_on_the_place() -> None:
    second = after(after(BEGINNING, ENTRY), ENTRY)
    assert second.seq == 2
    others = [after(BEGINNING, ENTRY), after(Link(1, BEGINNING.hash), ENTRY)]
    assert len({link.hash for link in [second, *others]}) == 3


def test_hash_is_what_anybody_can_reckon() -> None:
    """By the documentation: SHA-256 of the entry as JSON without spaces, its keys in order."""
    entry = {
        "at_ms": 1000,
        "commitments": [(b"1" * 16).hex(), (b"2" * 16).hex()],
        "count": None,
        "event": "bound",
        "key_id": "0123abcd",
        "previous": "00" * 32,
        "salt": (b"s" * 16).hex(),
        "seq": 1,
        "server_name": None,
    }
    text = json.dumps(entry, separators=(",", ":"), sort_keys=True)
    assert after(BEGINNING, ENTRY).hash == hashlib.sha256(text.encode()).digest()


def test_statement_counts_as_itself_and_by_its_key_alone() -> None:
    link = after(BEGINNING, ENTRY)
    signed = sign(Statement.HEAD, link, now_ms=5, key=KEY)

    assert signed_link(Statement.HEAD, json.loads(json.dumps(signed)), key=KEY) == link
    assert signed_link(Statement.PRUNED, signed, key=KEY) is None
    assert signed_link(Statement.PRUNED, {**signed, "audit": "pruned"}, key=KEY) is None
    assert signed_link(Statement.HEAD, {**signed, "seq": 2}, key=KEY) is None
    assert signed_link(Statement.HEAD, {**signed, "more": 2}, key=KEY) is None
    assert signed_link(Statement.HEAD, {**signed, "signatures": {}}, key=KEY) is None
    assert signed_link(Statement.HEAD, {}, key=KEY) is None
    for other in (
        SigningKey(server_name="id.example.org", version="0", seed=b"o" * 32),
        SigningKey(server_name="other.example.org", version="0", seed=b"k" * 32),
    ):
        assert signed_link(Statement.HEAD, signed, key=other) is None
