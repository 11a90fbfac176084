"""Makes the index file: all of it from the associations, or the one that is there with the changes since.

The rule: whatever changes meanwhile is in the file or comes after its `seq`, so that following the feed from there
leads to the truth.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

import numpy as np
import structlog

from identity_server.domain.association import Association
from identity_server.domain.hashing import written_hash
from identity_server.domain.ports import Clock
from identity_server.index.file import (
    VISIBILITIES,
    Column,
    Entries,
    IndexFile,
    Table,
    Unusable,
    is_plain,
    open_index_file,
    starts_column,
)
from identity_server.index.keys import LookupKeys, halves
from identity_server.storage.bulk import in_parts
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.associations import Change
from identity_server.storage.stamps import Subject

_log = structlog.get_logger(__name__)

Rows = Sequence[tuple[int, Association]]

INDEX_FILE = "lookups.index"
PLAIN = ""
"""Stands for the pepper of algorithm `none`, whose queries carry none."""

_LOCK_FILE = "building.lock"
_LOCK_POLL_SECONDS = 0.05
_PAGE = 5_000
_FIRST_ID = -1
_BEGINNING_OF_TIME, _END_OF_TIME = 0, 2**63 - 1
_MOST_CHANGES = 500_000
"""With more of them, making the file anew costs less than finding out what they come to."""


class IndexBuilder:
    """Keeps the index file of one node.

    Args:
        folder: where the file is.
        offers_plain: whether lookups by algorithm `none` are answered.
    """

    def __init__(
        self, *, database: Database, clock: Clock, keys: LookupKeys, folder: Path, offers_plain: bool
    ) -> None:
        self._database = database
        self._clock = clock
        self._keys = keys
        self._folder = folder
        self._offers_plain = offers_plain

    @property
    def path(self) -> Path:
        """Where the file is, or will be."""
        return self._folder / INDEX_FILE

    async def build(self) -> None:
        """Bring the file up to date, and tell everybody on this node; one process at a time.

        Raises:
            OSError: the folder can't be written.
        """
        async with _locked(self._folder / _LOCK_FILE):
            old = await asyncio.to_thread(self._open)
            new = None if old is None else await self._merged(old)
            if new is None:
                new = await self._made_anew()
            await asyncio.to_thread(new.write, self.path)
        self._database.stamps.renew(Subject.LOOKUPS)
        _log.info("index.written", associations=len(new.entries.ids), tables=len(new.tables))

    def _open(self) -> IndexFile | None:
        try:
            return open_index_file(self.path, fingerprint=self._keys.fingerprint)
        except Unusable:
            return None

    async def _wanted(self) -> list[str]:
        peppers = await self._database.read(lambda tx: tx.peppers.list())
        return [PLAIN] * self._offers_plain + [pepper.value for pepper in peppers]

    # --- all of it --------------------------------------------------------------------------

    async def _made_anew(self) -> IndexFile:
        # The end of the feed comes first: what changes while pages are read, readers apply once more.
        wanted, (seq, last_change) = await self._wanted(), await self._end_of_feed()
        made = _Growing(tables={pepper: bytearray() for pepper in wanted}, now_ms=self._clock.now_ms())
        async for rows in self._pages():
            await asyncio.to_thread(made.add, rows, self._keys)
        return await asyncio.to_thread(self._finished, made, seq, last_change)

    async def _pages(self) -> AsyncIterator[Rows]:
        after = _FIRST_ID
        while rows := await self._database.read(_page_after(after), bulk=True):
            yield rows
            after = rows[-1][0]

    def _finished(self, made: _Growing, seq: int, last_change: int | None) -> IndexFile:
        entries = made.entries()
        places = np.arange(len(entries.ids))
        tables = {pepper: Table.of(halves(keys), places) for pepper, keys in made.tables.items()}
        return self._file(entries, tables, seq, last_change)

    def _file(self, entries: Entries, tables: dict[str, Table], seq: int, last_change: int | None) -> IndexFile:
        valid = (_BEGINNING_OF_TIME, _END_OF_TIME)
        if len(entries.ids):
            valid = (int(entries.not_before.max()), int(entries.not_after.min()))
        return IndexFile(
            fingerprint=self._keys.fingerprint,
            seq=seq,
            last_change=last_change,
            entries=entries,
            tables=tables,
            always_valid=valid,
            all_visible=not entries.visibility.any(),
            all_plain=is_plain(entries.users),
        )

    async def _end_of_feed(self) -> tuple[int, int | None]:
        settling_ms = self._database.settling_ms
        before_ms = self._clock.now_ms() - settling_ms if settling_ms else None

        async def use_case(tx: Transaction) -> tuple[int, int | None]:
            seq = await tx.associations.settled_seq(before_ms=before_ms)
            change = await tx.associations.find_change(seq)
            return seq, None if change is None else change.association_id

        return await self._database.read(use_case, bulk=True)

    # --- what has changed since -------------------------------------------------------------

    async def _merged(self, old: IndexFile) -> IndexFile | None:
        """The old file with what has changed; None if it can't be had from that."""
        wanted = await self._wanted()
        if not set(wanted) <= set(old.tables):
            return None
        seq, last_change = await self._end_of_feed()
        if seq <= old.seq:
            seq, last_change = old.seq, old.last_change
        changes = await changes_since(self._database, old)
        if changes is None:
            return None
        made = _Growing(tables={pepper: bytearray() for pepper in wanted}, now_ms=self._clock.now_ms())
        touched = sorted({change.association_id for change in changes})
        for some in in_parts(touched, _PAGE):
            rows = await self._database.read(_with_ids(some), bulk=True)
            made.add(sorted(rows, key=itemgetter(0)), self._keys)
        return await asyncio.to_thread(self._merge, old, made, touched, seq, last_change)

    def _merge(
        self, old: IndexFile, made: _Growing, touched: list[int], seq: int, last_change: int | None
    ) -> IndexFile:
        kept = ~np.isin(old.entries.ids, np.array(touched, np.int64)) & (old.entries.not_after > made.now_ms)
        kept_places, added = np.flatnonzero(kept), made.entries()
        ids = np.concatenate((old.entries.ids[kept_places], added.ids))
        order = np.argsort(ids)
        new_place = np.empty(len(ids), np.int64)
        new_place[order] = np.arange(len(ids))
        # From an entry's place in the old file to its place in the new one.
        moved = np.full(len(kept), -1)
        moved[kept_places] = new_place[: len(kept_places)]
        not_before = np.concatenate((old.entries.not_before[kept_places], added.not_before))[order]
        not_after = np.concatenate((old.entries.not_after[kept_places], added.not_after))[order]
        starts = np.concatenate((old.entries.user_start[kept_places], added.user_start + len(old.entries.users)))[
            order
        ]
        lengths = np.concatenate((old.entries.user_length[kept_places], added.user_length))[order]
        users = _in_order(b"".join((old.entries.users, added.users)), starts, lengths)
        visibility = np.concatenate((old.entries.visibility[kept_places], added.visibility))[order]
        entries = Entries(ids[order], not_before, not_after, _starts(lengths), lengths, visibility, users)
        tables = {}
        for pepper, new_keys in made.tables.items():
            table = old.tables[pepper]
            stays = kept[table.entry]
            old_keys = np.stack((table.first[stays], table.second[stays]), axis=1)
            keys = np.concatenate((old_keys, halves(new_keys)))
            tables[pepper] = Table.of(
                keys, np.concatenate((moved[table.entry[stays]], new_place[len(kept_places) :]))
            )
        return self._file(entries, tables, seq, last_change)


async def changed_hands(database: Database, file: IndexFile) -> bool:
    """Whether the database was put back from a copy since the file was made, and has gone another way."""
    last = await database.read(lambda tx: tx.associations.find_change(file.seq))
    return last is not None and last.association_id != file.last_change


async def changes_since(database: Database, file: IndexFile) -> list[Change] | None:
    """What has changed since a file was made; None if that can't be told any more."""

    async def use_case(tx: Transaction) -> list[Change] | None:
        oldest, newest = await tx.associations.feed_bounds()
        if newest < file.seq or oldest > file.seq + 1:
            return None
        return await tx.associations.list_changes(after_seq=file.seq, limit=_MOST_CHANGES)

    if await changed_hands(database, file):
        return None
    changes = await database.read(use_case, bulk=True)
    return None if changes is None or len(changes) == _MOST_CHANGES else changes


@dataclass(slots=True)
class _Growing:
    """Entries and keys, in the order in which rows come.

    Attributes:
        now_ms: what was over then is left out, so that the rest needs no looking at times.
    """

    tables: dict[str, bytearray]
    now_ms: int
    ids: array[int] = field(default_factory=lambda: array("q"))
    not_before: array[int] = field(default_factory=lambda: array("q"))
    not_after: array[int] = field(default_factory=lambda: array("q"))
    user_length: array[int] = field(default_factory=lambda: array("H"))
    visibility: array[int] = field(default_factory=lambda: array("B"))
    users: bytearray = field(default_factory=bytearray)

    def add(self, rows: Rows, keys: LookupKeys) -> None:
        """Add more; their ids must be higher than those before."""
        rows = [row for row in rows if row[1].not_after > self.now_ms]
        for association_id, association in rows:
            user_id = association.user_id.encode()
            self.ids.append(association_id)
            self.not_before.append(association.not_before)
            self.not_after.append(association.not_after)
            self.user_length.append(len(user_id))
            self.visibility.append(VISIBILITIES.index(association.visibility))
            self.users += user_id
        for pepper, table in self.tables.items():
            table.extend(keys.many([written_hash(association.threepid, pepper) for _, association in rows]) or b"")

    def entries(self) -> Entries:
        ids, not_before, not_after = (
            np.array(column, np.int64) for column in (self.ids, self.not_before, self.not_after)
        )
        lengths = np.array(self.user_length, np.uint16)
        visibility = np.array(self.visibility, np.uint8)
        return Entries(ids, not_before, not_after, _starts(lengths), lengths, visibility, memoryview(self.users))


def _starts(lengths: Column) -> Column:
    """Where Matrix IDs of these lengths start, one after the other."""
    starts = np.zeros(len(lengths), np.int64)
    lengths[:-1].cumsum(dtype=np.int64, out=starts[1:])
    return starts_column(starts)


def _in_order(users: bytes, starts: Column, lengths: Column) -> bytes:
    """The Matrix IDs that begin there, one after the other; those of nobody any more are left out."""
    ordered = bytearray()
    for place in range(0, len(starts), _PAGE):
        some = zip(starts[place : place + _PAGE].tolist(), lengths[place : place + _PAGE].tolist(), strict=True)
        ordered += b"".join([users[start : start + length] for start, length in some])
    return bytes(ordered)


def _page_after(after_id: int) -> Callable[[Transaction], Awaitable[Rows]]:
    return lambda tx: tx.associations.list_page(after_id=after_id, limit=_PAGE)


def _with_ids(ids: Sequence[int]) -> Callable[[Transaction], Awaitable[Rows]]:
    return lambda tx: tx.associations.list_by_id(ids)


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold the node's lock on building; the system gives it back when a process ends."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
