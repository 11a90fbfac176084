"""What is hardly HTTP: answered below the application, and like the application would."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tests.api.support import MARKER, V2, assert_has_cors, assert_refused, exchange, head, nothing_stored
from tests.support.harness import Harness, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

PING = f"GET {V2} HTTP/1.1\r\nHost: id\r\n"

UNREADABLE = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200 + b"\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "SMTP": b"EHLO zq8marker\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": f"GET {V2} HTTP/0.9\r\nHost: id\r\n\r\n".encode(),
    "HTTP/2.0": f"GET {V2} HTTP/2.0\r\nHost: id\r\n\r\n".encode(),
    "HTTP/3.0": f"GET {V2} HTTP/3.0\r\nHost: id\r\n\r\n".encode(),
    "no version": f"GET {V2} \r\nHost: id\r\n\r\n".encode(),
    "unknown method": b"BREW /zq8marker HTTP/1.1\r\nHost: id\r\n\r\n",
    "lower-case method": f"get {V2} HTTP/1.1\r\nHost: id\r\n\r\n".encode(),
    "no target": b"GET  HTTP/1.1\r\nHost: id\r\n\r\n",
    "relative target": b"GET zq8marker HTTP/1.1\r\nHost: id\r\n\r\n",
    "target with a space": b"GET /zq8 marker HTTP/1.1\r\nHost: id\r\n\r\n",
    "target with a raw byte": b"GET /\xff HTTP/1.1\r\nHost: id\r\n\r\n",
    "target with NUL": b"GET /\x00 HTTP/1.1\r\nHost: id\r\n\r\n",
    "absolute target with half a host": b"GET http://[::1/ HTTP/1.1\r\nHost: id\r\n\r\n",
    "absolute target with no such port": b"GET http://id:99999/ HTTP/1.1\r\nHost: id\r\n\r\n",
    "target too long": b"GET /" + b"z" * 20_000 + b" HTTP/1.1\r\nHost: id\r\n\r\n",
    "header too long": PING.encode() + b"X-Long: " + b"z" * 20_000 + b"\r\n\r\n",
    "header name too long": PING.encode() + b"X" * 20_000 + b": z\r\n\r\n",
    "too many headers": PING.encode() + b"X-Many: zq8marker\r\n" * 500 + b"\r\n",
    "header without a colon": PING.encode() + b"zq8marker\r\n\r\n",
    "header without a name": PING.encode() + b": zq8marker\r\n\r\n",
    "space before the colon": PING.encode() + b"X-Y : z\r\n\r\n",
    "folded header": PING.encode() + b"X-Y: a\r\n b\r\n\r\n",
    "NUL in a header": PING.encode() + b"X-Y: a\x00b\r\n\r\n",
    "two lengths": PING.encode() + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "length below nothing": PING.encode() + b"Content-Length: -1\r\n\r\n",
    "length in words": PING.encode() + b"Content-Length: zq8marker\r\n\r\n",
    "length beyond counting": PING.encode() + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "length and chunks": PING.encode() + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown transfer encoding": PING.encode() + b"Transfer-Encoding: zq8marker\r\n\r\n",
    "chunks before another encoding": PING.encode() + b"Transfer-Encoding: chunked, gzip\r\n\r\n",
    "chunk size in words": PING.encode() + b"Transfer-Encoding: chunked\r\n\r\nzq8\r\n",
    "chunk size below nothing": PING.encode() + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    "chunk size beyond counting": PING.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 32 + b"\r\n",
    "no host": f"GET {V2} HTTP/1.1\r\n\r\n".encode(),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_what_cannot_be_read(server: Harness, name: str, caplog: pytest.LogCaptureFixture) -> None:
    with capture_logs() as entries, nothing_stored(server):
        # One answer, then the end.
        answers = await exchange(server, UNREADABLE[name], replies=2)
    assert_refused(answers.only, 400, "M_UNRECOGNIZED")
    assert answers.closed
    assert "zzz" not in answers.only.body.decode()
    assert [entry for entry in entries if entry["log_level"] in {"warning", "error"}] == []
    assert [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []


async def test_garbage_after_a_good_request(server: Harness) -> None:
    answers = await exchange(server, head("GET", V2), None, UNREADABLE["TLS"], replies=3)
    assert [reply.status for reply in answers.replies] == [200, 400]
    assert_refused(answers.replies[1], 400, "M_UNRECOGNIZED")
    assert answers.closed


@pytest.mark.parametrize("rest", [b"zq8\r\n", b"-1\r\n", b"1\r\nab\r\n", b"\x00\r\n", b"f" * 40 + b"\r\n"])
@pytest.mark.parametrize("pause", [0.0, 0.03], ids=["at once", "later"])
async def test_chunks_that_go_wrong_get_one_answer(
    server: Harness, alice: User, rest: bytes, pause: float, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["Transfer-Encoding: chunked", f"Authorization: Bearer {alice.token}"]
    with capture_logs() as entries, nothing_stored(server):
        answers = await exchange(
            server, head("POST", f"{V2}/3pid/bind", *lines), b"1\r\n{\r\n", pause, rest, replies=2
        )
    assert_refused(answers.only, 400, answers.only.errcode or "")
    assert answers.only.errcode in {"M_NOT_JSON", "M_UNRECOGNIZED"}
    assert answers.closed
    assert [entry for entry in entries if entry["log_level"] == "error"] == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("target", ["/nothing", f"{V2}/account/logout", f"{V2}/store-invite"])
async def test_chunks_that_go_wrong_where_nobody_reads_them(
    server: Harness, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    with capture_logs() as entries:
        answers = await exchange(
            server, head("POST", target, "Transfer-Encoding: chunked"), b"1\r\n{\r\n", 0.02, b"zq8\r\n", replies=2
        )
    assert answers.only.status in {401, 404}
    assert answers.closed
    assert [entry for entry in entries if entry["log_level"] == "error"] == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_nothing_after_a_broken_body_is_taken_for_a_request(server: Harness, alice: User) -> None:
    lines = ["Transfer-Encoding: chunked", f"Authorization: Bearer {alice.token}"]
    smuggled = head("POST", f"{V2}/account/logout", f"Authorization: Bearer {alice.token}", "Content-Length: 0")
    for pause in (0.0, 0.03):
        answers = await exchange(
            server, head("POST", f"{V2}/3pid/bind", *lines), b"1\r\n{\r\n", pause, b"zq8\r\n" + smuggled, replies=3
        )
        assert len(answers.replies) == 1
        assert answers.closed
    assert (await server.get("account", as_=alice)).status == 200


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_old_clients_are_answered_and_let_go(server: Harness, version: str) -> None:
    request = f"GET {V2} HTTP/{version}\r\nHost: id\r\nConnection: close\r\n\r\n".encode()
    answers = await exchange(server, request, replies=2)
    assert (answers.only.status, answers.only.json, answers.closed) == (200, {}, True)
    assert_has_cors(answers.only.headers)


async def test_errors_over_http_1_0(server: Harness) -> None:
    for target, status, errcode in (
        (f"{V2}/nothing", 404, "M_UNRECOGNIZED"),
        (f"{V2}/account", 401, "M_UNAUTHORIZED"),
        (f"{V2}/pubkey/isvalid", 400, "M_MISSING_PARAMS"),
    ):
        answers = await exchange(server, f"GET {target} HTTP/1.0\r\n\r\n".encode(), replies=2)
        assert_refused(answers.only, status, errcode)
        assert answers.closed


@pytest.mark.parametrize("target", [f"{V2}/account", f"{V2}/terms", "/nothing", V2])
async def test_expectations_that_cannot_be_met(server: Harness, target: str) -> None:
    answers = await exchange(server, head("GET", target, f"Expect: {MARKER}"))
    assert_refused(answers.only, 417, "M_UNRECOGNIZED")


async def test_a_client_that_waits_for_a_go_ahead_gets_it(server: Harness, alice: User) -> None:
    lines = [f"Authorization: Bearer {alice.token}", "Content-Length: 19", "Expect: 100-continue"]
    answers = await exchange(server, head("POST", f"{V2}/terms", *lines), None, b'{"user_accepts":[]}', replies=2)
    assert [reply.status for reply in answers.replies] == [100, 200]


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.0", MARKER])
async def test_upgrades_are_passed_over(server: Harness, alice: User, protocol: str) -> None:
    lines = [
        f"Authorization: Bearer {alice.token}",
        "Connection: Upgrade, HTTP2-Settings",
        f"Upgrade: {protocol}",
        "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
        "Content-Length: 19",
    ]
    answers = await exchange(server, head("POST", f"{V2}/terms", *lines) + b'{"user_accepts":[]}')
    assert (answers.only.status, answers.only.json) == (200, {})


@pytest.mark.parametrize("target", ["id:443", "/", V2, "[::1]:443"])
async def test_no_tunnels(server: Harness, target: str) -> None:
    answers = await exchange(server, head("CONNECT", target))
    assert answers.only.status in {400, 404, 405}
    assert_refused(answers.only, answers.only.status, "M_UNRECOGNIZED")


async def test_the_host_that_a_request_names_means_nothing(server: Harness, alice: User) -> None:
    for host in ("evil.example", "[\xff", "a b", "", "evil.example:99999", "evil.example/x"):
        request = f"GET {V2}/account HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {alice.token}\r\n\r\n"
        answers = await exchange(server, request.encode("latin-1"))
        assert (answers.only.status, answers.only.json) == (200, {"user_id": alice.user_id})


async def test_many_requests_at_once_are_answered_in_their_order(server: Harness) -> None:
    targets = [V2, f"{V2}/nothing", f"{V2}/account", f"{V2}/pubkey/ed25519:0"] * 20
    answers = await exchange(server, b"".join(head("GET", target) for target in targets), replies=len(targets))
    assert [reply.status for reply in answers.replies] == [200, 404, 401, 200] * 20
