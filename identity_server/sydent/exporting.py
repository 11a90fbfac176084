"""Rows here become a database that Sydent opens, so that a move can be undone.

The rule: the file is complete or it isn't there. It holds addresses in clear text, as Sydent needs them.

Its rows are numbered anew, so it has a number of its own, by which an import knows it again: what was written here
isn't new then, and all that Sydent has added since is.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from unpaddedbase64 import encode_base64

from identity_server.domain.association import Association
from identity_server.domain.audit import AuditEvent
from identity_server.domain.hashing import encode_digest, hash_threepid
from identity_server.domain.ports import Clock, Randomness
from identity_server.domain.signing import SigningKey
from identity_server.storage.database import Database, Transaction
from identity_server.sydent.bindings import GLOBAL, LOCAL
from identity_server.sydent.naming import name_of_export, new_export_number
from identity_server.sydent.reading import NEWEST_SCHEMA

T = TypeVar("T")

_PAGE = 2_000
_ALL = 2**31 - 1
_FIRST_ID = -1

# The tables of Sydent's schema 5, all of them: at this version it makes none itself.
_SCHEMA = """
CREATE TABLE local_threepid_associations (
  id INTEGER PRIMARY KEY AUTOINCREMENT, medium VARCHAR(16) NOT NULL, address VARCHAR(256) NOT NULL,
  mxid VARCHAR(256), ts INTEGER, notBefore BIGINT, notAfter BIGINT, lookup_hash VARCHAR(256));
CREATE UNIQUE INDEX local_threepid_medium_address ON local_threepid_associations (medium, address);
CREATE TABLE global_threepid_associations (
  id INTEGER PRIMARY KEY AUTOINCREMENT, medium VARCHAR(16) NOT NULL, address VARCHAR(256) NOT NULL,
  mxid VARCHAR(256) NOT NULL, ts INTEGER NOT NULL, notBefore BIGINT NOT NULL, notAfter INTEGER NOT NULL,
  originServer VARCHAR(255) NOT NULL, originId INTEGER NOT NULL, sgAssoc TEXT NOT NULL, lookup_hash VARCHAR(256));
CREATE INDEX global_threepid_medium_address ON global_threepid_associations (medium, address);
CREATE INDEX global_threepid_medium_lower_address ON global_threepid_associations (medium, lower(address));
CREATE UNIQUE INDEX global_threepid_originServer_originId ON global_threepid_associations (originServer, originId);
CREATE INDEX global_threepid_lookup_hash ON global_threepid_associations (lookup_hash);
CREATE TABLE threepid_validation_sessions (
  id INTEGER PRIMARY KEY, medium VARCHAR(16) NOT NULL, address VARCHAR(256) NOT NULL,
  clientSecret VARCHAR(32) NOT NULL, validated INT DEFAULT 0, mtime BIGINT NOT NULL);
CREATE INDEX threepid_validation_sessions_mtime ON threepid_validation_sessions (mtime);
CREATE TABLE threepid_token_auths (
  id INTEGER PRIMARY KEY, validationSession INTEGER NOT NULL, token VARCHAR(32) NOT NULL,
  sendAttemptNumber INTEGER NOT NULL);
CREATE TABLE invite_tokens (
  id INTEGER PRIMARY KEY, medium VARCHAR(16) NOT NULL, address VARCHAR(256) NOT NULL,
  room_id VARCHAR(256) NOT NULL, sender VARCHAR(256) NOT NULL, token VARCHAR(256) NOT NULL,
  received_ts BIGINT, sent_ts BIGINT);
CREATE INDEX invite_token_medium_address ON invite_tokens (medium, address);
CREATE INDEX invite_token_token ON invite_tokens (token);
CREATE TABLE ephemeral_public_keys (
  id INTEGER PRIMARY KEY, public_key VARCHAR(256) NOT NULL, verify_count BIGINT DEFAULT 0, persistence_ts BIGINT);
CREATE UNIQUE INDEX ephemeral_public_keys_index ON ephemeral_public_keys (public_key);
CREATE TABLE hashing_metadata (id INTEGER PRIMARY KEY, lookup_pepper VARCHAR(256));
CREATE TABLE accounts (user_id TEXT NOT NULL PRIMARY KEY, created_ts BIGINT NOT NULL, consent_version TEXT);
CREATE TABLE tokens (token TEXT NOT NULL PRIMARY KEY, user_id TEXT NOT NULL);
CREATE TABLE accepted_terms_urls (user_id TEXT NOT NULL, url TEXT NOT NULL);
CREATE UNIQUE INDEX accepted_terms_urls_idx ON accepted_terms_urls (user_id, url);
CREATE TABLE peers (
  id INTEGER PRIMARY KEY, name VARCHAR(255) NOT NULL, port INTEGER DEFAULT NULL, lastSentVersion INTEGER,
  lastPokeSucceededAt INTEGER, active INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX name ON peers (name);
CREATE TABLE peer_pubkeys (
  id INTEGER PRIMARY KEY, peername VARCHAR(255) NOT NULL, alg VARCHAR(16) NOT NULL, key TEXT NOT NULL);
CREATE UNIQUE INDEX peername_alg ON peer_pubkeys (peername, alg);
"""


class CannotExport(Exception):
    """The file can't be written; the text says why."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """How many of each were written.

    Attributes:
        hidden: how many bindings were not, because Sydent shows everyone what it has.
    """

    bindings: int
    hidden: int
    accounts: int
    accepted_urls: int
    invites: int
    ephemeral_keys: int


class Exporter:
    """Writes a database of Sydent's.

    Args:
        signing_key: signs each binding, as Sydent keeps them signed.
    """

    def __init__(self, *, database: Database, clock: Clock, randomness: Randomness, signing_key: SigningKey) -> None:
        self._database = database
        self._signing_key = signing_key
        self._now_ms = clock.now_ms()
        self._number = new_export_number(randomness)

    async def run(self, out: Path) -> ExportReport:
        """Write everything that Sydent has a place for to a new file, for its owner's eyes only.

        Raises:
            CannotExport: there is such a file already, or it can't be written.
        """
        try:
            with _complete_or_not_there(out) as unfinished:
                connection = sqlite3.connect(unfinished, isolation_level=None)
                try:
                    return await self._write(connection)
                finally:
                    connection.close()
        except (OSError, sqlite3.Error) as error:
            raise CannotExport(f"{out} can't be written: {error}") from None

    async def _write(self, connection: sqlite3.Connection) -> ExportReport:
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version = {NEWEST_SCHEMA}")
        connection.execute(f"PRAGMA application_id = {self._number}")
        connection.execute("BEGIN")
        bindings, hidden = await self._bindings(connection, await self._pepper(connection))
        report = ExportReport(
            bindings=bindings,
            hidden=hidden,
            accounts=await self._accounts(connection),
            accepted_urls=await self._accepted_urls(connection),
            invites=await self._invites(connection),
            ephemeral_keys=await self._ephemeral_keys(connection),
        )
        # Said before the file is there, lest it ever be there without having been said.
        await self._database.transaction(partial(self._note, report))
        connection.execute("COMMIT")
        return report

    async def _note(self, report: ExportReport, tx: Transaction) -> None:
        """Enter it into the journal, and which rows need not be imported if Sydent's file ever comes back."""
        await tx.audit.add(AuditEvent.EXPORTED_TO_SYDENT, now_ms=self._now_ms, count=report.bindings)
        for table, written in (
            ("accounts", report.accounts),
            ("accepted_terms_urls", report.accepted_urls),
            ("ephemeral_public_keys", report.ephemeral_keys),
            ("invite_tokens", report.invites),
            (LOCAL, report.bindings),
            (GLOBAL, report.bindings),
        ):
            await tx.imports.set_mark(name_of_export(self._number), table, written, now_ms=self._now_ms)

    async def _pepper(self, connection: sqlite3.Connection) -> str | None:
        """The newest one. Without any, Sydent makes one and hashes anew."""
        peppers = await self._database.read(lambda tx: tx.peppers.list())
        if not peppers:
            return None
        connection.execute("INSERT INTO hashing_metadata (id, lookup_pepper) VALUES (0, ?)", (peppers[-1].value,))
        return peppers[-1].value

    async def _bindings(self, connection: sqlite3.Connection, pepper: str | None) -> tuple[int, int]:
        written, hidden, after = 0, 0, _FIRST_ID
        while page := await self._database.read(_associations_after(after), bulk=True):
            for association_id, association in page:
                after = association_id
                if not association.is_shown_to(None):
                    hidden += 1
                    continue
                written += 1
                self._binding(connection, written, association, pepper)
        return written, hidden

    def _binding(self, connection: sqlite3.Connection, row: int, each: Association, pepper: str | None) -> None:
        """Sydent has a binding twice: as its own, and signed as it is published. Lookups read the second."""
        hashed = None if pepper is None else encode_digest(hash_threepid(each.threepid, pepper))
        said = (each.threepid.medium.value, each.threepid.address, each.user_id)
        said_when = (each.ts, each.not_before, each.not_after)
        signed = json.dumps(self._signing_key.sign(each.to_wire()))
        connection.execute(
            "INSERT INTO local_threepid_associations VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (row, *said, *said_when, hashed),
        )
        connection.execute(
            "INSERT INTO global_threepid_associations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (row, *said, *said_when, self._signing_key.server_name, row, signed, hashed),
        )

    async def _accounts(self, connection: sqlite3.Connection) -> int:
        return await _copy(
            self._pages(lambda tx, after: tx.exports.accounts(after=after)),
            lambda each: connection.execute(
                "INSERT INTO accounts VALUES (?, ?, ?)",
                (each.user_id, each.created_at_ms, each.agreed_master_version),
            ),
        )

    async def _accepted_urls(self, connection: sqlite3.Connection) -> int:
        return await _copy(
            self._pages(lambda tx, after: tx.exports.accepted_urls(after=after)),
            lambda each: connection.execute(
                "INSERT INTO accepted_terms_urls VALUES (?, ?)", (each.user_id, each.url)
            ),
        )

    async def _ephemeral_keys(self, connection: sqlite3.Connection) -> int:
        return await _copy(
            self._pages(lambda tx, after: tx.exports.ephemeral_keys(after=after, now_ms=self._now_ms)),
            lambda each: connection.execute(
                "INSERT INTO ephemeral_public_keys (public_key, persistence_ts) VALUES (?, ?)",
                (encode_base64(each.public_key, urlsafe=True), each.created_at_ms // 1000),
            ),
        )

    async def _invites(self, connection: sqlite3.Connection) -> int:
        found = await self._database.read(lambda tx: tx.invites.list_all(now_ms=self._now_ms, limit=_ALL), bulk=True)
        waiting = [invite for invite, taken in reversed(found) if not taken]
        for each in waiting:
            connection.execute(
                "INSERT INTO invite_tokens (medium, address, room_id, sender, token, received_ts)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    each.threepid.medium.value,
                    each.threepid.address,
                    each.room_id,
                    each.sender,
                    each.token,
                    each.created_at_ms // 1000,
                ),
            )
        return len(waiting)

    async def _pages(
        self, page_after: Callable[[Transaction, T | None], Awaitable[list[T]]]
    ) -> AsyncIterator[list[T]]:
        after: T | None = None
        while page := await self._database.read(lambda tx, after=after: page_after(tx, after), bulk=True):  # type: ignore[misc] # a lambda's default isn't inferred
            yield page
            after = page[-1]


@contextmanager
def _complete_or_not_there(out: Path) -> Iterator[Path]:
    """The file to write to; it gets its name when the block ends well, and goes when it doesn't."""
    if out.exists():
        raise CannotExport(f"{out} exists already: name a new file")
    unfinished = out.with_name(out.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield unfinished
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)


async def _copy(pages: AsyncIterator[list[T]], write: Callable[[T], object]) -> int:
    written = 0
    async for page in pages:
        for each in page:
            write(each)
        written += len(page)
    return written


def _associations_after(after_id: int) -> Callable[[Transaction], Awaitable[list[tuple[int, Association]]]]:
    return lambda tx: tx.associations.list_page(after_id=after_id, limit=_PAGE)
