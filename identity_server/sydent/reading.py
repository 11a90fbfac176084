"""Sydent's SQLite database, schema versions 0 to 5, as typed rows.

The rule: the file is only ever read, in short looks, so that a Sydent that is still running isn't held up.
Column types are only hints to SQLite: a row with a value of another kind is `Unreadable`, never a crash.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

NEWEST_SCHEMA = 5
"""The newest schema of Sydent, which writes the number to `PRAGMA user_version`."""

_PAGE = 5_000
_BUSY_SECONDS = 30.0
_CACHE_KIB = 32 * 1024
_BESIDE = ("-journal", "-wal")
_FIRST = -(2**63)

# Every schema has these; a file without them is something else.
_MARKS_OF_SYDENT = {"threepid_validation_sessions", "threepid_token_auths"}


class SydentFileProblem(Exception):
    """The file can't be read as a database of Sydent; the text says why."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row whose values are not of the kinds that Sydent writes."""

    row: int


class Binding(NamedTuple):
    """A row of `local_threepid_associations` or `global_threepid_associations`; times are milliseconds.

    There are millions of these, and a tuple is made in a third of the time that a dataclass takes.

    Attributes:
        mxid: None where the address was unbound.
        not_before, not_after: None where the address was unbound.
    """

    row: int
    medium: str
    address: str
    mxid: str | None
    ts: int
    not_before: int | None
    not_after: int | None

    def __repr__(self) -> str:
        return f"Binding(row={self.row})"


@dataclass(frozen=True, slots=True, repr=False)
class Invite:
    """A row of `invite_tokens`; times are **seconds**.

    Attributes:
        sent_s: when a binding took the invite along; None while it waits. The homeserver was told afterwards, for as
            long as Sydent ran; by default Sydent deletes the row when it has listened.
    """

    row: int
    medium: str
    address: str
    room_id: str
    sender: str
    token: str
    received_s: int
    sent_s: int | None


@dataclass(frozen=True, slots=True)
class EphemeralKey:
    """A row of `ephemeral_public_keys`; the time is in **seconds**."""

    row: int
    public_key: str
    made_s: int


@dataclass(frozen=True, slots=True)
class Account:
    """A row of `accounts`.

    Attributes:
        consent_version: the master version of the terms that was agreed to.
    """

    row: int
    user_id: str
    created_ms: int
    consent_version: str | None


@dataclass(frozen=True, slots=True, repr=False)
class AccessToken:
    """A row of `tokens`, in clear text as Sydent keeps it.

    Attributes:
        has_account: 1 if its account is there; Sydent itself doesn't know a token without one.
    """

    row: int
    token: str
    user_id: str
    has_account: int


@dataclass(frozen=True, slots=True)
class AcceptedUrl:
    """A row of `accepted_terms_urls`; `has_account` as in `AccessToken`."""

    row: int
    user_id: str
    url: str
    has_account: int


@dataclass(frozen=True, slots=True, repr=False)
class Session:
    """A row of `threepid_validation_sessions`; the time is in milliseconds.

    Attributes:
        row: also the session's public id.
        validated: 1 if it is.
        mtime: of the last requestToken.
    """

    row: int
    medium: str
    address: str
    client_secret: str
    validated: int
    mtime: int


@dataclass(frozen=True, slots=True, repr=False)
class SessionToken:
    """A row of `threepid_token_auths`."""

    row: int
    session: int
    token: str
    send_attempt: int


@dataclass(frozen=True, slots=True, repr=False)
class SignedAssociation:
    """An association as Sydent signed it: JSON text."""

    text: str


T = TypeVar("T")
Row: TypeAlias = T | Unreadable


@dataclass(frozen=True, slots=True)
class _Column:
    """One column and what its values must be."""

    sql: str
    kinds: tuple[type, ...]


def _text(sql: str) -> _Column:
    return _Column(sql, (str,))


def _number(sql: str) -> _Column:
    return _Column(sql, (int,))


def _maybe(column: _Column) -> _Column:
    return _Column(column.sql, (*column.kinds, type(None)))


_BINDING = (
    _text("medium"),
    _text("address"),
    _maybe(_text("mxid")),
    _number("ts"),
    _maybe(_number("notBefore")),
    _maybe(_number("notAfter")),
)
_INVITE = (
    _text("medium"),
    _text("address"),
    _text("room_id"),
    _text("sender"),
    _text("token"),
    _number("coalesce(received_ts, 0)"),
    _maybe(_number("sent_ts")),
)
_SESSION = (
    _text("medium"),
    _text("address"),
    _text("clientSecret"),
    _number("coalesce(validated, 0)"),
    _number("mtime"),
)
_HAS_ACCOUNT = "EXISTS (SELECT 1 FROM accounts AS a WHERE a.user_id = t.user_id)"
# The row of a local binding that a global one repeats, if there is one.
_IS_COPY = """EXISTS (
    SELECT 1 FROM local_threepid_associations AS l
    WHERE t.originServer = :server_name AND l.id = t.originId AND l.ts = t.ts AND l.mxid = t.mxid
      AND l.medium = t.medium AND l.address = t.address)"""


class SydentFile:
    """An open database of Sydent's.

    Attributes:
        version: its schema.
        export_number: which export of this server's it was at first (`naming.py`); 0 if Sydent made it.
        path: where it is.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path
        self._tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not self._tables >= _MARKS_OF_SYDENT:
            raise SydentFileProblem(f"{path} is not a database of Sydent")
        self.version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        self.export_number: int = connection.execute("PRAGMA application_id").fetchone()[0]
        if self.version > NEWEST_SCHEMA:
            raise SydentFileProblem(
                f"{path} has schema {self.version}; the newest that is known here is {NEWEST_SCHEMA}"
            )

    def count(self, table: str) -> int:
        """How many rows a table has; none if the schema is too old to have it."""
        if table not in self._tables:
            return 0
        # The name is one of ours, never a user's.
        count: int = self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
        return count

    def last_row(self, table: str) -> int:
        """The highest number of a row."""
        if table not in self._tables:
            return 0
        found = self._connection.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0]  # noqa: S608 - as above
        return found or 0

    def pepper(self) -> str | None:
        """The pepper of hashed lookups, of schema 3 and later."""
        if "hashing_metadata" not in self._tables:
            return None
        row = self._connection.execute("SELECT lookup_pepper FROM hashing_metadata ORDER BY id LIMIT 1").fetchone()
        return row[0] if row and isinstance(row[0], str) else None

    def origin_servers(self) -> list[str]:
        """Who made the global bindings, the most frequent first."""
        rows = self._connection.execute(
            "SELECT originServer FROM global_threepid_associations GROUP BY originServer ORDER BY count(*) DESC"
        )
        return [str(name) for (name,) in rows]

    def newest_signed(self, server_name: str) -> SignedAssociation | None:
        """The newest association that this server signed itself."""
        row = self._connection.execute(
            "SELECT sgAssoc FROM global_threepid_associations WHERE originServer = ? ORDER BY id DESC LIMIT 1",
            (server_name,),
        ).fetchone()
        return SignedAssociation(row[0]) if row and isinstance(row[0], str) else None

    def local_bindings(self) -> Iterator[list[Row[Binding]]]:
        """Bindings made at this server, unbindings included, in pages."""
        return self._pages("local_threepid_associations", _BINDING, Binding)

    def count_copies(self, server_name: str) -> int:
        """How many global rows only say once more what a local one says."""
        if not self._tables >= {"local_threepid_associations", "global_threepid_associations"}:
            return 0
        query = f"SELECT count(*) FROM global_threepid_associations AS t WHERE {_IS_COPY}"  # noqa: S608 - ours
        count: int = self._connection.execute(query, {"server_name": server_name}).fetchone()[0]
        return count

    def global_bindings(self, *, server_name: str) -> Iterator[list[Row[Binding]]]:
        """Published bindings that aren't copies of local ones, those of other servers included, in pages."""
        return self._pages(
            "global_threepid_associations",
            _BINDING,
            Binding,
            condition=f"NOT {_IS_COPY}",
            parameters={"server_name": server_name},
        )

    def bindings_by_row(self, table: str, rows: list[int]) -> dict[int, Binding]:
        """Those of these rows that are still there and readable."""
        marks = ",".join("?" * len(rows))
        columns = ", ".join(column.sql for column in _BINDING)
        query = f"SELECT rowid, {columns} FROM {table} WHERE rowid IN ({marks})"  # noqa: S608 - names of ours
        return {
            values[0]: Binding(*values)
            for values in self._connection.execute(query, rows)
            if _fits(values[1:], _BINDING)
        }

    def invites(self) -> Iterator[list[Row[Invite]]]:
        """Invites, in pages."""
        return self._pages("invite_tokens", _INVITE, Invite)

    def ephemeral_keys(self) -> Iterator[list[Row[EphemeralKey]]]:
        """Public keys of invites, in pages."""
        columns = (_text("public_key"), _number("coalesce(persistence_ts, 0)"))
        return self._pages("ephemeral_public_keys", columns, EphemeralKey)

    def accounts(self) -> Iterator[list[Row[Account]]]:
        """Accounts, in pages."""
        columns = (_text("user_id"), _number("created_ts"), _maybe(_text("consent_version")))
        return self._pages("accounts", columns, Account)

    def access_tokens(self) -> Iterator[list[Row[AccessToken]]]:
        """Access tokens, in pages."""
        columns = (_text("token"), _text("user_id"), _number(_HAS_ACCOUNT))
        return self._pages("tokens", columns, AccessToken)

    def accepted_urls(self) -> Iterator[list[Row[AcceptedUrl]]]:
        """What was agreed to, in pages."""
        columns = (_text("user_id"), _text("url"), _number(_HAS_ACCOUNT))
        return self._pages("accepted_terms_urls", columns, AcceptedUrl)

    def sessions(self) -> Iterator[list[Row[Session]]]:
        """Validation sessions, in pages."""
        return self._pages("threepid_validation_sessions", _SESSION, Session)

    def session_tokens(self) -> Iterator[list[Row[SessionToken]]]:
        """What was sent for validation sessions, in pages."""
        columns = (_number("validationSession"), _text("token"), _number("coalesce(sendAttemptNumber, 0)"))
        return self._pages("threepid_token_auths", columns, SessionToken)

    def _pages(
        self,
        table: str,
        columns: tuple[_Column, ...],
        make: Callable[..., T],
        *,
        condition: str = "true",
        parameters: dict[str, Any] | None = None,
    ) -> Iterator[list[Row[T]]]:
        if table not in self._tables:
            return
        names = ", ".join(column.sql for column in columns)
        # Names of tables and columns are constants of this module.
        query = (
            f"SELECT t.rowid, {names} FROM {table} AS t"  # noqa: S608
            f" WHERE t.rowid > :after AND {condition} ORDER BY t.rowid LIMIT {_PAGE}"
        )
        after = _FIRST
        while page := self._connection.execute(query, {"after": after, **(parameters or {})}).fetchall():
            yield [make(*values) if _fits(values[1:], columns) else Unreadable(values[0]) for values in page]
            after = page[-1][0]


def _fits(values: Sequence[Any], columns: tuple[_Column, ...]) -> bool:
    """Whether each value is of its column's kind. Called for every row, so written for speed."""
    for value, column in zip(values, columns, strict=True):
        if type(value) not in column.kinds or (type(value) is str and not _is_text(value)):
            return False
    return True


def _is_text(value: str) -> bool:
    """Whether every database can hold it: no NUL, and no bytes that aren't UTF-8 (they come as half characters)."""
    if "\0" in value:
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


@contextmanager
def open_sydent(path: Path) -> Iterator[SydentFile]:
    """Open a database of Sydent's for reading; it may be in use.

    What a crash left behind can't be put right without writing: such a file is copied to a private folder,
    put right there, and the copy is removed afterwards.

    Raises:
        SydentFileProblem: it can't be read, isn't Sydent's, or is newer than what is known here.
    """
    with ExitStack() as stack:
        try:
            if not path.is_file():
                raise SydentFileProblem(f"{path} is not a file")
            connection = _open_as_it_is(path, stack) or _open_copy(path, stack)
            file = SydentFile(connection, path)
        except (sqlite3.Error, OSError) as error:
            raise SydentFileProblem(f"{path} can't be read: {error}") from None
        yield file


def _open_as_it_is(path: Path, stack: ExitStack) -> sqlite3.Connection | None:
    """None if SQLite would have to write before it can read."""
    try:
        connection = _connect(path, stack)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
            return None
        raise
    return connection


def _open_copy(path: Path, stack: ExitStack) -> sqlite3.Connection:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="identity-server-")))
    copy = folder / "sydent.db"
    shutil.copyfile(path, copy)
    for suffix in _BESIDE:
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            shutil.copyfile(companion, copy.with_name(copy.name + suffix))
    return _connect(copy, stack, mode="rw")


def _connect(path: Path, stack: ExitStack, *, mode: str = "ro") -> sqlite3.Connection:
    # Pages are read in one thread, but not always in the one that opened the file.
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    stack.callback(connection.close)
    # Text that isn't UTF-8 makes its own row unreadable, not the whole page.
    connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return connection
