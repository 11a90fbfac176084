"""Contact discovery by hashed lookup (Identity Service API, "Association lookup"; MSC2134)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from identity_server.domain.errors import InvalidParameter, InvalidPepper, TooManyAddresses
from identity_server.domain.hashing import Algorithm, Pepper, parse_plain_query, written_hash
from identity_server.domain.homeserver_policy import HomeserverPolicy
from identity_server.domain.identifiers import Threepid, UserId
from identity_server.domain.ports import Clock
from identity_server.index.keys import Hashes
from identity_server.index.mappings import Mappings
from identity_server.index.read_index import Answers, ReadIndex
from identity_server.services.lookup.budgets import LookupBudgets

_AT_ONCE = 1_000
_PLAIN_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Asker:
    """Who looks up.

    Attributes:
        client_network: finds out from where; only asked if it makes a difference.
    """

    user_id: UserId
    client_network: Callable[[], str]


@dataclass(frozen=True, slots=True)
class HashDetails:
    """How clients are to hash: the algorithms on offer, best first, and the pepper."""

    algorithms: tuple[Algorithm, ...]
    pepper: str


class Lookup:
    """Answers from the read index; never asks the database for an address.

    Args:
        algorithms: those on offer.
        max_addresses: in one lookup.
        grace_ms: how long a retired pepper is still honoured.
        policy: whose users may look up.
    """

    def __init__(
        self,
        *,
        index: ReadIndex,
        clock: Clock,
        algorithms: tuple[Algorithm, ...],
        max_addresses: int,
        grace_ms: int,
        policy: HomeserverPolicy,
        budgets: LookupBudgets,
    ) -> None:
        self._index = index
        self._clock = clock
        self._algorithms = algorithms
        self._max_addresses = max_addresses
        self._grace_ms = grace_ms
        self._policy = policy
        self._budgets = budgets

    async def hash_details(self, *, asker: UserId) -> HashDetails:
        """What to hash with now.

        Raises:
            HomeserverDenied: users of that homeserver may not look up.
        """
        self._policy.require_looking_up(asker)
        if self._index.is_behind:
            await self._index.catch_up()
        return HashDetails(self._algorithms, self._index.pepper.value)

    async def lookup(self, *, asker: Asker, algorithm: str, pepper: str, queries: Sequence[str]) -> Mappings:
        """The Matrix IDs behind those queries that match, by the query as it was sent.

        What its owner hides from whoever asks is not found. Whatever the account hasn't asked for under this pepper
        is charged to its budgets first.

        Raises:
            HomeserverDenied: users of that homeserver may not look up.
            InvalidParameter: an algorithm that isn't on offer.
            TooManyAddresses: more queries than are allowed at once.
            InvalidPepper: the pepper isn't honoured; names the one to use.
            RateLimited: too many that the account hasn't asked for before; nothing is answered.
        """
        self._policy.require_looking_up(asker.user_id)
        if algorithm not in self._algorithms:
            raise InvalidParameter("This algorithm is not offered here; see hash_details.")
        if len(queries) > self._max_addresses:
            raise TooManyAddresses(f"At most {self._max_addresses} addresses can be looked up at once.")
        if self._index.is_behind:
            await self._index.catch_up()
        now_ms = self._clock.now_ms()
        found_pepper = self._index.find_pepper(pepper, now_ms=now_ms, grace_ms=self._grace_ms)
        if found_pepper is None:
            # Another process may have given it out before this one was told that there is such a one.
            await self._index.catch_up()
            found_pepper = self._index.find_pepper(pepper, now_ms=now_ms, grace_ms=self._grace_ms)
        if found_pepper is None:
            raise InvalidPepper(algorithm=algorithm, lookup_pepper=self._index.pepper.value)
        # As they are now: the pepper's table may be gone by the time that the database has answered.
        answers = self._index.answers
        if algorithm == Algorithm.NONE:
            return await self._find_all_plain(answers, found_pepper, queries, asker, now_ms)
        hashes = answers.keys.read(queries)
        await self._charge(asker, found_pepper, hashes)
        if len(hashes) <= _AT_ONCE:
            return answers.find(found_pepper, hashes, asker=asker.user_id, now_ms=now_ms)
        parts = []
        for start in range(0, len(hashes), _AT_ONCE):
            some = hashes.some(start, start + _AT_ONCE)
            parts.append(answers.find(found_pepper, some, asker=asker.user_id, now_ms=now_ms))
            # A large lookup takes milliseconds, and others wait.
            await asyncio.sleep(0)
        return Mappings.together(parts)

    async def charge(self, threepid: Threepid, *, asker: Asker) -> None:
        """Charge an account for being told by something else than a lookup whether an address is bound.

        Raises:
            RateLimited: its budgets don't allow that now.
        """
        await self._charge_all(self._index.answers, [threepid], asker, self._index.pepper)

    async def _charge_all(
        self, answers: Answers, threepids: Sequence[Threepid], asker: Asker, pepper: Pepper
    ) -> None:
        """An address is the same one, however it is asked for."""
        hashes = answers.keys.read([written_hash(threepid, pepper.value) for threepid in threepids])
        await self._charge(asker, pepper, hashes)

    async def _charge(self, asker: Asker, pepper: Pepper, hashes: Hashes) -> None:
        await self._budgets.charge(asker.user_id, pepper, hashes.keys, client_network=asker.client_network)

    async def _find_all_plain(
        self, answers: Answers, pepper: Pepper, queries: Sequence[str], asker: Asker, now_ms: int
    ) -> Mappings:
        """Checking an address takes a tenth of a millisecond: after a few, others have their turn."""
        asked: dict[str, Threepid] = {}
        for done, query in enumerate(queries, start=1):
            threepid = parse_plain_query(query)
            if threepid is not None:
                asked[query] = threepid
            if done % _PLAIN_AT_ONCE == 0:
                await asyncio.sleep(0)
        await self._charge_all(answers, list(asked.values()), asker, pepper)
        mapping: dict[str, UserId] = {}
        for done, (query, threepid) in enumerate(asked.items(), start=1):
            user_id = answers.find_plain(threepid, asker=asker.user_id, now_ms=now_ms)
            if user_id is not None:
                mapping[query] = user_id
            if done % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return Mappings.of(mapping)
