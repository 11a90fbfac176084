"""Fakes of the ports: the clock, randomness, homeservers and the mail relay's reach."""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from multidict import CIMultiDict, CIMultiDictProxy

from identity_server.domain.errors import HomeserverUnreachable, IdentityServerError, OpenIdTokenRefused
from identity_server.domain.identifiers import ServerName, UserId, parse_user_id, server_of
from identity_server.domain.ports import DeliveryError, Mail, TextMessage, TracedJob, TracedRequest
from identity_server.outbound.https import Answer
from identity_server.outbound.origin_keys import KEYS_PATH
from tests.support.homeserver import SigningHomeserver

START_MS = 1_750_000_000_000


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = START_MS

    def now_ms(self) -> int:
        return self.ms

    def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        self.ms += round(1000 * (seconds + 60 * (minutes + 60 * (hours + 24 * days))))


class FakeRandomness:
    """A stream of bytes that is the same in every run."""

    def __init__(self, seed: str = "seed") -> None:
        self._seed = seed
        self._count = 0

    def token_bytes(self, length: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(f"{self._seed} {self._count}".encode()).digest(length)


class FakeHomeservers:
    """Homeservers that know the OpenID tokens they were told of, and sign if they were told to."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[ServerName, str], UserId] = {}
        self.failure: IdentityServerError | None = None
        self.on_call: Callable[[], Awaitable[None]] | None = None
        self.notices = FakeNotices()
        self.signing: dict[str, SigningHomeserver] = {}
        self.keys_asked: list[ServerName] = []

    def add_signing(self, name: str) -> SigningHomeserver:
        """A homeserver that publishes its keys."""
        return self.signing.setdefault(name, SigningHomeserver(name))

    def issue(self, user_id: str) -> str:
        """An OpenID token for a user."""
        parsed = parse_user_id(user_id)
        token = f"openid-{len(self._tokens)}"
        self._tokens[server_of(parsed), token] = parsed
        return token

    async def openid_user_id(self, server_name: ServerName, openid_token: str) -> UserId:
        if self.on_call is not None:
            await self.on_call()
        if self.failure is not None:
            raise self.failure
        try:
            return self._tokens[server_name, openid_token]
        except KeyError:
            raise OpenIdTokenRefused from None

    async def request(self, server_name: ServerName, method: str, path: str, *, max_bytes: int) -> Answer:
        """Answer as a homeserver does that is asked for its keys."""
        assert (method, path) == ("GET", KEYS_PATH)
        self.keys_asked.append(server_name)
        if self.on_call is not None:
            await self.on_call()
        if self.failure is not None:
            raise self.failure
        if server_name not in self.signing:
            raise HomeserverUnreachable
        body = json.dumps(self.signing[server_name].published_keys()).encode()
        return Answer(status=200, headers=CIMultiDictProxy(CIMultiDict()), body=body)

    async def notify_bind(self, server_name: ServerName, association: Mapping[str, Any]) -> None:
        self.notices.tries += 1
        if self.notices.answers:
            raise self.notices.answers.popleft()
        self.notices.delivered.append((server_name, association))


class FakeNotices:
    """What homeservers were told, and what they say next."""

    def __init__(self) -> None:
        self.delivered: list[tuple[ServerName, Mapping[str, Any]]] = []
        self.tries = 0
        self.answers: deque[DeliveryError] = deque()


class FakeMail:
    """A relay that takes everything, unless told what to say next."""

    def __init__(self) -> None:
        self.sent: list[Mail] = []
        self.answers: deque[DeliveryError | Awaitable[None]] = deque()

    async def send(self, mail: Mail) -> None:
        if self.answers:
            answer = self.answers.popleft()
            if isinstance(answer, DeliveryError):
                raise answer
            await answer
        self.sent.append(mail)

    @property
    def last_token(self) -> str:
        """The token in the newest mail."""
        return self.sent[-1].variables["token"]


class FakeSms:
    """A provider that takes everything, unless told what to say next."""

    def __init__(self) -> None:
        self.sent: list[TextMessage] = []
        self.answers: deque[Exception | Awaitable[None]] = deque()

    async def send(self, message: TextMessage) -> None:
        if self.answers:
            answer = self.answers.popleft()
            if isinstance(answer, Exception):
                raise answer
            await answer
        self.sent.append(message)

    @property
    def last_code(self) -> str:
        """The code in the newest message."""
        found = re.search(r"\b[0-9]{6,8}\b", self.sent[-1].body)
        assert found is not None
        return found[0]


class FakeTraces:
    """Notes what it is told, all of it.

    Attributes:
        noted: as text.
    """

    def __init__(self) -> None:
        self.noted: list[str] = []

    def request(self, request: TracedRequest) -> None:
        self.noted.append(repr(request))

    def job(self, job: TracedJob) -> None:
        self.noted.append(repr(job))
