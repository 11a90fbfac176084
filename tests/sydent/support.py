"""Databases as Sydent leaves them, of every schema it ever had, and imports of them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from identity_server.domain.association import ASSOCIATION_LIFETIME_MS, Visibility
from identity_server.domain.credentials import CodeHasher
from identity_server.domain.signing import SigningKey
from identity_server.domain.terms import NO_TERMS, Terms
from identity_server.services.associations.bind_notices import NoticeWriter
from identity_server.services.outbox.port import BIND_NOTICE
from identity_server.storage.database import Database
from identity_server.storage.sealing.key_ring import KeyRing, RootKey
from identity_server.storage.sealing.sealer import Sealer
from identity_server.sydent.exporting import Exporter
from identity_server.sydent.importing import Importer
from identity_server.sydent.progress import Silent
from identity_server.sydent.reading import open_sydent
from identity_server.sydent.report import ImportReport
from tests.support.databases import open_database, read_everything
from tests.support.fakes import START_MS, FakeClock, FakeRandomness

SERVER_NAME = "id.example.org"
OTHER_SERVER = "id.elsewhere.org"
SIGNING_TEXT = "ed25519 0 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
SIGNING_KEY = SigningKey.parse(SIGNING_TEXT, server_name=SERVER_NAME)
PEPPER = "Ab3dE"
ALICE = "@alice:example.org"
BOB = "@bob:example.org"
MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS

_GLOBAL = """
    id INTEGER PRIMARY KEY {auto}, medium VARCHAR(16) NOT NULL, address VARCHAR(256) NOT NULL,
    mxid VARCHAR(256) NOT NULL, ts INTEGER NOT NULL, notBefore BIGINT NOT NULL, notAfter INTEGER NOT NULL,
    originServer VARCHAR(255) NOT NULL, originId INTEGER NOT NULL, sgAssoc TEXT NOT NULL"""
_FIRST = f"""
    CREATE TABLE local_threepid_associations (
        id INTEGER PRIMARY KEY, medium VARCHAR(16) NOT NULL, address VARCHAR(256) NOT NULL,
        mxid VARCHAR(256) NOT NULL, ts INTEGER NOT NULL, notBefore BIGINT NOT NULL, notAfter BIGINT NOT NULL);
    CREATE TABLE global_threepid_associations ({_GLOBAL.format(auto="")});
    CREATE TABLE threepid_validation_sessions (
        id INTEGER PRIMARY KEY, medium VARCHAR(16) NOT NULL, address VARCHAR(256) NOT NULL,
        clientSecret VARCHAR(32) NOT NULL, validated INT DEFAULT 0, mtime BIGINT NOT NULL);
    CREATE TABLE threepid_token_auths (
        id INTEGER PRIMARY KEY, validationSession INTEGER NOT NULL, token VARCHAR(32) NOT NULL,
        sendAttemptNumber INTEGER NOT NULL);
    CREATE TABLE invite_tokens (
        id INTEGER PRIMARY KEY, medium VARCHAR(16) NOT NULL, address VARCHAR(256) NOT NULL,
        room_id VARCHAR(256) NOT NULL, sender VARCHAR(256) NOT NULL, token VARCHAR(256) NOT NULL,
        received_ts BIGINT, sent_ts BIGINT);
    CREATE TABLE ephemeral_public_keys (
        id INTEGER PRIMARY KEY, public_key VARCHAR(256) NOT NULL, verify_count BIGINT DEFAULT 0,
        persistence_ts BIGINT);
    CREATE TABLE peers (
        id INTEGER PRIMARY KEY, name VARCHAR(255) NOT NULL, port INTEGER, lastSentVersion INTEGER,
        lastPokeSucceededAt INTEGER, active INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE peer_pubkeys (
        id INTEGER PRIMARY KEY, peername VARCHAR(255) NOT NULL, alg VARCHAR(16) NOT NULL, key TEXT NOT NULL);
"""
_UPGRADES = [
    f"""
    DROP TABLE local_threepid_associations;
    CREATE TABLE local_threepid_associations (
        id INTEGER PRIMARY KEY AUTOINCREMENT, medium VARCHAR(16) NOT NULL, address VARCHAR(256) NOT NULL,
        mxid VARCHAR(256), ts INTEGER, notBefore BIGINT, notAfter BIGINT);
    DROP TABLE global_threepid_associations;
    CREATE TABLE global_threepid_associations ({_GLOBAL.format(auto="AUTOINCREMENT")});
    """,
    "CREATE INDEX threepid_validation_sessions_mtime ON threepid_validation_sessions (mtime);",
    """
    ALTER TABLE local_threepid_associations ADD COLUMN lookup_hash VARCHAR(256);
    ALTER TABLE global_threepid_associations ADD COLUMN lookup_hash VARCHAR(256);
    CREATE TABLE hashing_metadata (id INTEGER PRIMARY KEY, lookup_pepper VARCHAR(256));
    """,
    """
    CREATE TABLE accounts (user_id TEXT NOT NULL PRIMARY KEY, created_ts BIGINT NOT NULL, consent_version TEXT);
    CREATE TABLE tokens (token TEXT NOT NULL PRIMARY KEY, user_id TEXT NOT NULL);
    CREATE TABLE accepted_terms_urls (user_id TEXT NOT NULL, url TEXT NOT NULL);
    CREATE UNIQUE INDEX accepted_terms_urls_idx ON accepted_terms_urls (user_id, url);
    """,
    "CREATE INDEX global_threepid_lookup_hash ON global_threepid_associations (lookup_hash);",
]


class OldSydent:
    """A database of Sydent's that a test writes row by row."""

    def __init__(self, path: Path, *, version: int = 5) -> None:
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA synchronous = OFF")
        for script in [_FIRST, *_UPGRADES[:version]]:
            self.connection.executescript(script)
        self.connection.execute(f"PRAGMA user_version = {version}")
        self.connection.execute(
            "CREATE UNIQUE INDEX local_threepid_medium_address ON local_threepid_associations (medium, address)"
        )
        if version >= 3:
            self.add("hashing_metadata", id=0, lookup_pepper=PEPPER)

    @classmethod
    def going_on_with(cls, path: Path) -> OldSydent:
        """Sydent again, on a database that was given back to it."""
        sydent = cls.__new__(cls)
        sydent.path = path
        sydent.connection = sqlite3.connect(path, isolation_level=None)
        return sydent

    def add(self, table: str, **values: Any) -> int:
        """Insert or replace a row, as Sydent does; returns its number."""
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        row = self.connection.execute(
            f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", list(values.values())
        ).lastrowid
        assert row is not None
        return row

    def bind(self, address: str, mxid: Any = ALICE, *, ts: Any = START_MS - DAY_MS, medium: str = "email") -> int:
        """A binding as Sydent makes it: a local row, and its published copy."""
        not_after = ts + ASSOCIATION_LIFETIME_MS if isinstance(ts, int) else ts
        values = {
            "medium": medium,
            "address": address,
            "mxid": mxid,
            "ts": ts,
            "notBefore": ts,
            "notAfter": not_after,
        }
        row = self.add("local_threepid_associations", **values)
        self.publish(address, mxid, ts=ts, medium=medium, origin_id=row)
        return row

    def publish(
        self,
        address: str,
        mxid: Any = ALICE,
        *,
        ts: Any = START_MS - DAY_MS,
        medium: str = "email",
        origin: str = SERVER_NAME,
        origin_id: int = 0,
    ) -> int:
        """A global row, ours or another server's."""
        not_after = ts + ASSOCIATION_LIFETIME_MS if isinstance(ts, int) else ts
        said = {"medium": medium, "address": address, "mxid": str(mxid), "ts": ts}
        signed = SIGNING_KEY.sign(said) if isinstance(ts, int) else said
        return self.add(
            "global_threepid_associations",
            medium=medium,
            address=address,
            mxid=mxid,
            ts=ts,
            notBefore=ts,
            notAfter=not_after,
            originServer=origin,
            originId=origin_id,
            sgAssoc=json.dumps(signed),
        )

    def unbind(self, address: str, *, ts: int = START_MS - DAY_MS) -> int:
        """What Sydent leaves behind of a binding that was removed."""
        self.connection.execute("DELETE FROM global_threepid_associations WHERE address = ?", (address,))
        return self.add("local_threepid_associations", medium="email", address=address, mxid=None, ts=ts)

    def account(self, user_id: str = ALICE, *, token: str | None = None, consent: str | None = None) -> None:
        """An account, and a token of it."""
        self.add("accounts", user_id=user_id, created_ts=START_MS - DAY_MS, consent_version=consent)
        if token is not None:
            self.add("tokens", token=token, user_id=user_id)

    def invite(self, address: str, *, token: str = "t" * 128, sender: str = BOB, sent_s: int | None = None) -> int:
        """An invite that waits, or was delivered."""
        return self.add(
            "invite_tokens",
            medium="email",
            address=address,
            room_id="!room:example.org",
            sender=sender,
            token=token,
            received_ts=(START_MS - DAY_MS) // 1000,
            sent_ts=sent_s,
        )

    def session(
        self,
        sid: int,
        address: str = "alice@example.com",
        *,
        secret: str = "secret",
        token: str = "mailed",
        validated: int = 0,
        mtime: int = START_MS - MINUTE_MS,
        medium: str = "email",
    ) -> None:
        """A validation session and what was sent for it."""
        self.add(
            "threepid_validation_sessions",
            id=sid,
            medium=medium,
            address=address,
            clientSecret=secret,
            validated=validated,
            mtime=mtime,
        )
        self.add("threepid_token_auths", validationSession=sid, token=token, sendAttemptNumber=-1)


@dataclass(frozen=True, slots=True)
class Target:
    """A database of ours to import to."""

    directory: Path
    database: Database
    randomness: FakeRandomness = field(default_factory=FakeRandomness)

    async def take(
        self,
        sydent: OldSydent,
        *,
        dry_run: bool = False,
        terms: Terms = NO_TERMS,
        keeps_delivered_invites: bool = False,
        visibility: Visibility = Visibility.EVERYONE,
    ) -> ImportReport:
        """Import."""
        notices = NoticeWriter(randomness=self.randomness, signing_key=SIGNING_KEY)
        with open_sydent(sydent.path) as source:
            importer = Importer(
                source=source,
                target=self.database,
                sealer=Sealer(KeyRing(ROOT_KEY), randomness=FakeRandomness()),
                code_hasher=CODE_HASHER,
                clock=FakeClock(),
                randomness=self.randomness,
                server_name=SERVER_NAME,
                terms=terms,
                keeps_delivered_invites=keeps_delivered_invites,
                visibility=visibility,
                tell=partial(notices.add_overdue, now_ms=START_MS),
                dry_run=dry_run,
                progress=Silent(),
            )
            return await importer.run()

    async def give_back(self, path: Path) -> OldSydent:
        """Export, and let Sydent go on with that."""
        exporter = Exporter(
            database=self.database, clock=FakeClock(), randomness=self.randomness, signing_key=SIGNING_KEY
        )
        await exporter.run(path)
        return OldSydent.going_on_with(path)

    async def notices(self) -> list[dict[str, Any]]:
        """What homeservers are to be told now."""
        jobs = await self.database.transaction(lambda tx: tx.jobs.claim(now_ms=START_MS, limit=9))
        return [job.payload["body"] for job in jobs if job.kind == BIND_NOTICE]

    async def bindings(self) -> dict[str, str]:
        """Who is bound here, by address."""
        page = await self.database.read(lambda tx: tx.associations.list_page(after_id=-1, limit=1000))
        return {association.threepid.address: association.user_id for _, association in page}

    def dump(self) -> list[tuple[Any, ...]]:
        """Every row of every table."""
        return read_everything(self.directory / "identity.db")


CODE_HASHER = CodeHasher(lambda: {"key": b"c" * 32})
ROOT_KEY = RootKey(b"r" * 32)


@asynccontextmanager
async def open_target(directory: Path, *, ring: KeyRing | None = None) -> AsyncIterator[Target]:
    """The database of a directory."""
    async with open_database(directory, root_key=ROOT_KEY, ring=ring) as database:
        yield Target(directory, database)
