"""A line for each request, whole, in order with the rest of the log, and without anything of the caller's."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from time import monotonic

import pytest
import structlog
from multidict import CIMultiDict

from identity_server.api.request_log import RequestLog
from identity_server.metrics import Metrics
from identity_server.observability import set_up_logging
from tests.support.fakes import FakeClock
from tests.support.harness import running


@pytest.fixture(params=["json", "console"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    path = tmp_path / "log"
    set_up_logging(level="INFO", form=request.param, path=path)
    return request.param, path


async def test_requests_are_logged_by_their_row_alone(log: tuple[str, Path], tmp_path: Path) -> None:
    form, path = log
    async with running(tmp_path, settings={"GENERAL__LOG_FORMAT": form}) as server:
        alice = await server.register()
        await server.get("account", as_=alice)
        await server.get("/_matrix/identity/v2/pubkey/alice@example.org")
        await server.request("PROPFIND", "/alice@example.org")
        await server.request("OPTIONS", "lookup")
        await server.get("/health")
        structlog.get_logger("test").warning("marker")
    lines = path.read_text().splitlines()
    text = "\n".join(lines)
    assert "alice" not in text
    assert alice.token not in text
    requests = [line for line in lines if "milliseconds" in line]
    if form == "json":
        parsed = [json.loads(line) for line in requests]
        assert [(each["method"], each["route"], each["status"]) for each in parsed] == [
            ("POST", "/_matrix/identity/v2/account/register", 200),
            ("GET", "/_matrix/identity/v2/account", 200),
            ("GET", "/_matrix/identity/v2/pubkey/{key_id}", 404),
            ("other", "unknown", 404),
            ("OPTIONS", "unknown", 200),
        ]
        assert len({each["request_id"] for each in parsed}) == 5
        assert all(each["timestamp"].endswith("Z") for each in parsed)
    else:
        assert len(requests) == 5
        assert "method=GET route=/_matrix/identity/v2/account status=200" in requests[1]
    # What was logged afterwards stands afterwards, though lines of requests wait a moment.
    assert "marker" in lines[lines.index(requests[-1]) + 1]


async def test_what_another_thread_logs_leaves_the_notes_to_the_event_loop(log: tuple[str, Path]) -> None:
    form, path = log
    requests = RequestLog(form=form, clock=FakeClock(), metrics=Metrics())
    requests.note("abc-1", monotonic(), "GET", "/health/of", 200)
    thread = Thread(target=structlog.get_logger("test").warning, args=["from elsewhere"])
    thread.start()
    thread.join()
    assert "from elsewhere" in path.read_text()
    assert "milliseconds" not in path.read_text()
    requests.close()
    assert path.read_text().count("milliseconds") == 1


async def test_nothing_of_a_query_a_body_or_a_caller_is_logged(log: tuple[str, Path], tmp_path: Path) -> None:
    form, path = log
    settings = {"GENERAL__LOG_FORMAT": form, "HTTP__TRUSTED_PROXIES": "127.0.0.1"}
    async with running(tmp_path, settings=settings) as server:
        alice = await server.register()
        hops = {"X-Forwarded-For": "198.51.100.77", "User-Agent": "Element/1.2", "Referer": "https://chat.example/x"}
        await server.get(f"hash_details?access_token={alice.token}", headers=hops)
        query = {"sid": "5551234567", "client_secret": "monkeys_are_GREAT", "token": "t0ken_of_a_mail"}
        await server.get("validate/email/submitToken", params=query, headers=hops)
        await server.post("validate/email/requestToken", {"email": "alice@example.com", **query}, as_=alice)
        await server.post("/_matrix/identity/privacy", data={"email": "alice@example.com"}, headers=hops)
        await server.get("/_matrix/identity/v2/nowhere/alice@example.com?address=447700900123", headers=hops)
    text = path.read_text()
    assert text.count("milliseconds") == 6
    given = ("alice", "447700900123", alice.token, *query.values(), "198.51.100.77", "198.51", *hops.values())
    assert [value for value in given if value in text] == []
    assert "?" not in text


async def test_lines_of_one_request_share_its_id(
    log: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, path = log
    async with running(tmp_path, settings={"GENERAL__LOG_FORMAT": form}) as server:

        async def fails(*_arguments: object, **_more: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(server.system.services.lookup, "hash_details", fails)
        alice = await server.register()
        assert (await server.get("hash_details", as_=alice)).status == 500
    if form == "json":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        failed = next(each for each in lines if each["event"] == "request.failed")
        answered = next(each for each in lines if each.get("status") == 500)
        assert failed["request_id"] == answered["request_id"]
        assert "ZeroDivisionError" in failed["exception"]


GIVEN = "0123456789abcdef0123456789abcdef"
"""As nginx makes them: as long as a token."""
BEHIND_PROXY = {"HTTP__TRUSTED_PROXIES": "127.0.0.1", "HTTP__REQUEST_ID_HEADER": "X-Request-ID"}


async def test_answer_says_what_the_log_calls_its_request(log: tuple[str, Path], tmp_path: Path) -> None:
    form, path = log
    async with running(tmp_path, settings={"GENERAL__LOG_FORMAT": form}) as server:
        replies = [
            await server.get("/_matrix/identity/versions", headers={"X-Request-ID": GIVEN}),
            await server.get("account"),
            await server.get("/nothing/there"),
            await server.request("OPTIONS", "lookup"),
            await server.get("/_matrix/identity/privacy"),
        ]
    ids = [reply.headers["X-Request-ID"] for reply in replies]
    assert len(set(ids)) == len(ids)
    requests = [line for line in path.read_text().splitlines() if "milliseconds" in line]
    for request_id, line in zip(ids, requests, strict=True):
        assert request_id in line
    assert GIVEN not in path.read_text(), "nobody has said that proxies give ids"


async def test_id_of_a_trusted_proxy_is_kept(
    log: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, path = log
    async with running(tmp_path, settings={"GENERAL__LOG_FORMAT": form, **BEHIND_PROXY}) as server:

        async def fails(*_arguments: object, **_more: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(server.system.services.lookup, "hash_details", fails)
        alice = await server.register()
        reply = await server.get("hash_details", as_=alice, headers={"X-Request-ID": GIVEN})
    assert reply.headers["X-Request-ID"] == GIVEN
    failed, answered = (line for line in path.read_text().splitlines() if GIVEN in line)
    assert "request.failed" in failed
    assert "500" in answered


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        pytest.param({"HTTP__TRUSTED_PROXIES": "192.0.2.1"}, [GIVEN], id="of a stranger"),
        pytest.param({}, [GIVEN, GIVEN], id="two of them"),
        pytest.param({}, ["alice@example.org"], id="an address"),
        pytest.param({}, ["x" * 81], id="too long"),
        pytest.param({}, ["short-x"], id="too short"),
        pytest.param({}, ['abcdefgh" level="critical'], id="a field of the log"),
    ],
)
async def test_ids_that_are_not_taken(settings: dict[str, str], given: list[str], tmp_path: Path) -> None:
    path = tmp_path / "log"
    set_up_logging(level="INFO", form="json", path=path)
    async with running(tmp_path, settings={**BEHIND_PROXY, **settings}) as server:
        headers = CIMultiDict([("X-Request-ID", value) for value in given])
        reply = await server.get("/_matrix/identity/versions", headers=headers)
    assert reply.headers["X-Request-ID"] not in given
    assert not any(value in path.read_text() for value in given)
