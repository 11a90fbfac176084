"""Contact discovery by hashed lookup (Identity Service API, "Association lookup"; MSC2134)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from identity_server.domain.errors import InvalidParameter, InvalidPepper, TooManyAddresses
from identity_server.domain.hashing import Algorithm, parse_plain_query
from identity_server.domain.homeserver_policy import HomeserverPolicy
from identity_server.domain.identifiers import UserId
from identity_server.domain.ports import Clock
from identity_server.index.read_index import Answers, ReadIndex

_AT_ONCE = 1_000
_PLAIN_AT_ONCE = 100


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
    ) -> None:
        self._index = index
        self._clock = clock
        self._algorithms = algorithms
        self._max_addresses = max_addresses
        self._grace_ms = grace_ms
        self._policy = policy

    async def hash_details(self, *, asker: UserId) -> HashDetails:
        """What to hash with now.

        Raises:
            HomeserverDenied: users of that homeserver may not look up.
        """
        self._policy.require_looking_up(asker)
        if self._index.is_behind:
            await self._index.catch_up()
        return HashDetails(self._algorithms, self._index.pepper.value)

    async def lookup(
        self, *, asker: UserId, algorithm: str, pepper: str, queries: Sequence[str]
    ) -> dict[str, UserId]:
        """The Matrix IDs behind those queries that match, by the query as it was sent.

        What its owner hides from whoever asks is not found.

        Raises:
            HomeserverDenied: users of that homeserver may not look up.
            InvalidParameter: an algorithm that isn't on offer.
            TooManyAddresses: more queries than are allowed at once.
            InvalidPepper: the pepper isn't honoured; names the one to use.
        """
        self._policy.require_looking_up(asker)
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
        answers = self._index.answers
        if algorithm == Algorithm.NONE:
            return await self._find_all_plain(answers, queries, asker, now_ms)
        if len(queries) <= _AT_ONCE:
            return answers.find(found_pepper, queries, asker=asker, now_ms=now_ms)
        mapping: dict[str, UserId] = {}
        for start in range(0, len(queries), _AT_ONCE):
            some = queries[start : start + _AT_ONCE]
            mapping |= answers.find(found_pepper, some, asker=asker, now_ms=now_ms)
            # A large lookup takes milliseconds, and others wait.
            await asyncio.sleep(0)
        return mapping

    @staticmethod
    async def _find_all_plain(
        answers: Answers, queries: Sequence[str], asker: UserId, now_ms: int
    ) -> dict[str, UserId]:
        """Checking an address takes a tenth of a millisecond: after a few, others have their turn."""
        mapping: dict[str, UserId] = {}
        for done, query in enumerate(queries, start=1):
            threepid = parse_plain_query(query)
            user_id = None if threepid is None else answers.find_plain(threepid, asker=asker, now_ms=now_ms)
            if user_id is not None:
                mapping[query] = user_id
            if done % _PLAIN_AT_ONCE == 0:
                await asyncio.sleep(0)
        return mapping
