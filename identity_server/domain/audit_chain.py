"""How entries of the audit journal are linked, and what the server signs of that.

The rule: each link's hash covers an entry and the hash before it. So whoever keeps one hash, and trusts nothing else,
can tell whether anything up to there was altered, removed, added or moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import canonicaljson

from identity_server.domain.audit import AuditEntry
from identity_server.domain.signing import SigningKey

HASH_BYTES: Final = 32
_GROUP_BYTES = 8


@dataclass(frozen=True, slots=True)
class Link:
    """A place in the chain.

    Attributes:
        seq: which entry it is, counted from 1; 0 before the first.
        hash: SHA-256 over that entry and the hash before it.
    """

    seq: int
    hash: bytes

    @property
    def hash_in_groups(self) -> str:
        """The hash for people and logs, whose filter would take so long a word for a secret."""
        return self.hash.hex(":", _GROUP_BYTES)


BEGINNING: Final = Link(0, bytes(HASH_BYTES))
"""What the first entry follows."""


@dataclass(frozen=True, slots=True)
class LinkedEntry:
    """An entry in its place."""

    link: Link
    entry: AuditEntry


class Statement(StrEnum):
    """What the server can say of a link. One can't be taken for the other: each says which it is."""

    HEAD = "head"
    """All entries up to this one have been written, and none after it."""
    PRUNED = "pruned"
    """All entries up to this one have been removed, because they were old."""


def after(link: Link, entry: AuditEntry) -> Link:
    """The next link, which is the entry's."""
    covered = to_wire(entry, seq=link.seq + 1, previous=link.hash.hex())
    return Link(link.seq + 1, hashlib.sha256(canonicaljson.encode_canonical_json(covered)).digest())


def to_wire(entry: AuditEntry, *, seq: int, previous: str) -> dict[str, Any]:
    """What a hash is over, as canonical JSON: the entry, its number, and the hash before it."""
    return {
        "seq": seq,
        "previous": previous,
        "salt": entry.salt.hex(),
        "at_ms": entry.at_ms,
        "event": entry.event,
        "server_name": entry.server_name,
        "count": entry.count,
        "key_id": entry.key_id,
        "commitments": [each.hex() for each in entry.commitments],
    }


def sign(statement: Statement, link: Link, *, now_ms: int, key: SigningKey) -> dict[str, Any]:
    """The server's word, as JSON that anybody can check who has its public key."""
    return key.sign({"audit": statement.value, "seq": link.seq, "hash": link.hash.hex(), "at_ms": now_ms})


def signed_link(statement: Statement, message: Mapping[str, Any], *, key: SigningKey) -> Link | None:
    """The link that a message is about; None unless it is this statement, signed by this key."""
    if message.get("audit") != statement.value or not key.has_signed(message):
        return None
    # What this server has signed is of the form that `sign` gives it.
    return Link(message["seq"], bytes.fromhex(message["hash"]))
