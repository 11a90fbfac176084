"""Codes against someone who guesses, as fast and as often as the server lets them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from identity_server.domain.credentials import CodeHasher
from identity_server.domain.errors import RateLimited, SessionExpired, TokenIncorrect
from identity_server.domain.identifiers import ClientSecret, SessionId, UserId
from identity_server.domain.ports import TextMessage
from identity_server.domain.rate_limits import RateLimit
from identity_server.rendering.templates import Templates
from identity_server.rendering.texts import Texts
from identity_server.services.outbox.port import Outcome
from identity_server.services.outbox.texts import text_from_payload
from identity_server.services.validation.phone import PhoneRequest, PhoneRules, PhoneValidation
from identity_server.services.validation.slow_codes import SlowCodes
from identity_server.storage.database import Database
from identity_server.storage.repositories.jobs import Job
from tests.support.databases import open_database
from tests.support.fakes import FakeClock, FakeRandomness

ALICE = UserId("@alice:example.org")
SECRET = ClientSecret("secret")


class CountingHasher(CodeHasher):
    """Counts comparisons, and how many of them run at once."""

    def __init__(self) -> None:
        super().__init__(lambda: {"key": b"k" * 32})
        self.compared = 0
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()

    def matches(self, hashed: str, owner: str, code: str) -> bool:
        with self._lock:
            self.compared += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            return super().matches(hashed, owner, code)
        finally:
            with self._lock:
                self._now -= 1


class Outbox:
    """Keeps what was to be sent."""

    def __init__(self) -> None:
        self.sent: list[TextMessage] = []

    def start(self, job: Job) -> None:
        raise NotImplementedError

    async def attempt(self, job: Job) -> Outcome:
        self.sent.append(text_from_payload(job.payload))
        return Outcome.DONE


class Phones:
    """The service, and what it is made of."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = FakeClock()
        self.hasher = CountingHasher()
        self.outbox = Outbox()
        self.service = PhoneValidation(
            database=database,
            outbox=self.outbox,
            clock=self.clock,
            randomness=FakeRandomness(),
            codes=SlowCodes(self.hasher, randomness=FakeRandomness()),
            rules=PhoneRules(
                offered=True,
                rejected_calling_codes=frozenset(),
                per_number=RateLimit(burst=100, interval_ms=1),
                per_calling_code=RateLimit(burst=100, interval_ms=1),
                code_domain="id.example.org",
                code_digits=6,
            ),
            texts=Texts(Templates.load(server_name="id.example.org"), validation="{token}"),
        )

    async def ask(self, secret: str = SECRET, attempt: int = 1) -> SessionId:
        asked = PhoneRequest("07700900123", "GB", ClientSecret(secret), send_attempt=attempt)
        sid, _ = await self.service.request_code(asked, requested_by=ALICE)
        return sid

    async def request(self, secret: str = SECRET, attempt: int = 1) -> tuple[SessionId, str]:
        """Ask, and read what came."""
        sid = await self.ask(secret, attempt)
        return sid, self.outbox.sent[-1].body[:6]

    async def submit(self, sid: SessionId, code: str, secret: str = SECRET) -> type[Exception] | None:
        """What comes of it: the kind of error, or None."""
        try:
            await self.service.submit_code(sid=sid, client_secret=ClientSecret(secret), code=code)
        except (TokenIncorrect, SessionExpired, RateLimited) as error:
            return type(error)
        return None


@pytest.fixture
async def phones(tmp_path: Path) -> AsyncIterator[Phones]:
    async with open_database(tmp_path) as database:
        yield Phones(database)


def wrong(code: str, number: int) -> str:
    """The `number`th of the codes that are not the right one."""
    return f"{(int(code) + 1 + number) % 1_000_000:06}"


async def test_a_thousand_guesses_at_once_get_five_comparisons(phones: Phones) -> None:
    # On PostgreSQL all of them wait for a few connections.
    phones.database._transaction_seconds = 600
    sid, code = await phones.request()
    answers = await asyncio.gather(*(phones.submit(sid, wrong(code, number)) for number in range(1000)))
    assert phones.hasher.compared == 5
    assert phones.hasher.most_at_once <= 2
    assert answers.count(TokenIncorrect) == 5
    assert answers.count(SessionExpired) == 995
    assert await phones.submit(sid, code) is SessionExpired, "the right code comes too late"
    assert phones.hasher.compared == 5


async def test_a_newer_code_gives_no_new_tries(phones: Phones) -> None:
    sid, code = await phones.request()
    for number in range(4):
        assert await phones.submit(sid, wrong(code, number)) is TokenIncorrect
    again, code = await phones.request(attempt=2)
    assert again == sid
    assert await phones.submit(sid, wrong(code, 0)) is TokenIncorrect
    assert await phones.submit(sid, code) is SessionExpired


async def test_the_fifth_try_may_be_right(phones: Phones) -> None:
    sid, code = await phones.request()
    for number in range(4):
        await phones.submit(sid, wrong(code, number))
    for _ in range(7):
        assert await phones.submit(sid, code) is None, "a right one costs no try"


async def test_the_right_code_counts_although_wrong_ones_come_at_the_same_time(phones: Phones) -> None:
    sid, code = await phones.request()
    right = asyncio.create_task(phones.submit(sid, code))
    while not phones.hasher.compared:
        await asyncio.sleep(0)
    # It is being compared; whoever comes now must not take its try away.
    answers = await asyncio.gather(*(phones.submit(sid, wrong(code, number)) for number in range(50)))
    assert await right is None
    assert answers.count(None) == 0


async def test_a_number_has_fifteen_wrong_tries_a_day_over_all_sessions(phones: Phones) -> None:
    for session in range(3):
        sid, code = await phones.request(f"s{session}")
        for number in range(5):
            assert await phones.submit(sid, wrong(code, number), f"s{session}") is TokenIncorrect
        phones.clock.advance(hours=1)
    sid, code = await phones.request("s3")
    assert await phones.submit(sid, code, "s3") is RateLimited
    assert phones.hasher.compared == 15
    phones.clock.advance(hours=21)
    sid, code = await phones.request("s4")
    assert await phones.submit(sid, code, "s4") is None, "the first five are a day old"


async def test_sessions_of_one_number_share_the_day_at_once_too(phones: Phones) -> None:
    sessions = [(await phones.request(f"s{number}")) + (f"s{number}",) for number in range(6)]
    tries = (phones.submit(sid, wrong(code, number), secret) for sid, code, secret in sessions for number in range(5))
    answers = await asyncio.gather(*tries)
    assert phones.hasher.compared == 15
    assert answers.count(RateLimited) == 15


async def test_parallel_requests_make_one_session_and_one_message(phones: Phones) -> None:
    # One that only repeats another may be answered before the message is out.
    sids = await asyncio.gather(*(phones.ask() for _ in range(5)))
    assert len(set(sids)) == 1
    assert len(phones.outbox.sent) == 1


async def test_parallel_reminders_leave_one_code_that_is_good(phones: Phones) -> None:
    sid, _ = await phones.request()
    await asyncio.gather(*(phones.ask(attempt=attempt) for attempt in range(2, 6)))
    results = [await phones.submit(sid, message.body[:6]) for message in phones.outbox.sent]
    assert results.count(None) == 1
