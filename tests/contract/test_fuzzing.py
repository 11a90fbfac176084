"""Whatever the specification document allows or forbids is sent, and no answer may be out of form.

The examples are the same in every run, so that a failure seen once is seen again.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

from identity_server.domain.errors import HomeserverUnreachable
from identity_server.domain.identifiers import ServerName, UserId
from tests.contract import document
from tests.contract.document import Answer, assert_keeps_to
from tests.support.fakes import FakeHomeservers
from tests.support.harness import Fakes, Harness, User, running

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(not document.IS_HERE, reason=document.WHY_SKIPPED),
]

EXAMPLES = 12
REGISTER: Final = "POST /_matrix/identity/v2/account/register"
HOME: Final = "home.example"


class _FarAway(FakeHomeservers):
    """Nobody but one homeserver can be reached."""

    async def openid_user_id(self, server_name: ServerName, openid_token: str) -> UserId:
        if server_name != HOME:
            raise HomeserverUnreachable
        return await super().openid_user_id(server_name, openid_token)


class _Live:
    """A server in a thread with a loop of its own, as the client here blocks."""

    def __init__(self, harness: Harness, loop: asyncio.AbstractEventLoop) -> None:
        self.harness = harness
        self._loop = loop

    def register(self) -> User:
        return asyncio.run_coroutine_threadsafe(self.harness.register(f"@fuzzer:{HOME}"), self._loop).result(120)


@contextmanager
def _loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Live]:
    """The server under test."""
    fakes = Fakes()
    fakes.homeservers = _FarAway()
    with _loop_in_a_thread() as loop:
        context = running(tmp_path_factory.mktemp("fuzzed"), fakes=fakes)
        harness = asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(120)
        try:
            yield _Live(harness, loop)
        finally:
            asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(120)


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """One connection for all requests."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


@cache
def api_operations() -> dict[str, Any]:
    """What Schemathesis makes of the document, by `METHOD /path`."""
    schema = schemathesis.openapi.from_dict(document.document())
    found = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
    return {operation.label: operation for operation in found}


def takes_nothing(operation: str) -> bool:
    """Whether there is nothing in a request that could be wrong."""
    method, _, path = operation.partition(" ")
    described = document.document()["paths"][path][method.lower()]
    return not any(key in described for key in ("parameters", "requestBody", "security")) or "{" in path


def for_every_case(operation: str, mode: GenerationMode, check: Callable[[Case[Any]], None]) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=api_operations()[operation].as_strategy(generation_mode=mode))
    def each(case: Case[Any]) -> None:
        check(case)

    each()


@pytest.mark.parametrize("operation", document.operations())
@pytest.mark.parametrize("known", [True, False], ids=["with an account", "as a stranger"])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
def test_no_answer_is_out_of_form(
    live: _Live, session: requests.Session, operation: str, mode: GenerationMode, *, known: bool
) -> None:
    if mode is GenerationMode.NEGATIVE and takes_nothing(operation):
        pytest.skip("nothing in this request can be wrong")
    user = live.register() if known else None

    def check(case: Case[Any]) -> None:
        # Rate limits have recovered by the next request.
        live.harness.clock.advance(minutes=10)
        if user is not None:
            case.headers["Authorization"] = f"Bearer {user.token}"
        response = case.call(base_url=live.harness.base, session=session, allow_redirects=False, timeout=120)
        answer = Answer(response.status_code, flat(response.headers), response.content or b"")
        assert_in_form(operation, answer, known=known)

    for_every_case(operation, mode, check)


def flat(headers: dict[str, list[str]]) -> dict[str, str]:
    return {name.title(): ", ".join(values) for name, values in headers.items()}


def assert_in_form(operation: str, answer: Answer, *, known: bool) -> None:
    assert_keeps_to(operation, answer)
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        assert (operation, answer.status) == (REGISTER, HTTPStatus.SERVICE_UNAVAILABLE)


def test_a_homeserver_that_cannot_be_reached(live: _Live, session: requests.Session) -> None:
    body = {"access_token": "x", "token_type": "Bearer", "matrix_server_name": "far.example", "expires_in": 1}
    response = session.post(
        f"{live.harness.base}{REGISTER.removeprefix('POST ')}", data=json.dumps(body), timeout=120
    )
    assert_keeps_to(REGISTER, Answer(response.status_code, response.headers, response.content))
    assert (response.status_code, response.json()["errcode"]) == (503, "M_UNKNOWN")


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis and Schemathesis like to leave files where they run."""
    monkeypatch.chdir(tmp_path)
