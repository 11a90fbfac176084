"""Load on a server under fire, and the ledger of what it has acknowledged.

The rule: a request that was answered with success has had its effect, and keeps it, whatever comes after. One that got
no answer may have had it or not; both are right until somebody looks, and what is seen then must stay. The driver
doesn't know what is being broken, so that the same stories serve for every fire.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from tests.fire.outside import Homeserver, Relay
from tests.fire.stage import Stage
from tests.support.harness import hashed

_V2: Final = "/_matrix/identity/v2"
_REQUEST_SECONDS = 60.0
_MAIL_SECONDS = 300.0
_CHECK_TRIES = 10
_AT_ONCE = 20
_LOOKUP = 500
SETTLES_SECONDS: Final = 5.0
"""After so long, every process has learnt of what one has committed that died before it could tell anybody."""

_SECRET = "the_client_secret"
NOBODY: Final = "nobody"


class Kind(StrEnum):
    """What a fact is about, which says how it is looked at."""

    ACCOUNT = "account"
    SESSION = "session"
    BINDING = "binding"
    INVITE = "invite"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a fact is about.

    Attributes:
        name: an access token, a session's id, an address, an ephemeral public key.
    """

    kind: Kind
    name: str


@dataclass
class Ledger:
    """What must be so.

    Attributes:
        facts: the values that each subject may have; one, unless nobody knows.
        asked_at: when each was last to be changed, by the monotonic clock.
        acknowledged: how many effects of each kind were acknowledged.
        mailed: addresses that a mail was promised to.
        invited: tokens of invites, with their address, that were promised to whoever binds it.
    """

    facts: dict[Subject, set[str]] = field(default_factory=dict)
    asked_at: dict[Subject, float] = field(default_factory=dict)
    acknowledged: Counter[str] = field(default_factory=Counter)
    mailed: list[str] = field(default_factory=list)
    invited: list[tuple[str, str]] = field(default_factory=list)

    def expect(self, subject: Subject, value: str) -> None:
        """A request for this was sent, so from now on it may be so."""
        self.facts.setdefault(subject, {NOBODY}).add(value)
        self.asked_at[subject] = time.monotonic()

    def know(self, subject: Subject, value: str, effect: str) -> None:
        """It was acknowledged, or seen: so it is so, and stays so."""
        self.facts[subject] = {value}
        self.acknowledged[effect] += 1

    @property
    def bound(self) -> dict[str, str]:
        """Addresses that are bound for sure, with their Matrix ID."""
        return {
            subject.name: next(iter(may_be))
            for subject, may_be in self.facts.items()
            if subject.kind is Kind.BINDING and NOBODY not in may_be
        }

    def compare(self, seen: Mapping[Subject, str]) -> list[str]:
        """What is otherwise than it must be; of what may be either way, what is seen in the end counts from then on."""
        wrong, settled = [], time.monotonic() - SETTLES_SECONDS
        for subject, value in seen.items():
            may_be = self.facts[subject]
            if value not in may_be:
                wrong.append(f"{subject.kind} {subject.name[:24]}: {value} instead of {' or '.join(sorted(may_be))}")
            if self.asked_at.get(subject, 0) < settled:
                self.facts[subject] = {value}
        return wrong


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that was answered, or not.

    Attributes:
        begun, ended: by the monotonic clock.
        status: None for no answer.
    """

    what: str
    begun: float
    ended: float
    status: int | None
    text: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


class Unanswered(Exception):
    """A request got no answer that says whether it has had an effect."""


class Load:
    """People who go on and on, each with a story of registering, proving, binding, inviting, unbinding, leaving.

    Attributes:
        ledger: what they were told.
        answers: every request and its status, the oldest first.
        stories: how many were begun, which numbers them.
    """

    def __init__(self, stage: Stage, *, seed: str = "fire", keeps_connections: bool = True) -> None:
        self._base = stage.server.base
        self._homeserver: Homeserver = stage.homeserver
        self._relay: Relay = stage.relay
        self._seed = seed
        self._random = random.Random(seed)
        self._session = ClientSession(
            connector=TCPConnector(limit=0, force_close=not keeps_connections),
            timeout=ClientTimeout(total=_REQUEST_SECONDS, connect=_REQUEST_SECONDS),
        )
        self._terms: list[str] = []
        self._go_on = asyncio.Event()
        self._under_way = 0
        self._ended = False
        self.ledger = Ledger()
        self.answers: list[Answered] = []
        self.stories = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    # --- requests ---------------------------------------------------------------------------

    async def ask(
        self, method: str, path: str, *, network: int = 0, token: str = "", json: Any = None
    ) -> tuple[int, Any]:
        """Send a request and return status and content.

        Raises:
            Unanswered: no answer, or one that says that the server can't tell (5xx).
        """
        headers = {"X-Forwarded-For": f"10.{network >> 16 & 255}.{network >> 8 & 255}.{network & 255}"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        what = f"{method} {path.partition('?')[0]}"
        begun = time.monotonic()
        try:
            url = f"{self._base}{_V2}/{path}"
            async with self._session.request(method, url, headers=headers, json=json) as response:
                content = await response.json()
        except (ClientError, TimeoutError, OSError) as error:
            self.answers.append(Answered(what, begun, time.monotonic(), None, repr(error)))
            raise Unanswered from error
        self.answers.append(Answered(what, begun, time.monotonic(), response.status, str(content)))
        if response.status >= 500:
            raise Unanswered
        return response.status, content

    async def ask_until_told(self, method: str, path: str, **request: Any) -> tuple[int, Any]:
        """Send a request that may be sent again, as often as it takes: on a busy machine, a server may say so."""
        for _ in range(_CHECK_TRIES):
            with suppress(Unanswered):
                return await self.ask(method, path, **request)
            await asyncio.sleep(1)
        return await self.ask(method, path, **request)

    async def _do(self, subject: Subject, value: str, effect: str, path: str, **request: Any) -> Any:
        """Ask for an effect, and write down what became of it."""
        async with self._turn():
            self.ledger.expect(subject, value)
            status, content = await self.ask("POST", path, **request)
            if status != 200:
                raise AssertionError(f"{path}: {status} {content}")
            self.ledger.know(subject, value, effect)
            return content

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait while everybody is to pause, and be waited for."""
        # It may have been cleared again before this task had its turn.
        while not self._go_on.is_set():
            await self._go_on.wait()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    # --- stories ----------------------------------------------------------------------------

    async def _story(self, number: int) -> None:
        network = number << 8
        localpart = f"{self._seed}{number}"
        user_id, address = self._homeserver.user(localpart), f"{localpart}@example.com"
        token = await self._register(localpart, network)
        account = Subject(Kind.ACCOUNT, token)
        urls = {"user_accepts": self._terms}
        await self._do(account, "accepted", "terms accepted", "terms", network=network, token=token, json=urls)
        if self._draw():
            await self._invite(user_id, address, network, token)
        sid = await self._prove(address, network, token)
        proof = {"sid": sid, "client_secret": _SECRET}
        binding = Subject(Kind.BINDING, address)
        bind = {**proof, "mxid": user_id}
        unbind = {"mxid": user_id, "threepid": {"medium": "email", "address": address}, **proof}
        for _ in range(3):
            await self._do(binding, user_id, "bound", "3pid/bind", network=network, token=token, json=bind)
            if self._draw():
                break
            await self._do(binding, NOBODY, "unbound", "3pid/unbind", network=network, json=unbind)
            if self._draw():
                break
        if self._draw():
            await self._do(account, "gone", "logged out", "account/logout", network=network, token=token, json={})

    async def _register(self, localpart: str, network: int) -> str:
        async with self._turn():
            openid = self._homeserver.openid(localpart)
            status, content = await self.ask("POST", "account/register", network=network, json=openid)
            assert status == 200, content
            token: str = content["token"]
            account = Subject(Kind.ACCOUNT, token)
            self.ledger.know(account, "owes terms", "registered")
        return token

    async def _invite(self, user_id: str, address: str, network: int, token: str) -> None:
        invite = {"medium": "email", "address": address, "room_id": "!room:example.org", "sender": user_id}
        async with self._turn():
            status, content = await self.ask("POST", "store-invite", network=network, token=token, json=invite)
            assert status == 200, content
            key = Subject(Kind.INVITE, content["public_keys"][1]["public_key"])
            self.ledger.know(key, "valid", "invited")
            self.ledger.invited.append((content["token"], address))

    async def _prove(self, address: str, network: int, token: str) -> str:
        """A validated session of an address."""
        async with self._turn():
            body = {"client_secret": _SECRET, "email": address, "send_attempt": 1}
            status, content = await self.ask(
                "POST", "validate/email/requestToken", network=network, token=token, json=body
            )
            assert status == 200, content
            sid: str = content["sid"]
            session = Subject(Kind.SESSION, sid)
            self.ledger.know(session, "open", "asked for a mail")
            self.ledger.mailed.append(address)
        mailed = await self._relay.token_for(address, seconds=_MAIL_SECONDS)
        body = {"sid": sid, "client_secret": _SECRET, "token": mailed}
        await self._do(
            session, "validated", "proven", "validate/email/submitToken", network=network, token=token, json=body
        )
        return sid

    def _draw(self) -> bool:
        return self._random.random() < 0.5

    # --- going on ---------------------------------------------------------------------------

    async def _go(self) -> None:
        while not self._ended:
            await self._go_on.wait()
            self.stories += 1
            try:
                await self._story(self.stories)
            except Unanswered:
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def going_on(self, *, people: int) -> AsyncIterator[None]:
        """Have people go through stories for as long as the block runs; what goes wrong with one is raised at its end."""
        _, offered = await self.ask("GET", "terms")
        self._terms = [policy["en"]["url"] for policy in offered["policies"].values()]
        self._go_on.set()
        tasks = [asyncio.create_task(self._go()) for _ in range(people)]
        try:
            yield
        finally:
            self._ended = True
            self._go_on.set()
            done = await asyncio.gather(*tasks, return_exceptions=True)
        for result in done:
            if isinstance(result, BaseException):
                raise result

    async def pause(self) -> None:
        """Have everybody stop between two requests, and return when they have."""
        self._go_on.clear()
        while self._under_way:
            await asyncio.sleep(0.005)

    def resume(self) -> None:
        self._go_on.set()

    # --- looking ----------------------------------------------------------------------------

    async def check(self, *, subjects: Iterable[Subject] | None = None) -> list[str]:
        """Compare the ledger with what the server says, while nobody changes anything; what is wrong."""
        subjects = list(self.ledger.facts if subjects is None else subjects)
        self.stories += 1
        localpart, network = f"checker{self.stories}", self.stories << 8
        openid = self._homeserver.openid(localpart)
        status, content = await self.ask_until_told("POST", "account/register", network=network, json=openid)
        assert status == 200, content
        looker = _Looker(self, token=content["token"], network=network)
        accepted = {"user_accepts": self._terms}
        await self.ask_until_told("POST", "terms", token=looker.token, network=network, json=accepted)
        return self.ledger.compare(await looker.look_at(subjects))

    def recent(self, count: int, *, and_of_others: int) -> list[Subject]:
        """The last subjects, and some of all others."""
        subjects = list(self.ledger.facts)
        others = subjects[:-count]
        return subjects[-count:] + self._random.sample(others, min(and_of_others, len(others)))

    def undelivered(self) -> list[str]:
        """What was promised to third parties and hasn't arrived.

        Nobody need be told of a binding that is no more, and its invites wait again.
        """
        missing = [f"mail to {address}" for address in self.ledger.mailed if not self._relay.tokens_for(address)]
        missing += [
            f"invite's mail to {address}" for _, address in self.ledger.invited if not self._relay.others_to(address)
        ]
        bound = self.ledger.bound
        missing += [
            f"notice of {address}" for address, user in bound.items() if not self._homeserver.told_of(address, user)
        ]
        missing += [
            f"invite of {address} in a notice"
            for token, address in self.ledger.invited
            if address in bound and not self._homeserver.invited(token)
        ]
        return missing

    async def delivered_within(self, seconds: float) -> list[str]:
        """Wait until everything has arrived; what hasn't in time."""
        deadline = time.monotonic() + seconds
        while (missing := self.undelivered()) and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        return missing

    def failures(self) -> list[Answered]:
        """Requests that weren't answered, or with an error of the server's; what stories expect they check themselves."""
        return [each for each in self.answers if each.status is None or each.status >= 500]


@dataclass(frozen=True, slots=True)
class _Looker:
    """Somebody who looks at what is."""

    load: Load
    token: str
    network: int

    async def look_at(self, subjects: Sequence[Subject]) -> dict[Subject, str]:
        seen = await self._bindings([subject for subject in subjects if subject.kind is Kind.BINDING])
        turns = asyncio.Semaphore(_AT_ONCE)

        async def look(subject: Subject) -> None:
            async with turns:
                seen[subject] = await self._look(subject)

        await asyncio.gather(*(look(each) for each in subjects if each.kind is not Kind.BINDING))
        return seen

    async def _bindings(self, subjects: Sequence[Subject]) -> dict[Subject, str]:
        _, details = await self._ask("GET", "hash_details")
        pepper = details["lookup_pepper"]
        seen: dict[Subject, str] = {}
        for start in range(0, len(subjects), _LOOKUP):
            by_hash = {hashed(subject.name, pepper): subject for subject in subjects[start : start + _LOOKUP]}
            query = {"algorithm": "sha256", "pepper": pepper, "addresses": list(by_hash)}
            status, answer = await self._ask("POST", "lookup", json=query)
            assert status == 200, answer
            seen |= {subject: answer["mappings"].get(digest, NOBODY) for digest, subject in by_hash.items()}
        return seen

    async def _look(self, subject: Subject) -> str:
        if subject.kind is Kind.ACCOUNT:
            status, content = await self.load.ask_until_told(
                "GET", "account", network=self.network, token=subject.name
            )
            errcode = content.get("errcode")
            return {
                (200, None): "accepted",
                (403, "M_TERMS_NOT_SIGNED"): "owes terms",
                (401, "M_UNAUTHORIZED"): "gone",
            }[status, errcode]
        if subject.kind is Kind.SESSION:
            query = f"sid={subject.name}&client_secret={_SECRET}"
            status, content = await self._ask("GET", f"3pid/getValidated3pid?{query}")
            errcode = content.get("errcode")
            return {
                (200, None): "validated",
                (400, "M_SESSION_NOT_VALIDATED"): "open",
                (404, "M_NO_VALID_SESSION"): NOBODY,
            }[status, errcode]
        _, content = await self._ask("GET", f"pubkey/ephemeral/isvalid?public_key={subject.name}")
        return "valid" if content["valid"] else "unknown"

    async def _ask(self, method: str, path: str, *, json: Any = None) -> tuple[int, Any]:
        return await self.load.ask_until_told(method, path, network=self.network, token=self.token, json=json)
