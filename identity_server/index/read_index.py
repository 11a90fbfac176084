"""The index that answers hashed lookups: one table per live pepper, from a keyed hash to an association.

The rule: nothing here is the truth. The index is built from the associations, follows their change feed,
and is built anew when a gap in the feed leaves a doubt.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from identity_server.domain.association import Association
from identity_server.domain.hashing import Pepper, hash_threepid
from identity_server.domain.identifiers import Threepid, UserId
from identity_server.storage.associations import Change
from identity_server.storage.database import Database, Transaction
from identity_server.storage.sealing import RootKey

_log = structlog.get_logger(__name__)

_PAGE = 2_000
_KEY_BYTES = 16
_FIRST_ID = -1

_PLAIN = Pepper(id=0, value="", created_at_ms=0, retired_at_ms=None)
"""Stands for the table of algorithm `none`, whose queries carry no pepper."""


_Rows = list[tuple[int, Association]]
_Keys = list[tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class _Entry:
    user_id: UserId
    not_before: int
    not_after: int


class ReadIndex:
    """Finds the Matrix ID for a digest without asking the database.

    A removed association leaves its keys behind, pointing to an id that is gone and never used again: they
    match nothing and go with their pepper. So a removal needs no address.

    Args:
        offers_plain: whether lookups by algorithm `none` are answered.
    """

    def __init__(self, *, database: Database, root_key: RootKey, offers_plain: bool) -> None:
        self._database = database
        self._lookup_key = root_key.derive("lookup")
        self._offers_plain = offers_plain
        self._entries: dict[int, _Entry] = {}
        self._tables: dict[int, dict[bytes, int]] = {}
        self._peppers: list[Pepper] = []
        self._in_use: Pepper | None = None
        self._applied_seq = 0
        self._generation: int | None = None
        self._following = asyncio.Lock()
        self._building: asyncio.Task[None] | None = None

    # --- answering ------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether lookups can be answered."""
        return self._in_use is not None

    @property
    def pepper(self) -> Pepper:
        """The pepper that clients are to use now."""
        assert self._in_use is not None, "the index has not been started"
        return self._in_use

    def find_pepper(self, value: str, *, now_ms: int, grace_ms: int) -> Pepper | None:
        """The pepper of this value, if lookups with it are answered now."""
        for pepper in self._peppers:
            if pepper.value == value and pepper.id in self._tables and pepper.id <= self.pepper.id:
                return pepper if pepper.honoured(now_ms=now_ms, grace_ms=grace_ms) else None
        return None

    def find(self, pepper: Pepper, digest: bytes, *, now_ms: int) -> UserId | None:
        """Who is behind a digest that was made with this pepper."""
        return self._find(pepper.id, digest, now_ms)

    def find_plain(self, threepid: Threepid, *, now_ms: int) -> UserId | None:
        """Who is behind an address (algorithm `none`)."""
        return self._find(_PLAIN.id, hash_threepid(threepid, _PLAIN.value), now_ms)

    def _find(self, table_id: int, digest: bytes, now_ms: int) -> UserId | None:
        association_id = self._tables[table_id].get(self._key(digest))
        entry = None if association_id is None else self._entries.get(association_id)
        return entry.user_id if entry is not None and entry.not_before <= now_ms < entry.not_after else None

    def _key(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._lookup_key, digest_size=_KEY_BYTES).digest()

    # --- following ------------------------------------------------------------------------

    async def start(self) -> None:
        """Build everything; lookups can be answered afterwards.

        Raises:
            RuntimeError: the database has no pepper.
        """
        async with self._following:
            await self._rebuild()

    async def refresh(self) -> None:
        """Make sure that everything committed so far is seen; costs microseconds when nothing has changed."""
        generation = self._database.generation()
        if generation is None or generation != self._generation:
            await self.catch_up()

    async def catch_up(self) -> None:
        """Follow the change feed to its end."""
        if not self.ready:
            return
        async with self._following:
            # Read before the feed: a commit in between is then seen as news once more, never missed.
            generation = self._database.generation()
            if not await self._follow_feed():
                _log.warning("index.gap_in_feed", applied_seq=self._applied_seq)
                await self._rebuild()
            await self._follow_peppers()
            self._generation = generation

    async def settled(self) -> None:
        """Wait until no table is being built."""
        while self._building is not None:
            await asyncio.wait({self._building})

    async def close(self) -> None:
        """Stop building."""
        if self._building is not None:
            self._building.cancel()
            await asyncio.wait({self._building})

    async def _follow_feed(self) -> bool:
        """Apply what is new; False if entries that are needed have been trimmed already."""

        async def use_case(tx: Transaction) -> tuple[list[Change], _Rows] | None:
            oldest, newest = await tx.associations.feed_bounds()
            if newest <= self._applied_seq:
                return ([], []) if newest == self._applied_seq else None
            if oldest > self._applied_seq + 1:
                return None
            changes = await tx.associations.list_changes(after_seq=self._applied_seq, limit=_PAGE)
            added = [change.association_id for change in changes if change.added]
            return changes, await tx.associations.list_by_id(added)

        while True:
            found = await self._database.read(use_case)
            if found is None:
                return False
            changes, added = found
            if not changes:
                return True
            self._apply(changes, added)

    def _apply(self, changes: Sequence[Change], added: _Rows) -> None:
        for change in changes:
            if not change.added:
                self._entries.pop(change.association_id, None)
        self._entries.update(_entries_of(added))
        for table_id, pepper in self._wanted_tables():
            if table_id in self._tables:
                self._tables[table_id].update(self._keys_of(added, pepper))
        self._applied_seq = changes[-1].seq

    def _keys_of(self, rows: _Rows, pepper: Pepper) -> _Keys:
        return [
            (self._key(hash_threepid(association.threepid, pepper.value)), association_id)
            for association_id, association in rows
        ]

    def _wanted_tables(self) -> list[tuple[int, Pepper]]:
        plain = [(_PLAIN.id, _PLAIN)] if self._offers_plain else []
        return plain + [(pepper.id, pepper) for pepper in self._peppers]

    # --- building -------------------------------------------------------------------------

    async def _rebuild(self) -> None:
        if self._building is not None:
            self._building.cancel()
            await asyncio.wait({self._building})

        async def head(tx: Transaction) -> tuple[int, list[Pepper]]:
            return (await tx.associations.feed_bounds())[1], await tx.peppers.list()

        # The feed's head comes first: what changes while pages are read is applied again afterwards. It is taken
        # over with the entries and not before: if reading fails, the old ones must not count as caught up.
        applied_seq, self._peppers = await self._database.read(head)
        if not self._peppers:
            raise RuntimeError("the database has no pepper")
        entries: dict[int, _Entry] = {}
        tables: dict[int, dict[bytes, int]] = {table_id: {} for table_id, _ in self._wanted_tables()}
        async for rows, hashed in self._pages(self._wanted_tables()):
            entries.update(_entries_of(rows))
            for table_id, pairs in hashed:
                tables[table_id].update(pairs)
        self._entries, self._tables, self._in_use = entries, tables, self._peppers[-1]
        self._applied_seq = applied_seq
        await self._follow_feed()
        _log.info("index.built", associations=len(self._entries), tables=len(self._tables))

    async def _pages(self, wanted: list[tuple[int, Pepper]]) -> AsyncIterator[tuple[_Rows, list[tuple[int, _Keys]]]]:
        """All associations, page by page, with their keys in each wanted table.

        Hashing happens in a thread, so that requests are answered meanwhile.
        """

        def keys(rows: _Rows) -> list[tuple[int, _Keys]]:
            return [(table_id, self._keys_of(rows, pepper)) for table_id, pepper in wanted]

        after = _FIRST_ID
        while rows := await self._database.read(_page_after(after)):
            yield rows, await asyncio.to_thread(keys, rows)
            after = rows[-1][0]

    async def _follow_peppers(self) -> None:
        self._peppers = await self._database.read(lambda tx: tx.peppers.list())
        live = {pepper.id for pepper in self._peppers} | {_PLAIN.id}
        for gone in self._tables.keys() - live:
            del self._tables[gone]
        if self._building is None and self._peppers and self._peppers[-1].id > self.pepper.id:
            self._building = asyncio.create_task(self._build_table(self._peppers[-1]))

    async def _build_table(self, pepper: Pepper) -> None:
        """Build the table of a new pepper beside the others, then let it take over."""
        try:
            # In place from the start, so that changes which are followed meanwhile reach it too.
            self._tables[pepper.id] = {}
            async for _, hashed in self._pages([(pepper.id, pepper)]):
                # Gone by now, or replaced under another id that the feed brings: either way not this one.
                pairs = [pair for pair in hashed[0][1] if pair[1] in self._entries]
                self._tables[pepper.id].update(pairs)
            self._in_use = pepper
            _log.info("index.pepper_in_use", pepper_id=pepper.id)
        except asyncio.CancelledError:
            self._tables.pop(pepper.id, None)
            raise
        except Exception:  # noqa: BLE001 - the former pepper goes on serving; the next change tries again
            self._tables.pop(pepper.id, None)
            _log.exception("index.pepper_not_built", pepper_id=pepper.id)
        finally:
            self._building = None


def _page_after(after_id: int) -> Callable[[Transaction], Awaitable[_Rows]]:
    return lambda tx: tx.associations.list_page(after_id=after_id, limit=_PAGE)


def _entries_of(rows: _Rows) -> dict[int, _Entry]:
    return {
        association_id: _Entry(association.user_id, association.not_before, association.not_after)
        for association_id, association in rows
    }
