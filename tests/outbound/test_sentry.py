"""Reports to Sentry hold what leads to a fault in the code, and nothing of anybody's."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import structlog

from identity_server.domain.identifiers import Medium, Threepid
from identity_server.observability import REQUEST_ID, set_up_logging
from tests.support.harness import running
from tests.support.sink import Sink, sink

pytest.importorskip("sentry_sdk", reason="the environment is older than requirements-dev.lock")

from identity_server.outbound.sentry import SentryReports

CANARIES = (
    "alice@example.com",
    "@alice:example.org",
    "monkeys_are_GREAT",
    "syt_c2VjcmV0_dG9rZW4",
    "203.0.113.77",
    "447700900123",
    "email_contents",
)
_log = structlog.get_logger("identity_server.test")


@asynccontextmanager
async def reporting(log: Path) -> AsyncIterator[tuple[Sink, SentryReports]]:
    """Logging as a worker sets it up, with reports; what was reported is there when the block ends."""
    set_up_logging(level="INFO", form="json", path=log)
    async with sink() as found:
        reports = reports_to(found.base)
        logging.getLogger().addHandler(reports)
        try:
            yield found, reports
        finally:
            logging.getLogger().removeHandler(reports)
            with pytest.MonkeyPatch.context() as patch:
                # It need not be quick.
                patch.setattr("identity_server.outbound.sentry._LAST_SECONDS", 60.0)
                await asyncio.to_thread(reports.close)


def reports_to(base: str) -> SentryReports:
    dsn = base.replace("://", "://key@") + "/7"
    return SentryReports(dsn, release="matrix-identity-server@1", server_name="id.example.org")


def events(found: Sink) -> list[dict[str, Any]]:
    """The events in all envelopes: each a line of JSON after the line that says so."""
    reported = []
    for _, body in found.received:
        lines = body.split(b"\n")
        reported += [
            json.loads(lines[at + 1]) for at, line in enumerate(lines) if line.startswith(b'{"type":"event"')
        ]
    return reported


def fails(secret: str, **_more: object) -> None:
    """What fails has secrets in its arguments, its variables and its words, and so has what it follows from."""
    address = Threepid(Medium.EMAIL, CANARIES[0])
    copied = f"{secret} {address.address}"
    try:
        dict[str, str]()[copied]
    except KeyError as error:
        error.add_note(f"about {secret}")
        raise ValueError(" ".join(CANARIES)) from error


async def test_nothing_of_anybody_is_reported(tmp_path: Path) -> None:
    async with reporting(tmp_path / "log") as (found, _):
        REQUEST_ID.set("abc-1")
        for canary in CANARIES:
            _log.info("before", about=canary)
        try:
            fails(CANARIES[3], body={"client_secret": CANARIES[2], "ip": CANARIES[4]})
        except ValueError as error:
            _log.error(
                "request.failed", route="/_matrix/x/{sid}", address=CANARIES[0], mxid=CANARIES[1], exc_info=error
            )
            logging.getLogger("asyncio").exception("Task failed: %s", CANARIES[0])
    everything = b"\n".join(body for _, body in found.received).decode()
    assert [canary for canary in CANARIES if canary in everything] == []
    ours, foreign = events(found)
    assert ours["transaction"] == "/_matrix/x/{sid}"
    assert ours["tags"] == {"event": "request.failed", "request_id": "abc-1"}
    assert ours["release"] == "matrix-identity-server@1"
    assert ours["server_name"] == "id.example.org"
    assert [each["type"] for each in ours["exception"]["values"]] == ["KeyError", "ValueError"]
    *_, last = ours["exception"]["values"][1]["stacktrace"]["frames"]
    assert last["function"] == "fails"
    assert "from error" in last["context_line"]
    assert foreign["tags"] == {"event": "asyncio"}


async def test_a_fault_is_reported_with_its_route_and_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reporting(tmp_path / "log") as (found, _), running(tmp_path) as server:
        alice = await server.register()

        async def breaks(**given: object) -> None:
            raise RuntimeError(str(given))

        monkeypatch.setattr(server.system.services.lookup, "lookup", breaks)
        query = {"algorithm": "sha256", "pepper": CANARIES[6], "addresses": [CANARIES[0]]}
        headers = {"X-Forwarded-For": CANARIES[4]}
        reply = await server.post(f"lookup?access_token={CANARIES[3]}", query, as_=alice, headers=headers)
        assert reply.status == 500
        expected = await server.post("lookup", {**query, "algorithm": 1}, as_=alice)
        assert expected.status == 400
    (event,) = events(found)
    assert event["transaction"] == "/_matrix/identity/v2/lookup"
    assert event["tags"]["request_id"] == reply.headers["X-Request-ID"]
    assert event["exception"]["values"][0]["type"] == "RuntimeError"
    everything = b"\n".join(body for _, body in found.received).decode()
    assert [each for each in (*CANARIES, alice.token, alice.user_id, "127.0.0.1:") if each in everything] == []


async def test_one_kind_of_fault_is_reported_once_a_minute(tmp_path: Path) -> None:
    async with reporting(tmp_path / "log") as (found, reports):
        for number in range(50):
            for route in ("/a", "/b"):
                _log.error("request.failed", route=route, exc_info=ValueError(number))
        reports._quiet_until = {what: until - 61 for what, until in reports._quiet_until.items()}
        _log.error("request.failed", route="/a", exc_info=ValueError())
    assert [event["transaction"] for event in events(found)] == ["/a", "/b", "/a"]


async def test_what_is_no_fault_is_not_reported(tmp_path: Path) -> None:
    async with reporting(tmp_path / "log") as (found, _):
        _log.error("job.given_up")
        _log.warning("transaction.follower_failed", exc_info=ValueError())
    assert found.received == []


@pytest.mark.parametrize("listens", [True, False], ids=["silent", "down"])
async def test_a_sentry_that_is_away_keeps_nobody_waiting(tmp_path: Path, *, listens: bool) -> None:
    set_up_logging(level="INFO", form="json", path=tmp_path / "log")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        reports = reports_to(f"http://127.0.0.1:{silent.getsockname()[1]}")
        logging.getLogger().addHandler(reports)
        started = monotonic()
        for number in range(100):
            _log.error("request.failed", route=f"/{number}", exc_info=ValueError())
        logging.getLogger().removeHandler(reports)
        await asyncio.to_thread(reports.close)
        # Closing is patient for two seconds; a line of the log that waited for Sentry would take a hundred times as long.
        assert monotonic() - started < 60
    assert (tmp_path / "log").read_text().count("request.failed") == 100
