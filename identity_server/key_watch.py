"""Sees to it that this process knows every root key that another one may be using.

The rule: nobody takes a step from one root key to the next before every process has seen the step before. There is no
list of processes that could be asked. But none begins a transaction without having looked, within the last few seconds,
at what the database says of its keys; so after a little more than that, every process has seen it, or has said that it
can't go along.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from identity_server.domain.errors import Unavailable
from identity_server.domain.ports import Clock
from identity_server.key_files import KeyProblem, KeySources, find_root_keys, where_expected
from identity_server.storage.engines.opening import Engine
from identity_server.storage.sealing.key_ring import KeyRing
from identity_server.storage.sealing.sealer import LiveKeys
from identity_server.storage.sealing.server_keys import NEXT_ROOT, Holdout, KeyState, put_holdout, read_key_state

_log = structlog.get_logger(__name__)

LEASE_SECONDS: Final = 5.0
"""How long what a process has seen of the keys holds."""
_LOOK_SECONDS = 10.0


class KeyWatch:
    """Keeps the root keys of this process in step with what the database says.

    Args:
        live: replaced when there is another key to know.
        state: what `live` is made from.
        holder: what others call this process; None for one that never writes.
        lease_seconds: how long what was seen holds.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        live: LiveKeys,
        state: KeyState,
        sources: KeySources,
        clock: Clock,
        holder: str | None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._engine = engine
        self._live = live
        self._state = state
        self._sources = sources
        self._clock = clock
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._holds_until = 0.0
        self._looking = asyncio.Lock()

    @property
    def holds(self) -> bool:
        """Whether what was seen last still holds."""
        return self._now() < self._holds_until

    async def hold(self) -> None:
        """Make sure that no other process may be using a root key that is unknown here.

        Raises:
            Unavailable: one may be.
            OSError, DBAPIError: that can't be found out.
        """
        if self.holds:
            return
        async with self._looking:
            if not self.holds:
                await self._look()

    async def look(self) -> None:
        """Look at once; raises what `hold` does."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        began = self._now()
        async with asyncio.timeout(_LOOK_SECONDS):
            state = await read_key_state(self._engine)
            if state != self._state:
                await self._take(state)
        self._holds_until = began + self._lease_seconds

    async def _take(self, state: KeyState) -> None:
        try:
            # A key may have to be derived, which takes a second.
            ring = await asyncio.to_thread(self._find, state)
        except KeyProblem as problem:
            if not self._may_go_on_without_next(state):
                _log.error("root_key.missing", problem=str(problem))
                raise Unavailable from problem
            await self._hold_out(state, problem)
            return
        self._live.replace(state.with_retired(ring, randomness=self._live.randomness))
        self._state = state
        _log.info("root_key.known", key_id=ring.sealing.key_id, others=[key.key_id for key in ring.others])

    def _find(self, state: KeyState) -> KeyRing:
        """The keys that are wanted; those that this process has, it doesn't look for."""
        at_hand = {key.fingerprint: key for key in self._live.ring.live}
        if all(key.fingerprint in at_hand for key in state.roots):
            sealing, *others = [at_hand[key.fingerprint] for key in state.roots]
            return KeyRing(sealing, tuple(others))
        return find_root_keys(self._sources, state)

    def _may_go_on_without_next(self, state: KeyState) -> bool:
        """Whether nothing can be sealed by the key that is missing, as long as this process says so."""
        at_hand = {key.fingerprint for key in self._live.ring.live}
        return NEXT_ROOT in state.known and all(
            key.fingerprint in at_hand for key in state.roots if key.name != NEXT_ROOT
        )

    async def _hold_out(self, state: KeyState, problem: KeyProblem) -> None:
        _log.warning("root_key.next_is_missing", problem=str(problem))
        if self._holder is not None:
            file = where_expected(self._sources, state, state.known[NEXT_ROOT])
            await put_holdout(self._engine, Holdout(self._holder, str(file)), now_ms=self._clock.now_ms())

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
