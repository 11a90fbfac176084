"""Brings a database to the schema that this code expects, or refuses it.

SQLite is copied aside before its schema changes; a schema newer than the code is never touched.
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from identity_server.shipped import shipped
from identity_server.storage.engines.opening import IN_MEMORY
from identity_server.storage.engines.outside import outside_transactions
from identity_server.storage.engines.postgresql import have_it_alone, what_to_do_about
from identity_server.storage.engines.sqlite_file import sqlite_file
from identity_server.storage.schema.sqlite_upgrade import (
    StillUpgrading,
    alone_with,
    copy_aside,
    what_to_do_about_file,
)

_log = structlog.get_logger(__name__)


_REVISIONS = "versions/[0-9]*.py"
"""Migrations are named by their revision, and run in the order of their names; a test compares."""
_REVISION_TABLE = "alembic_version"
_BRING_IT_BACK = "bring it back (is its volume mounted?), and the server goes on with it. A new one is only made when the server is started"


class SchemaProblem(Exception):
    """The database can't be used as it is; the text says what to do."""


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Where a database stands.

    Attributes:
        current: its revision; None for an empty database.
        expected: the revision that this code works with.
        known: whether this code knows the current revision.
    """

    current: str | None
    expected: str
    known: bool

    @property
    def up_to_date(self) -> bool:
        """Whether nothing is to be done."""
        return self.current == self.expected


class Schema:
    """The schema of one database.

    Args:
        scripts: the folder of the migrations; the shipped ones unless told otherwise.
        conf: the operator's configuration file, for the commands that are advised.
    """

    def __init__(self, engine: AsyncEngine, *, scripts: Path | None = None, conf: Path | None = None) -> None:
        self._engine = engine
        self._conf = conf
        self._scripts = scripts or shipped("migrations")

    async def status(self) -> SchemaStatus:
        """Compare the database with this code; a SQLite file that isn't there has no schema yet.

        Raises:
            SchemaProblem: it can't be reached, or is Sydent's.
        """
        revisions = sorted(script.name.partition("_")[0] for script in self._scripts.glob(_REVISIONS))
        file = sqlite_file(self._engine.url)
        if file is not None and not file.exists():
            return SchemaStatus(current=None, expected=revisions[-1], known=True)
        async with _told_in_words(), self._engine.connect() as connection:
            # Whoever only looks doesn't queue for SQLite's write lock.
            await connection.execution_options(no_begin=True)
            current = await connection.run_sync(_current_revision)
            foreign = current is None and await connection.run_sync(_is_sydent)
        if foreign:
            raise SchemaProblem(self._how_to_import())
        return SchemaStatus(current=current, expected=revisions[-1], known=current is None or current in revisions)

    async def require_current(self) -> None:
        """Refuse any schema but the expected one.

        Raises:
            SchemaProblem: it is older or newer.
        """
        status = await self.status()
        self._refuse_newer(status)
        if not status.up_to_date:
            found = "the database is empty" if status.current is None else "the database has an older schema"
            raise SchemaProblem(f"{found}: run `identity-server db upgrade` first, with the same -c FILE")

    async def require_made(self) -> None:
        """Refuse a database that isn't there or has nothing in it: for who isn't the first to use it.

        Raises:
            SchemaProblem: it has vanished, or can't be reached.
        """
        file = sqlite_file(self._engine.url)
        if file is not None and not file.exists():
            raise SchemaProblem(f"the database {file.absolute()} has vanished: {_BRING_IT_BACK}")
        if (await self.status()).current is None:
            name = "the database" if file is None else f"the database {file.absolute()}"
            raise SchemaProblem(f"{name} is empty all of a sudden: {_BRING_IT_BACK}")

    async def upgrade(self, *, now_ms: int) -> SchemaStatus:
        """Bring the database to the expected schema; a populated SQLite file is copied first.

        Whoever finds another upgrade under way waits for it, and then has nothing left to do.

        Raises:
            SchemaProblem: the database is newer than the code, or Sydent's; it can't be reached, or is in use in a
                way that lets nobody change it.
        """
        async with _told_in_words(), self._alone():
            return await self._upgrade(now_ms=now_ms)

    def _alone(self) -> AbstractAsyncContextManager[None]:
        """Nobody else may upgrade meanwhile; on PostgreSQL the migrations see to that themselves."""
        file = sqlite_file(self._engine.url)
        return nullcontext() if file is None else alone_with(file)

    async def _upgrade(self, *, now_ms: int) -> SchemaStatus:
        status = await self.status()
        self._refuse_newer(status)
        await self._let_readers_read()
        if status.up_to_date:
            return status
        if status.current is not None and self._engine.dialect.name == "sqlite":
            copy = await copy_aside(self._engine, revision=status.current, now_ms=now_ms)
            _log.info("schema.copied", copy=str(copy))
        await self._migrate()
        if self._engine.url != IN_MEMORY:
            _log.info("schema.upgraded", from_revision=status.current, to_revision=status.expected)
        return await self.status()

    def _how_to_import(self) -> str:
        file = Path(self._engine.url.database or "").resolve()
        command = ["identity-server", "import-sydent", str(file)]
        if self._conf is not None:
            command += ["-c", str(self._conf.resolve())]
        return (
            f"{file} is a database of Sydent, and is left as it is. Set db.file to the name of a new file, for example"
            f" {file.with_name('identity.db')}, and then run:\n  {shlex.join(command)}"
        )

    async def _let_readers_read(self) -> None:
        """Have SQLite write its changes beside the file, so that no writer holds up a reader.

        The file remembers it, so it is done here, once it is known whose file this is, and not at every connection.
        """
        if self._engine.dialect.name == "sqlite":
            async with outside_transactions(self._engine) as connection:
                await connection.execute(text("PRAGMA journal_mode = WAL"))

    async def _migrate(self) -> None:
        async with self._engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                # What another node has done while this one waited for it has to be seen.
                await connection.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                await have_it_alone(connection)
                await connection.run_sync(self._run_migrations)

    def _run_migrations(self, connection: Connection) -> None:
        # Ten megabytes and a tenth of a second, which a start with nothing to migrate can do without.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415

        config = Config()
        config.set_main_option("script_location", str(self._scripts).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    @staticmethod
    def _refuse_newer(status: SchemaStatus) -> None:
        if not status.known:
            raise SchemaProblem(
                f"the database has schema {status.current}, which this version doesn't know: it was made by a newer"
                " one. Install that version, or restore the copy that was made before the upgrade."
            )


@asynccontextmanager
async def _told_in_words() -> AsyncIterator[None]:
    """Turn what is wrong with a database, and not with this code, into a sentence without a password in it."""
    try:
        yield
    except (OSError, PoolTimeout) as error:
        raise SchemaProblem(f"the database can't be reached ({type(error).__name__})") from error
    except StillUpgrading as error:
        raise SchemaProblem(
            "another process has been upgrading the database for half an hour: look for it"
        ) from error
    except DBAPIError as error:
        sentence = what_to_do_about(error) or what_to_do_about_file(error)
        if sentence is None:
            raise
        raise SchemaProblem(sentence) from error


def _current_revision(connection: Connection) -> str | None:
    if _REVISION_TABLE not in inspect(connection).get_table_names():
        return None
    revision: str | None = connection.execute(text(f"SELECT version_num FROM {_REVISION_TABLE}")).scalar_one_or_none()  # noqa: S608
    return revision


def _is_sydent(connection: Connection) -> bool:
    tables = set(inspect(connection).get_table_names())
    return {"threepid_validation_sessions", "threepid_token_auths"} <= tables
