"""The audit journal: what an operator may have to account for later; never names a person or an address.

The rule: a use case writes its entry in its own transaction, and no two of them touch the same row for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, Table, insert, select

from identity_server.domain.audit import AuditEntry, AuditEvent, Subject, subject_parts
from identity_server.domain.identifiers import ServerName
from identity_server.storage.connection import Connection, Prepared
from identity_server.storage.schema.tables import audit_chain, audit_pending
from identity_server.storage.sealing.sealer import COMMITMENT_BYTES, Sealer, same_digest

_ADD = Prepared(insert(audit_pending))


class Audit:
    """Entries are added and read; nothing changes them."""

    def __init__(self, connection: Connection, sealer: Sealer) -> None:
        self._connection = connection
        self._sealer = sealer

    async def add(
        self,
        event: AuditEvent,
        *,
        now_ms: int,
        about: Iterable[Subject] = (),
        count: int | None = None,
        server_name: ServerName | None = None,
    ) -> None:
        """Write an entry.

        Args:
            event: what happened.
            now_ms: when.
            about: whom it concerns; kept as keyed digests only, which can't be told from those of another entry.
            count: how many there were, where it was more than one thing.
            server_name: of a homeserver that operators must be able to read; never the one of a person's Matrix ID.
        """
        blank = AuditEntry(self._sealer.salt(), now_ms, event.value, server_name, count, self._sealer.key_id, ())
        subjects = tuple(self._about(blank, subject) for subject in about)
        entry = replace(blank, commitments=(self._to_all(blank, subjects), *subjects))
        await self._connection.execute(_ADD, entry_to_row(entry))

    def is_genuine(self, entry: AuditEntry) -> bool | None:
        """Whether it is as this server wrote it; None if it is keyed by a root key that isn't known."""
        if not self._sealer.can_commit(entry.key_id):
            return None
        to_all, *subjects = entry.commitments or (b"",)
        return same_digest(to_all, self._to_all(entry, subjects))

    async def list(self, event: AuditEvent) -> Sequence[AuditEntry]:
        """Every entry of this kind, the oldest first."""
        return [*await self._find(audit_chain, event), *await self._find(audit_pending, event)]

    def is_about(self, entry: AuditEntry, subject: Subject) -> bool:
        """Whether this entry concerns them, as far as the root keys that are known can tell."""
        return self._sealer.can_commit(entry.key_id) and self._about(entry, subject) in entry.commitments[1:]

    def _about(self, entry: AuditEntry, subject: Subject) -> bytes:
        return self._sealer.commit(entry.key_id, *entry.parts, *subject_parts(subject))

    def _to_all(self, entry: AuditEntry, subjects: Iterable[bytes]) -> bytes:
        return self._sealer.commit(entry.key_id, *entry.parts, *(each.hex() for each in subjects))

    async def _find(self, table: Table, event: AuditEvent) -> Sequence[AuditEntry]:
        order = table.c.seq if table is audit_chain else table.c.id
        rows = await self._connection.execute(select(table).where(table.c.event == event.value).order_by(order))
        return [entry_from_row(row) for row in rows]


def entry_to_row(entry: AuditEntry) -> dict[str, Any]:
    """The columns of an entry, wherever it is."""
    return {
        "salt": entry.salt,
        "at_ms": entry.at_ms,
        "event": entry.event,
        "server_name": entry.server_name,
        "number": entry.count,
        "key_id": entry.key_id,
        "commitments": b"".join(entry.commitments),
    }


def entry_from_row(row: Row[Any]) -> AuditEntry:
    """An entry, wherever it is."""
    starts = range(0, len(row.commitments), COMMITMENT_BYTES)
    return AuditEntry(
        salt=row.salt,
        at_ms=row.at_ms,
        event=row.event,
        server_name=row.server_name,
        count=row.number,
        key_id=row.key_id,
        commitments=tuple(row.commitments[start : start + COMMITMENT_BYTES] for start in starts),
    )
