"""A line for each request, whole, in order with the rest of the log, and without anything of the caller's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog

from identity_server.observability import set_up_logging
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
