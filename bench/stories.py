"""People: they validate an address, bind it, invite others. Each step waits for the one before, as in life.

The rule: what they are told is checked, and what they have bound is looked up afterwards, all of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from bench import sinks, world
from bench.checking import WrongAnswer
from bench.client import BadAnswer, Connection
from bench.requests import V2, render
from bench.steady import percentile

_MAIL_SECONDS = 30
# What one lookup may hold.
_AT_ONCE = 10_000


@dataclass(slots=True)
class Told:
    """What came of many stories.

    Attributes:
        seconds: from the first to the end of the last.
        durations_ms: of each.
    """

    seconds: float = 0.0
    durations_ms: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return len(self.durations_ms) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """So many of a hundred took no longer."""
        return percentile(self.durations_ms, percent)


Story = Callable[[Connection, int], Awaitable[None]]


class People:
    """Those who use one server.

    Args:
        run: tells this run's new addresses from those of others on the same data.
    """

    def __init__(self, port: int, mailbox: sinks.Mailbox, *, run: str) -> None:
        self._port = port
        self._mailbox = mailbox
        self._run = run
        self._numbers = count()
        self._bound: dict[str, str] = {}

    async def bind(self, connection: Connection, number: int) -> None:
        """The full flow: ask for a mail, get it, submit its token, bind.

        Raises:
            WrongAnswer: the binding isn't the one that was asked for.
            BadAnswer: a step failed.
        """
        who = world.account(number % world.ACCOUNTS)
        address = world.Address("email", f"new{self._run}x{number}@mail{number % 97}.example.com")
        mail = self._mailbox.expect(address.text)
        session = {"client_secret": f"secret{number}"}
        requested = {**session, "email": address.text, "send_attempt": 1}
        sid = (await self._post(connection, who, "validate/email/requestToken", requested))["sid"]
        async with asyncio.timeout(_MAIL_SECONDS):
            token = sinks.token_in(await mail)
        if token is None:
            raise BadAnswer("the mail has no link")
        session["sid"] = sid
        submitted = await self._post(connection, who, "validate/email/submitToken", {**session, "token": token})
        if submitted != {"success": True}:
            raise BadAnswer(f"the token didn't validate: {submitted}")
        association = await self._post(connection, who, "3pid/bind", {**session, "mxid": who.user_id})
        if (association["address"], association["mxid"]) != (address.text, who.user_id):
            raise WrongAnswer(f"bound {association}")
        self._bound[address.hashed(world.PEPPER)] = who.user_id

    async def look_up_bound(self) -> None:
        """Look up everything that was bound since the last time.

        Raises:
            WrongAnswer: something isn't found, or as somebody else's.
        """
        expected, self._bound = self._bound, {}
        connection = Connection(self._port)
        # Sydent doesn't find a binding within its first millisecond.
        await asyncio.sleep(0.002)
        try:
            for some in _in_parts(list(expected)):
                body = {"algorithm": "sha256", "pepper": world.PEPPER, "addresses": some}
                found = await self._post(connection, world.account(0), "lookup", body)
                if found["mappings"] != {hashed: expected[hashed] for hashed in some}:
                    raise WrongAnswer(f"of {len(some)} new bindings {len(found['mappings'])} are found")
        finally:
            connection.close()

    async def invite(self, connection: Connection, number: int) -> None:
        """Invite somebody whom nobody knows, by mail.

        Raises:
            BadAnswer: it failed.
        """
        who = world.account(number % world.ACCOUNTS)
        body = {
            "medium": "email",
            "address": f"guest{self._run}x{number}@mail{number % 97}.example.com",
            "room_id": f"!room{number}:example.com",
            "sender": who.user_id,
            "sender_display_name": "Asker",
            "room_name": "A room",
        }
        answer = await self._post(connection, who, "store-invite", body)
        if not answer["token"] or not answer["public_keys"]:
            raise BadAnswer(f"an invite without keys: {answer}")

    async def tell(self, story: Story, *, at_once: int, seconds: float) -> Told:
        """Tell as many stories as can be told in some time, so many at once, each to its end."""
        async with self.telling(story, at_once=at_once) as told:
            await asyncio.sleep(seconds)
        return told

    @asynccontextmanager
    async def telling(self, story: Story, *, at_once: int, per_second: float | None = None) -> AsyncIterator[Told]:
        """Tell stories while the block runs; those that have begun by its end are told to theirs.

        Args:
            story: told over and over, with a number of its own each time.
            at_once: how many are under way.
            per_second: no more than so many begin in a second.
        """
        told = Told()
        stop = asyncio.Event()
        pause = 0.0 if per_second is None else at_once / per_second

        async def teller() -> None:
            connection = Connection(self._port)
            try:
                while not stop.is_set():
                    begun = time.monotonic()
                    await story(connection, next(self._numbers))
                    took = time.monotonic() - begun
                    told.durations_ms.append(1000 * took)
                    await asyncio.sleep(max(0.0, pause - took))
            finally:
                connection.close()

        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(teller())
            try:
                yield told
            finally:
                stop.set()
        told.seconds = time.monotonic() - started

    async def _post(self, connection: Connection, who: world.Account, path: str, body: Any) -> Any:
        answer = await connection.ask(render("POST", f"{V2}/{path}", token=who.token, body=body))
        if answer.status != 200:
            raise BadAnswer(f"{path}: {answer.status} {answer.body[:300]!r}")
        return answer.json()


def _in_parts(hashes: list[str]) -> list[list[str]]:
    return [hashes[start : start + _AT_ONCE] for start in range(0, len(hashes), _AT_ONCE)]
