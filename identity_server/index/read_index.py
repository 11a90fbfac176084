"""Answers hashed lookups: from the index file that all workers of the node share, and from what has changed since.

The rule: nothing here is the truth. The file is made from the associations, what has changed since is read from
their change feed, and a gap in the feed that leaves a doubt has the file made anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import structlog

from identity_server.domain.association import Association, Visibility
from identity_server.domain.errors import Unavailable
from identity_server.domain.hashing import Pepper, written_hash
from identity_server.domain.identifiers import Threepid, UserId
from identity_server.domain.written_hashes import WrittenHashes
from identity_server.index.building import PLAIN, changed_hands
from identity_server.index.feed import FeedPosition
from identity_server.index.file import Column, IndexFile, Unusable, open_index_file
from identity_server.index.keys import KEY_BYTES, ONE_BY_ONE, Hashes, LookupKeys, halves
from identity_server.index.mappings import Mappings
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.associations import Change
from identity_server.storage.stamps import Subject

_log = structlog.get_logger(__name__)

_PAGE = 2_000
_FEW = 50
"""More changes than a few requests make at once; so many are read without the help of a thread."""
_MOST_CHANGED = 1_000
_MOST_CHANGED_SHARE = 0.01
"""Changes are kept in every worker's own memory; with more of them, a new file is made."""

_NOBODY = -1
"""No association has this id."""

_Rows = list[tuple[int, Association]]


@dataclass(frozen=True, slots=True)
class _Entry:
    user_id: UserId
    not_before: int
    not_after: int
    visibility: Visibility

    def answer_to(self, asker: UserId | None, now_ms: int) -> UserId | None:
        is_for_asker = self.not_before <= now_ms < self.not_after and self.visibility.shows(self.user_id, asker=asker)
        return self.user_id if is_for_asker else None


@dataclass(slots=True)
class Answers:
    """Finds Matrix IDs, in a file and in what has changed since it was made.

    Attributes:
        added: by pepper and key, the associations that came since. Those of one that has gone again stay, and
            lead to nothing: so a removal needs no address.
        entries: the associations that came since, by id.
        gone: places in the file whose associations are no more.
    """

    file: IndexFile
    keys: LookupKeys
    added: dict[str, dict[bytes, int]]
    entries: dict[int, _Entry] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)

    def find(self, pepper: Pepper, hashes: Hashes, *, asker: UserId | None, now_ms: int) -> Mappings:
        """Who is behind these hashes, by the hash, as far as whoever asks may know."""
        if len(hashes) > ONE_BY_ONE:
            return self._find_many(pepper.value, hashes, asker, now_ms)
        found = {}
        for place, query in enumerate(hashes.written):
            key = hashes.keys[place * KEY_BYTES : (place + 1) * KEY_BYTES]
            user_id = self._find(pepper.value, key, asker, now_ms)
            if user_id is not None:
                found[query] = user_id
        return Mappings.of(found)

    def find_plain(self, threepid: Threepid, *, asker: UserId | None, now_ms: int) -> UserId | None:
        """Who is behind an address (algorithm `none`), as far as whoever asks may know."""
        key = self.keys.one(written_hash(threepid, PLAIN))
        return None if key is None else self._find(PLAIN, key, asker, now_ms)

    def _find(self, pepper: str, key: bytes, asker: UserId | None, now_ms: int) -> UserId | None:
        entry = self.entries.get(self.added[pepper].get(key, _NOBODY))
        if entry is not None:
            return entry.answer_to(asker, now_ms)
        place = self.file.tables[pepper].find(key)
        if place is None or place in self.gone or not self.file.is_valid(place, now_ms):
            return None
        user_id = self.file.entries.user_id(place)
        return user_id if self.file.shows(place, user_id, asker=asker) else None

    def _find_many(self, pepper: str, hashes: Hashes, asker: UserId | None, now_ms: int) -> Mappings:
        hits, places = self.file.tables[pepper].find_many(halves(hashes.keys))
        if self.gone:
            stay = [place not in self.gone for place in places.tolist()]
            hits, places = hits[stay], places[stay]
        if not self.file.all_valid(now_ms):
            valid = self.file.which_valid(places, now_ms)
            hits, places = hits[valid], places[valid]
        if not self.file.all_visible:
            visible = self._which_visible(places, asker)
            hits, places = hits[visible], places[visible]
        added = self._find_added(pepper, hashes.keys, asker, now_ms) if self.added[pepper] else None
        if not added:
            return self._write(hashes.written, hits, places)
        is_old = ~np.isin(hits, list(added))
        news = Mappings.of({hashes.written[place]: user_id for place, user_id in added.items()})
        return Mappings.together((self._write(hashes.written, hits[is_old], places[is_old]), news))

    def _write(self, written: Sequence[str], hits: Column, places: Column) -> Mappings:
        if not len(hits):
            return Mappings()
        if type(written) is WrittenHashes and self.file.all_plain:
            return Mappings(len(hits), self.file.entries.with_user_ids(written.quoted(hits), places))
        found = map(written.__getitem__, hits.tolist())
        return Mappings.of(dict(zip(found, self.file.entries.user_ids(places), strict=True)))

    def _find_added(self, pepper: str, keys: bytes, asker: UserId | None, now_ms: int) -> dict[int, UserId]:
        """Those that came since the file was made, by the place of their key."""
        added, found = self.added[pepper], dict[int, UserId]()
        if not added.keys().isdisjoint(each := np.frombuffer(keys, f"V{KEY_BYTES}").tolist()):
            for place, key in enumerate(each):
                entry = self.entries.get(added.get(key, _NOBODY))
                user_id = None if entry is None else entry.answer_to(asker, now_ms)
                if user_id is not None:
                    found[place] = user_id
        return found

    def _which_visible(self, places: Column, asker: UserId | None) -> Column:
        """Which of some entries of the file whoever asks may see."""
        visible = np.ones(len(places), bool)
        hidden = self.file.hidden(places)
        own = self.file.entries.user_ids(places[hidden])
        visible[hidden] = [
            self.file.shows(place, user_id, asker=asker)
            for place, user_id in zip(places[hidden].tolist(), own, strict=True)
        ]
        return visible


@dataclass(slots=True)
class _View:
    """Where the answers come from, and how far they have followed the feed.

    Attributes:
        identity: tells the file from the one that comes after it.
    """

    answers: Answers
    identity: tuple[int, int]
    feed: FeedPosition

    @property
    def file(self) -> IndexFile:
        return self.answers.file

    @property
    def changed(self) -> int:
        """How much has changed since the file was made."""
        return len(self.answers.entries) + len(self.answers.gone)


@dataclass(frozen=True, slots=True)
class IndexSize:
    """How large the index is, and how far it has come.

    Attributes:
        associations: how many it holds.
        changes: how much of that has come or gone since the file was made.
        file_bytes: the size of the file.
        followed: the number of the last change that it knows.
    """

    associations: int
    changes: int
    file_bytes: int
    followed: int


class ReadIndex:
    """Finds the Matrix ID for a digest without asking the database.

    Args:
        keys: those of the root key that seals now; asked for whenever it may have been replaced.
        path: the index file.
        build: brings that file up to date.
        offers_plain: whether lookups by algorithm `none` are answered.
    """

    def __init__(
        self,
        *,
        database: Database,
        keys: Callable[[], LookupKeys],
        path: Path,
        build: Callable[[], Awaitable[None]],
        offers_plain: bool,
    ) -> None:
        self._database = database
        self._keys = keys
        self._path = path
        self._build = build
        self._always_wanted = frozenset({PLAIN} if offers_plain else ())
        self._view: _View | None = None
        self._peppers: list[Pepper] = []
        self._stamp = -1
        self._following = asyncio.Lock()
        self._building: asyncio.Task[None] | None = None

    # --- answering ------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether lookups can be answered."""
        return self._view is not None

    @property
    def size(self) -> IndexSize | None:
        """How large it is; None until it stands."""
        if self._view is None:
            return None
        view, answers = self._view, self._view.answers
        in_file = len(view.file.entries.ids) - len(answers.gone)
        return IndexSize(in_file + len(answers.entries), view.changed, view.file.size, view.feed.highest)

    @property
    def pepper(self) -> Pepper:
        """The pepper that clients are to use now: the one that nobody has retired yet.

        Where there is no table for it, it is the last one before, which is honoured for a while.

        Raises:
            Unavailable: there is no table for any of those that there are.
        """
        return next((pepper for pepper in self._usable if pepper.retired_at_ms is None), self.newest_pepper)

    @property
    def newest_pepper(self) -> Pepper:
        """The newest that there is a table for; it is answered for, whether or not it is given out already.

        Raises:
            Unavailable: there is no table for any of those that there are.
        """
        usable = self._usable
        if not usable:
            raise Unavailable
        return usable[-1]

    @property
    def _usable(self) -> list[Pepper]:
        tables = self._current.file.tables
        return [pepper for pepper in self._peppers if pepper.value in tables]

    def find_pepper(self, value: str, *, now_ms: int, grace_ms: int) -> Pepper | None:
        """The pepper of this value, if lookups with it are answered now."""
        for pepper in self._peppers:
            if pepper.value == value and value in self._current.file.tables:
                return pepper if pepper.honoured(now_ms=now_ms, grace_ms=grace_ms) else None
        return None

    @property
    def answers(self) -> Answers:
        """What is known at this moment; it goes on saying so, whatever changes meanwhile."""
        return self._current.answers

    @property
    def _current(self) -> _View:
        assert self._view is not None, "the index has not been started"
        return self._view

    # --- following ------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the file, or have it made; lookups can be answered afterwards.

        Raises:
            RuntimeError: the database has no pepper.
        """
        async with self._following:
            if not await self._list_peppers():
                raise RuntimeError("the database has no pepper")
            with suppress(Unusable):
                await self._take_over()
            if self._view is None or not self._has_a_pepper(self._view):
                self._view = None
                await self._build_and_take_over()
        await self.catch_up()

    @property
    def is_behind(self) -> bool:
        """Whether anything was committed on this node that hasn't been seen; costs next to nothing to ask."""
        return self._database.stamps.read(Subject.LOOKUPS) != self._stamp

    async def refresh(self) -> None:
        """Make sure that everything committed on this node is seen."""
        if self.is_behind:
            await self.catch_up()

    async def poll(self) -> None:
        """Make sure that everything is seen that whoever shares no memory with this process has committed."""
        if self._database.committed_elsewhere() or self._is_of_other_key(self._current):
            await self.catch_up()

    async def catch_up(self) -> None:
        """Follow the change feed to its end, or a newer file."""
        if not self.ready:
            return
        async with self._following:
            # Read before the feed: a commit in between is then seen as news once more, never missed.
            stamp = self._database.stamps.read(Subject.LOOKUPS)
            await self._list_peppers()
            if self._has_been_replaced():
                with suppress(Unusable):
                    await self._take_over()
            if not await self._follow(self._current):
                _log.warning("index.gap_in_feed", complete_to=self._current.feed.complete_to)
                await self._build_and_take_over()
            self._stamp = stamp
        if self._is_out_of_date() and self._building is None:
            self._building = asyncio.create_task(self._build_meanwhile())

    async def save(self) -> None:
        """Have what has changed written to the file, so that the next start needn't find it out again."""
        if self._current.changed:
            await self._build()

    async def settled(self) -> None:
        """Wait until no file is being made."""
        while self._building is not None:
            await asyncio.wait({self._building})

    async def close(self) -> None:
        """Stop making a file."""
        if self._building is not None:
            self._building.cancel()
            await asyncio.wait({self._building})

    async def _list_peppers(self) -> list[Pepper]:
        self._peppers = await self._database.read(lambda tx: tx.peppers.list())
        return self._peppers

    def _has_been_replaced(self) -> bool:
        try:
            return _identity(self._path) != self._current.identity
        except OSError:
            return False

    def _has_a_pepper(self, view: _View) -> bool:
        tables = view.file.tables.keys()
        return self._always_wanted <= tables and any(pepper.value in tables for pepper in self._peppers)

    def _is_of_other_key(self, view: _View) -> bool:
        """Whether the root key that the file hangs on has been replaced."""
        return view.file.fingerprint != self._keys().fingerprint

    def _is_out_of_date(self) -> bool:
        view = self._current
        wanted = self._always_wanted | {pepper.value for pepper in self._peppers}
        most = max(_MOST_CHANGED, _MOST_CHANGED_SHARE * len(view.file.entries.ids))
        return self._is_of_other_key(view) or view.file.tables.keys() != wanted or view.changed > most

    async def _take_over(self) -> None:
        """Go on with the file as it is now; the one before answers until the new one has caught up.

        Raises:
            Unusable: it has to be made anew.
        """
        try:
            # Before it is opened: should it be replaced in between, the newer one is taken over next time.
            identity = _identity(self._path)
        except OSError as error:
            raise Unusable(f"it can't be opened: {error.strerror}") from None
        keys = self._keys()
        file = await asyncio.to_thread(open_index_file, self._path, fingerprint=keys.fingerprint)
        answers = Answers(file, keys, {pepper: {} for pepper in file.tables})
        view = _View(answers, identity, FeedPosition(file.seq))
        if not self._has_a_pepper(view):
            raise Unusable("its peppers are gone")
        if await changed_hands(self._database, file) or not await self._follow(view):
            raise Unusable("it is of another time")
        self._view = view
        _log.info("index.in_use", associations=len(file.entries.ids), tables=len(file.tables), changed=view.changed)

    async def _build_and_take_over(self) -> None:
        await self._build()
        await self._take_over()

    async def _build_meanwhile(self) -> None:
        try:
            replaced = True
            while replaced and self._is_out_of_date():
                identity = self._current.identity
                await self._build()
                await self.catch_up()
                replaced = self._current.identity != identity
        except Exception:  # noqa: BLE001 - the former file goes on serving; the next change tries again
            _log.exception("index.not_built")
        finally:
            self._building = None

    async def _follow(self, view: _View) -> bool:
        """Apply what is new; False if entries that are needed have been trimmed already."""

        async def use_case(tx: Transaction) -> tuple[list[Change], _Rows] | None:
            oldest, newest = await tx.associations.feed_bounds()
            if newest < view.feed.highest or oldest > view.feed.complete_to + 1:
                return None
            changes = await tx.associations.list_changes(
                after_seq=view.feed.highest, limit=limit, missing=view.feed.missing
            )
            added = [change.association_id for change in changes if change.added]
            return changes, await tx.associations.list_by_id(added)

        now_seconds = asyncio.get_running_loop().time()
        view.feed.give_up_missing(now_seconds=now_seconds)
        limit = _PAGE if view.feed.missing else _FEW
        while True:
            found = await self._database.read(use_case, bulk=limit > _FEW)
            if found is None:
                return False
            changes, added = found
            if not view.feed.advance([change.seq for change in changes], now_seconds=now_seconds):
                return False
            self._apply(view.answers, changes, added)
            if len(changes) < limit:
                return True
            limit = _PAGE

    def _apply(self, answers: Answers, changes: Collection[Change], added: _Rows) -> None:
        for change in changes:
            if not change.added:
                answers.entries.pop(change.association_id, None)
                place = answers.file.entries.place(change.association_id)
                if place is not None:
                    answers.gone.add(place)
        news = [row for row in added if answers.file.entries.place(row[0]) is None]
        for association_id, association in news:
            answers.entries[association_id] = _Entry(
                association.user_id, association.not_before, association.not_after, association.visibility
            )
        for pepper, table in answers.added.items():
            hashes = [written_hash(association.threepid, pepper) for _, association in news]
            keys = np.frombuffer(answers.keys.many(hashes) or b"", f"V{KEY_BYTES}").tolist()
            table.update(zip(keys, (association_id for association_id, _ in news), strict=True))


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns
