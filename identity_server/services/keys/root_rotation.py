"""Another root key takes the place of the one that everything at rest hangs on, while the servers go on.

The rule: whatever becomes of the process that does this, and whenever, the servers work with both keys, and whoever
takes it up again goes on where it was left (storage/sealing/server_keys.py has the steps).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from identity_server.domain.audit import AuditEvent
from identity_server.domain.ports import Clock
from identity_server.services.sweeping import in_batches
from identity_server.storage.database import Database, Transaction
from identity_server.storage.sealing.key_ring import DigestKeys, key_id_of
from identity_server.storage.sealing.resealing import SEALED_TABLES, Page, SealedTable
from identity_server.storage.sealing.sealer import LiveKeys
from identity_server.storage.sealing.server_keys import FORMER_ROOT, NEXT_ROOT, ROOT, Holdout, KnownKey

_AT_ONCE = 200
_SHORTEST_PAUSE_SECONDS = 0.005
_ROUND_PAUSE_SECONDS = 0.2

Tell = Callable[[str], None]
"""Hears, as sentences, how far it has come."""

MakeNext = Callable[[], Awaitable[tuple[str, bytes | None]]]
"""Puts the next root key where it is kept; returns its fingerprint and salt."""

Settle = Callable[[], Awaitable[None]]
"""Returns when every process has seen what was committed before, and nothing is written any more by one that hadn't."""


class RotationGivenUp(Exception):
    """Somebody has given up the next root key, or there is none to give up; the text says which."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far it is.

    Attributes:
        root: the key that seals.
        next_root: the one that every server is to know before it does.
        former_root: the one that some rows are still sealed by.
        left: how many these are, by table.
        retired: ids of keys that nothing hangs on any more, and since when, in milliseconds; the newest first.
    """

    root: KnownKey
    next_root: KnownKey | None
    former_root: KnownKey | None
    left: dict[str, int]
    retired: tuple[tuple[str, int], ...]


class RootKeyRotation:
    """Replaces the root key; servers may be running beside it.

    Args:
        keys: those of this process.
        look: has this process see at once what the database says of its keys.
        settle: is awaited between two steps.
    """

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        keys: LiveKeys,
        look: Callable[[], Awaitable[None]],
        make_next: MakeNext,
        settle: Settle,
    ) -> None:
        self._database = database
        self._clock = clock
        self._keys = keys
        self._look = look
        self._make_next = make_next
        self._settle = settle

    async def standing(self) -> Standing:
        """How far it is."""

        async def use_case(tx: Transaction) -> Standing:
            known = await tx.server_keys.known()
            former = known.get(FORMER_ROOT)
            left = {}
            if former is not None:
                left = await tx.resealing.left(key_id_of(former.fingerprint))
            retired = await tx.server_keys.list_retired()
            return Standing(
                root=known[ROOT],
                next_root=known.get(NEXT_ROOT),
                former_root=former,
                left={name: count for name, count in left.items() if count},
                retired=tuple((each.id, each.retired_at_ms) for each in retired),
            )

        return await self._database.read(use_case, bulk=True)

    async def run(self, tell: Tell) -> None:
        """Begin, or go on where it was left, and come to the end; each step is committed by itself.

        Raises:
            RotationGivenUp: somebody did so meanwhile.
            KeyProblem: the next root key can't be made.
        """
        standing = await self.standing()
        if standing.former_root is None:
            if standing.next_root is None:
                await self._introduce(tell)
            await self._look()
            await self._switch(tell)
        await self._look()
        tell(f"New data is sealed by the next root key, {self._keys.ring.sealing.key_id}.")
        # Somebody may have begun to write before that.
        await self._settle()
        broken = await self._reseal_all(tell)
        await self._retire()
        await self._look()
        # What rows were before: out of SQLite's log, and out of PostgreSQL's tables.
        await self._database.remains.clear(())
        if broken:
            tell(
                f"{broken} rows could not be opened with the key that they name, and are as useless as before: the log"
                " says of which tables."
            )
        tell("Nothing is sealed by the former root key any more.")

    async def cancel(self) -> None:
        """Commit that there is no next root key; possible while nothing is sealed by it.

        Raises:
            RotationGivenUp: there is none, or it is in use already.
        """

        async def use_case(tx: Transaction) -> None:
            known = await tx.server_keys.known()
            if FORMER_ROOT in known:
                raise RotationGivenUp(
                    "the next root key is in use already, so the way back is as long as the way on: run"
                    " `keys rotate-root` to the end, and once more for yet another key"
                )
            if NEXT_ROOT not in known:
                raise RotationGivenUp("the root key is not being replaced")
            await tx.server_keys.withdraw()

        await self._database.transaction(use_case)

    # --- every process knows both -----------------------------------------------------------

    async def _introduce(self, tell: Tell) -> None:
        fingerprint, salt = await self._make_next()

        async def use_case(tx: Transaction) -> None:
            if (await tx.server_keys.known()).keys().isdisjoint({NEXT_ROOT, FORMER_ROOT}):
                await tx.server_keys.introduce(fingerprint, salt, now_ms=self._clock.now_ms())

        await self._database.transaction(use_case)
        tell(f"The next root key is {key_id_of(fingerprint)}. Every server is to know it before it is used.")

    async def _switch(self, tell: Tell) -> None:
        async def use_case(tx: Transaction) -> list[Holdout]:
            known = await tx.server_keys.known()
            if FORMER_ROOT in known:
                return []
            if NEXT_ROOT not in known:
                raise RotationGivenUp("the next root key was given up meanwhile")
            holdouts = await tx.server_keys.list_holdouts()
            if holdouts:
                await tx.server_keys.forget_holdouts()
            else:
                await tx.server_keys.switch()
            return holdouts

        # Those of an earlier try may be there no more.
        await self._database.transaction(lambda tx: tx.server_keys.forget_holdouts())
        while True:
            await self._settle()
            holdouts = await self._database.transaction(use_case)
            if not holdouts:
                return
            for each in holdouts:
                tell(
                    f"Waiting for {each.holder}: the next root key is missing there. Copy its file to"
                    f" {each.expected_in}, or, if it comes from the configuration, set it there as well and reload."
                )

    # --- nothing hangs on the former one ----------------------------------------------------

    async def _reseal_all(self, tell: Tell) -> int:
        former = (await self.standing()).former_root
        if former is None:
            return 0
        key_id, broken = key_id_of(former.fingerprint), 0
        for each in SEALED_TABLES:
            broken += await self._reseal_table(each, key_id, tell)
        await in_batches(self._database, lambda tx, limit: tx.resealing.drop(key_id, limit=limit))
        return broken

    async def _reseal_table(self, sealed: SealedTable, key_id: str, tell: Tell) -> int:
        """Seal all rows of a table anew; returns how many can't be opened."""
        total = 0
        while True:
            done, broken = await self._round(sealed, key_id)
            total += done
            left = await self._database.read(lambda tx: tx.resealing.count(sealed, key_id), bulk=True)
            if left <= broken:
                break
            # Rows that somebody was about to change.
            await asyncio.sleep(_ROUND_PAUSE_SECONDS)
        if total:
            tell(f"{sealed.table.name}: {total} rows sealed anew.")
        return broken

    async def _round(self, sealed: SealedTable, key_id: str) -> tuple[int, int]:
        done = broken = 0
        after, clock = None, asyncio.get_running_loop().time
        while True:
            began = clock()
            page: Page = await self._database.claim(
                partial(_page, sealed=sealed, key_id=key_id, after=after, limit=_AT_ONCE)
            )
            done, broken, after = done + page.sealed, broken + page.broken, page.last
            if after is None:
                return done, broken
            # The database is the servers' for at least half of the time.
            await asyncio.sleep(max(clock() - began, _SHORTEST_PAUSE_SECONDS))

    async def _retire(self) -> None:
        def kept_of(key: KnownKey) -> DigestKeys:
            return next(each.digest_keys for each in self._keys.ring.live if each.fingerprint == key.fingerprint)

        async def use_case(tx: Transaction) -> None:
            former = (await tx.server_keys.known()).get(FORMER_ROOT)
            if former is None:
                return
            now_ms = self._clock.now_ms()
            await tx.server_keys.retire(kept_of(former), now_ms=now_ms)
            await tx.audit.add(AuditEvent.ROOT_KEY_ROTATED, now_ms=now_ms)

        await self._database.transaction(use_case)


async def _page(tx: Transaction, *, sealed: SealedTable, key_id: str, after: object, limit: int) -> Page:
    return await tx.resealing.reseal(sealed, key_id, after=after, limit=limit)
