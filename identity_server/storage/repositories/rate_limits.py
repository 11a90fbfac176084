"""The state of rate limits that must hold across restarts and workers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import bindparam, delete, insert, select, update

from identity_server.domain.errors import RateLimited
from identity_server.domain.rate_limits import RateLimit
from identity_server.storage.bulk import delete_some, in_parts
from identity_server.storage.connection import Connection, Prepared
from identity_server.storage.schema.tables import rate_limits
from identity_server.storage.sealing.sealer import Sealer, is_among

_PURPOSE = "rate limit"
_ANYWHERE = "wherever from"
_FOUND_BY = 16
"""So many bytes of a digest say whose limit it is, where the others say which of several. Nobody meets two of either."""

_FIND = Prepared(select(rate_limits).where(is_among(rate_limits.c.key_digest, "digests")))
_ADD = Prepared(insert(rate_limits))
_REPLACE = Prepared(update(rate_limits).where(rate_limits.c.key_digest == bindparam("of_digest")))
_REMOVE = Prepared(delete(rate_limits).where(rate_limits.c.key_digest == bindparam("digest")))


class RateLimits:
    """One timestamp per limit and caller, under a keyed digest."""

    def __init__(self, connection: Connection, sealer: Sealer) -> None:
        self._connection = connection
        self._sealer = sealer

    async def take(
        self,
        name: str,
        caller: str,
        limit: RateLimit,
        *,
        now_ms: int,
        asked_from: str | None = None,
    ) -> None:
        """Use one call of the caller's allowance.

        Args:
            name: of the limit.
            caller: whom it counts.
            limit: how often.
            now_ms: the time.
            asked_from: as for `take_place`.

        Raises:
            RateLimited: it is used up.
        """
        digests = self._digests(name, caller, asked_from=asked_from)
        row = (await self._connection.execute(_FIND, {"digests": digests})).one_or_none()
        allowed, value = limit.take(None if row is None else row.whole_again_at_ms, now_ms=now_ms)
        if not allowed:
            raise RateLimited(retry_after_ms=value, limit=name)
        await self._put(digests[0], before=None if row is None else row.key_digest, whole_again_at_ms=value)

    async def take_place(
        self, name: str, caller: str, *, places: int, window_ms: int, now_ms: int, asked_from: str | None = None
    ) -> bytes:
        """Use one of the caller's places, each of which is free again after the window.

        Where `take` lets a few more through in the long run, this never lets more through than there are places
        in any window; it costs a row for each, so there should be few. Returns what `give_back` needs.

        Args:
            name: of the limit.
            caller: whom it counts.
            places: how many the caller has.
            window_ms: how long a place is taken.
            now_ms: the time.
            asked_from: the caller has as many for each of these, such as a network. `forget_wherever` finds them.

        Raises:
            RateLimited: all are in use.
        """
        digests = [self._digests(name, caller, str(place), asked_from=asked_from) for place in range(places)]
        newest_of = {each: of_place[0] for of_place in digests for each in of_place}
        rows = await self._connection.execute(_FIND, {"digests": list(newest_of)})
        taken = {newest_of[row.key_digest]: row for row in rows}
        free_at = {digest: row.whole_again_at_ms for digest, row in taken.items()}
        chosen = min((newest for newest, *_ in digests), key=lambda digest: free_at.get(digest, 0))
        if free_at.get(chosen, 0) > now_ms:
            raise RateLimited(retry_after_ms=free_at[chosen] - now_ms, limit=name)
        before = taken[chosen].key_digest if chosen in taken else None
        await self._put(chosen, before=before, whole_again_at_ms=now_ms + window_ms)
        return chosen

    async def give_back(self, place: bytes) -> None:
        """Free a place that `take_place` gave."""
        await self._connection.execute(_REMOVE, {"digest": place})

    async def _put(self, digest: bytes, *, before: bytes | None, whole_again_at_ms: int) -> None:
        """Store under the newest key's digest what may have been under an earlier one's."""
        values = {"key_digest": digest, "whole_again_at_ms": whole_again_at_ms}
        if before is None:
            await self._connection.execute(_ADD, values)
        else:
            await self._connection.execute(_REPLACE, {"of_digest": before} | values)

    def _digests(self, name: str, caller: str, *place: str, asked_from: str | None) -> Sequence[bytes]:
        if asked_from is None:
            return self._sealer.digests(_PURPOSE, name, caller, *place)
        whole = self._sealer.digests(_PURPOSE, name, caller, *place, asked_from)
        return [
            found[:_FOUND_BY] + each[_FOUND_BY:] for found, each in zip(self._found(name, caller), whole, strict=True)
        ]

    def _found(self, name: str, caller: str) -> Sequence[bytes]:
        """What the digests of a caller's limits begin with, wherever they were asked from."""
        return self._sealer.digests(_PURPOSE, name, caller, _ANYWHERE)

    async def forget_wherever(self, name: str, caller: str) -> int:
        """Forget a limit of this caller, wherever it was asked from; returns how many rows there were."""
        forgotten = 0
        for found in self._found(name, caller):
            first = found[:_FOUND_BY]
            last = first + b"\xff" * (len(found) - _FOUND_BY)
            these = delete(rate_limits).where(rate_limits.c.key_digest.between(first, last))
            forgotten += (await self._connection.execute(these)).rowcount
        return forgotten

    async def forget(self, counted: Collection[tuple[str, ...]]) -> int:
        """Forget limits, each by its name, whom it counts, and where it has places the number of one.

        Returns how many there were.
        """
        return await self._forget([digest for each in counted for digest in self._sealer.digests(_PURPOSE, *each)])

    async def forget_asked_from(self, name: str, counted: Collection[tuple[str, str]]) -> int:
        """Forget a limit of each of these callers as far as it was asked from the place that is named with it.

        Returns how many there were.
        """
        return await self._forget(
            [digest for caller, place in counted for digest in self._digests(name, caller, asked_from=place)]
        )

    async def _forget(self, digests: Sequence[bytes]) -> int:
        forgotten = 0
        for some in in_parts(digests):
            these = delete(rate_limits).where(rate_limits.c.key_digest.in_(some))
            forgotten += (await self._connection.execute(these)).rowcount
        return forgotten

    async def cleanup(self, *, now_ms: int, limit: int) -> int:
        """Forget callers whose allowance is whole again, so many at most; returns how many."""
        by = rate_limits.c.whole_again_at_ms
        return await delete_some(self._connection, rate_limits, by <= now_ms, by=by, limit=limit)
