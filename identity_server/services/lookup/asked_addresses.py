"""What accounts have asked for under a pepper: in memory for those who ask, in the database for all processes.

The rule: what is in memory counts as asked because it was charged. It may be unknown elsewhere for a moment, or be
forgotten in a crash, and is then charged again; nothing else is ever taken for asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from identity_server.domain.budgets import Holder
from identity_server.domain.ports import Clock, Randomness
from identity_server.domain.random_values import row_id
from identity_server.index.key_set import KeySet
from identity_server.index.keys import KEY_BYTES, Halves, halves
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.budgets import AskedRow

_NEWS_MS = 1_000
"""Another process may have written something down since; that is looked for again after so long."""
_IDLE_MS = 3_600_000
_MOST_ROWS = 32
"""With more of them, what an account has asked for is written into one."""
_MOST_BYTES = 64 * 1024 * 1024
_BYTES_BESIDE_KEYS = 1_500
_LISTS = 4
"""Of so many devices."""
_NONE = halves(b"")


@dataclass(slots=True)
class Asked:
    """What one account has asked for under one pepper.

    Attributes:
        lately: the keys of its last lookups of which none was new. Most lookups ask for the same list again, and each
            device of an account has a list of its own.
        rows: those of the database that are in `keys`.
        read_at_ms: when the database was last asked for more of them; None before the first time.
    """

    holder: Holder
    keys: KeySet = field(default_factory=KeySet)
    lately: dict[bytes, None] = field(default_factory=dict)
    rows: set[int] = field(default_factory=set)
    read_at_ms: int | None = None
    used_at_ms: int = 0

    @property
    def size(self) -> int:
        """How much memory it takes, in bytes."""
        return _BYTES_BESIDE_KEYS + KEY_BYTES * len(self.keys) + sum(map(len, self.lately))

    def has_again(self, keys: bytes) -> int:
        """Remember a lookup of which none was new in the place of the earliest one; returns how many bytes more that takes."""
        gone = next(iter(self.lately)) if len(self.lately) >= _LISTS else None
        if gone is not None:
            del self.lately[gone]
        self.lately[keys] = None
        return len(keys) - len(gone or b"")


class AskedAddresses:
    """Remembers, writes down, forgets.

    Args:
        most_bytes: how much memory may be used; beyond it, those are forgotten that haven't asked for longest.
    """

    def __init__(
        self, *, database: Database, clock: Clock, randomness: Randomness, most_bytes: int = _MOST_BYTES
    ) -> None:
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._most_bytes = most_bytes
        self._bytes = 0
        self._known: OrderedDict[Holder, Asked] = OrderedDict()
        self._unwritten: dict[Holder, list[Halves]] = {}
        self._being_written: dict[Holder, list[Halves]] = {}

    def missing_here(self, holder: Holder, keys: bytes) -> Halves | None:
        """Those of these keys that an account hasn't asked for yet; None if that isn't known without the database."""
        asked = self._known.get(holder)
        if asked is None:
            return None
        self._known.move_to_end(holder)
        if keys in asked.lately:
            return _NONE
        new = asked.keys.missing(halves(keys))
        if not len(new):
            self._bytes += asked.has_again(keys)
        elif self._may_have_news(asked):
            return None
        return new

    def _may_have_news(self, asked: Asked) -> bool:
        return asked.read_at_ms is None or self._clock.now_ms() >= asked.read_at_ms + _NEWS_MS

    async def complete(self, several: Iterable[Asked]) -> None:
        """Learn what others have written down of these accounts."""
        now_ms = self._clock.now_ms()
        waiting = {asked.holder: asked for asked in several if self._may_have_news(asked)}
        if not waiting:
            return
        for row in await self._database.read(lambda tx: self._read_news(tx, waiting.values())):
            asked = waiting[row.holder]
            self._put(asked, asked.keys.missing(halves(row.keys)))
            asked.rows.add(row.id)
        for holder, asked in waiting.items():
            # It may have been forgotten in between.
            for some in (*self._being_written.get(holder, ()), *self._unwritten.get(holder, ())):
                self._put(asked, asked.keys.missing(some))
            asked.read_at_ms = now_ms

    async def _read_news(self, tx: Transaction, several: Iterable[Asked]) -> list[AskedRow]:
        rows = await tx.budgets.list_asked([asked.holder for asked in several if not asked.rows])
        for asked in several:
            if asked.rows:
                rows += await tx.budgets.list_asked([asked.holder], known=asked.rows)
        return rows

    def of(self, holder: Holder) -> Asked:
        """What is known of an account so far; `complete` adds what others have written down."""
        asked = self._known.get(holder)
        if asked is None:
            self._forget_some()
            asked = self._known[holder] = Asked(holder)
            self._bytes += asked.size
        self._known.move_to_end(holder)
        asked.used_at_ms = self._clock.now_ms()
        return asked

    def row(self, holder: Holder, keys: bytes) -> AskedRow:
        """What keys are written down as."""
        return AskedRow(row_id(self._randomness), holder, keys)

    def note_written(self, row: AskedRow, asked: Asked, keys: Halves) -> None:
        """Remember keys that have been written down."""
        asked.rows.add(row.id)
        self._put(asked, keys)

    def note(self, asked: Asked, keys: Halves) -> None:
        """Remember keys, to be written down soon."""
        self._unwritten.setdefault(asked.holder, []).append(keys)
        self._put(asked, keys)

    async def write_down(self) -> None:
        """Commit what is only in memory so far."""
        if self._being_written or not self._unwritten:
            return
        self._being_written, self._unwritten = self._unwritten, {}
        try:
            written = await self._database.transaction(self._write, bulk=True)
        except BaseException:
            # Next time; what was written after all is then there twice, which changes nothing.
            for holder, some in self._being_written.items():
                self._unwritten.setdefault(holder, []).extend(some)
            raise
        finally:
            self._being_written = {}
        for asked, rows in written:
            asked.rows = rows

    async def _write(self, tx: Transaction) -> list[tuple[Asked, set[int]]]:
        """Write it, and return in which rows each of those that are in memory stands then."""
        written = []
        # An account that has been erased meanwhile leaves nothing behind, and a pepper that is gone neither.
        rows = []
        for holder in await tx.budgets.find(self._being_written):
            asked, keys = self._known.get(holder), self._being_written[holder]
            if asked is not None and len(asked.rows) >= _MOST_ROWS:
                await tx.budgets.remove_asked(asked.rows)
                row = self.row(holder, asked.keys.to_bytes())
                written.append((asked, {row.id}))
            else:
                row = self.row(holder, b"".join(some.tobytes() for some in keys))
                if asked is not None:
                    written.append((asked, {*asked.rows, row.id}))
            rows.append(row)
        await tx.budgets.add_asked(rows)
        return written

    def forget_idle(self) -> None:
        """Forget accounts that haven't asked for anything new for an hour."""
        before_ms = self._clock.now_ms() - _IDLE_MS
        for holder in [each for each, asked in self._known.items() if asked.used_at_ms < before_ms]:
            self._forget(holder)

    def _put(self, asked: Asked, keys: Halves) -> None:
        asked.keys.add(keys)
        if self._known.get(asked.holder) is asked:
            self._bytes += KEY_BYTES * len(keys)
            self._forget_some()

    def _forget_some(self) -> None:
        """Forget those that haven't asked for longest, until there is room."""
        for _ in range(len(self._known)):
            if self._bytes <= self._most_bytes:
                return
            self._forget(next(iter(self._known)))

    def _forget(self, holder: Holder) -> None:
        if holder in self._unwritten or holder in self._being_written:
            # It is known nowhere else.
            self._known.move_to_end(holder)
        else:
            self._bytes -= self._known.pop(holder).size
