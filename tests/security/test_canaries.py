"""Every test of the harness ends with a search for leaks, and that search finds what is planted for it."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from identity_server.domain.ports import TracedRequest
from tests.support.canaries import Leaked
from tests.support.databases import write_rows
from tests.support.fakes import START_MS
from tests.support.harness import SECRET, Harness, User, running

EMAIL = "walter.kestrel@example.com"
NUMBER = "447700900123"
CLIENT = "198.51.100.77"
_PROXY = {"HTTP__TRUSTED_PROXIES": "127.0.0.1"}

Plant = Callable[[Harness, User], None]


async def _trust(server: Harness) -> User:
    """Have a server know one of everything that must stay secret."""
    alice = await server.register()
    await server.bound(alice, EMAIL)
    await server.find(alice, EMAIL)
    text = {"client_secret": SECRET, "phone_number": f"+{NUMBER}", "country": "GB", "send_attempt": 1}
    assert (await server.post("validate/msisdn/requestToken", text, as_=alice)).status == 200
    await server.get("account", as_=alice, headers={"X-Forwarded-For": CLIENT})
    return alice


def _in_database(text: str) -> Plant:
    return lambda server, _: write_rows(
        server.config.db.file, f"UPDATE accounts SET agreed_master_version = '{text}'"
    )


def _in_log(text: str) -> Plant:
    return lambda *_: structlog.get_logger("test").debug("planted", value=text)


def _overwritten(server: Harness, _: User) -> None:
    file = server.config.db.file
    write_rows(file, f"UPDATE accounts SET agreed_master_version = '{EMAIL}'")
    write_rows(file, "UPDATE accounts SET agreed_master_version = NULL")


def _in_index(server: Harness, alice: User) -> None:
    (server.config.index_folder / "left.over").write_text(f"x{alice.token}x")


def _in_metrics(server: Harness, _: User) -> None:
    server.metrics.count_job("mail", EMAIL)


def _in_traces(server: Harness, _: User) -> None:
    server.traces.request(TracedRequest("1", "GET", f"/pubkey/{EMAIL}", 200, START_MS, 0.1, None))


def _in_library_log(server: Harness, alice: User) -> None:
    logging.getLogger("some.library").warning("sent %s", alice.token)


def _in_traceback(*_: object) -> None:
    try:
        int(EMAIL)
    except ValueError:
        structlog.get_logger("test").exception("planted")


def _in_error(server: Harness, _: User) -> None:
    content = {"errcode": "M_UNKNOWN", "error": f"{EMAIL} is no good"}
    server.canaries.note_reply(400, content["error"].encode(), content)


def _mailed_token(server: Harness, alice: User) -> None:
    _in_log(server.mail.last_token[:25])(server, alice)


def _texted_code(server: Harness, alice: User) -> None:
    _in_log(f"code={server.sms.last_code}")(server, alice)


def _root_key(server: Harness, alice: User) -> None:
    _in_log((server.config.crypto.key_dir / "root.key").read_text().strip())(server, alice)


PLANTED: dict[str, Plant] = {
    "an address in the database": _in_database(EMAIL),
    "an address in base64": _in_database(b64encode(f"x{EMAIL}".encode()).decode()),
    "an address in hex": _in_database(EMAIL.encode().hex()),
    "a phone number in the database": _in_database(NUMBER),
    "a client secret in the database": _in_database(SECRET),
    "a token in the index": _in_index,
    "an address in the metrics": _in_metrics,
    "an address in the traces": _in_traces,
    "an address in the log": _in_log(EMAIL.upper()),
    "an IP address in the log": _in_log(f"from {CLIENT}, port 1"),
    "a token in a library's log": _in_library_log,
    "an address in a traceback": _in_traceback,
    "an address in an error": _in_error,
    "half of a mailed token": _mailed_token,
    "a texted code": _texted_code,
    "the root key": _root_key,
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
async def test_what_is_planted_is_found(tmp_path: Path, plant: Plant) -> None:
    with pytest.raises(Leaked) as found:
        async with running(tmp_path, settings=_PROXY) as server:
            plant(server, await _trust(server))
    assert "kestrel" not in str(found.value)


@pytest.mark.sqlite(reason="it reads the files")
async def test_what_has_been_overwritten_is_found(tmp_path: Path) -> None:
    with pytest.raises(Leaked, match="database"):
        async with running(tmp_path, settings=_PROXY) as server:
            _overwritten(server, await _trust(server))


async def test_where_nothing_is_planted_nothing_is_found(tmp_path: Path) -> None:
    async with running(tmp_path, settings=_PROXY) as server:
        await _trust(server)


async def test_a_test_that_fails_says_why_and_nothing_else(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, settings=_PROXY) as server:
            _in_metrics(server, await _trust(server))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await test()
