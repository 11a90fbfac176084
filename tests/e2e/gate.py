"""What stands before a server, as an operator's reverse proxy does: lets requests through, or doesn't.

The one rule: what passes through is not changed, and every request is remembered.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.e2e.certificates import Certificate
from tests.e2e.processes import PATIENCE_SECONDS

ON_BIND = "/_matrix/federation/v1/3pid/onbind"

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


@dataclass(frozen=True, slots=True)
class Visit:
    """A request that was answered, or that nobody waited for any more.

    Attributes:
        status: of the answer; 0 if it was held until its sender had gone.
        caller: the program that asked, as it names itself.
    """

    path: str
    status: int
    caller: str
    body: bytes = field(repr=False)

    def json(self) -> Any:
        return json.loads(self.body)


class Gate:
    """A TLS reverse proxy on loopback.

    Args:
        certificate: its own.
        ca: what the server behind it is verified by; None if that speaks plain HTTP.
        address: where it listens; port 0 means any.

    Attributes:
        port: where it listens.
        behind: host and port of the server; nobody is there before it is set.
        files: what it answers by itself, by path.
    """

    def __init__(
        self, *, certificate: Certificate, ca: ssl.SSLContext | None, address: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self.behind: tuple[str, int] | None = None
        self.files: dict[str, bytes] = {}
        self._ca = ca
        self._changed = threading.Condition()
        self._failures: Counter[str] = Counter()
        self._held: set[str] = set()
        self._waiting: Counter[str] = Counter()
        self._visits: list[Visit] = []
        self._server = _Server(address, _handler(self))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate.chain, certificate.key)
        # The handshake is left to the connection's own thread: a caller that stalls holds nobody up.
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_address[1]

    def open(self) -> None:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()

    # --- what the tests tell it -----------------------------------------------------------

    def fail(self, path: str, *, times: int) -> None:
        """Answer the next requests for a path with 503."""
        with self._changed:
            self._failures[path] = times

    def hold(self, path: str) -> None:
        """Neither let requests for a path through nor answer them."""
        with self._changed:
            self._held.add(path)

    def release(self) -> None:
        """Let everything through from now on; what was held has waited in vain."""
        with self._changed:
            self._held.clear()
            self._failures.clear()
            self._changed.notify_all()

    # --- what they ask it -----------------------------------------------------------------

    def visits(self, path: str, *, of: str = "", status: int | None = None, caller: str = "") -> list[Visit]:
        """The requests for a path so far, or those whose body names someone or something, or that were answered so, or
        that one program made."""
        with self._changed:
            return [
                visit
                for visit in self._visits
                if visit.path == path
                and of.encode() in visit.body
                and status in {visit.status, None}
                and visit.caller.startswith(caller)
            ]

    def wait_for_visits(
        self, path: str, *, of: str, count: int, status: int | None = None, seconds: float = PATIENCE_SECONDS
    ) -> list[Visit]:
        """As `visits`, once there are so many."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self.visits(path, of=of, status=status)) >= count, seconds)
            found = self.visits(path, of=of, status=status)
        assert arrived, f"{len(found)} instead of {count} requests for {path} within {seconds} s: {found}"
        return found

    def wait_for_held(self, path: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until a request for a path is being held."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting[path] > 0, seconds), f"nobody asked for {path}"

    # --- what happens to a request --------------------------------------------------------

    def pass_on(self, method: str, target: str, headers: Message, body: bytes) -> _Reply | None:
        """The answer to a request, or None if there is to be none."""
        path, caller = target.partition("?")[0], headers.get("User-Agent", "")
        with self._changed:
            if path in self._held:
                self._waiting[path] += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: path not in self._held)
                self._waiting[path] -= 1
                return self._noted(Visit(path, 0, caller, body), None)
            failing = self._failures[path] > 0
            self._failures[path] -= failing
        if failing:
            reply = _Reply(503, {"Content-Type": "text/plain"}, b"Down for maintenance")
        elif path in self.files:
            reply = _Reply(200, {"Content-Type": "application/json"}, self.files[path])
        else:
            reply = self._forward(method, target, headers, body)
        return self._noted(Visit(path, reply.status, caller, body), reply)

    def _noted(self, visit: Visit, reply: _Reply | None) -> _Reply | None:
        with self._changed:
            self._visits.append(visit)
            self._changed.notify_all()
        return reply

    def _forward(self, method: str, target: str, headers: Message, body: bytes) -> _Reply:
        connection = self._connection()
        try:
            sent = {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}
            connection.request(method, target, body or None, sent)
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            return _Reply(answer.status, kept, answer.read())
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        assert self.behind is not None, "there is no server behind the gate"
        host, port = self.behind
        if self._ca is None:
            return http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
        return http.client.HTTPSConnection(host, port, timeout=PATIENCE_SECONDS, context=self._ca)


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Of a test's many connections none may be refused.
    request_queue_size = 100

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers that leave early, and those that distrust the certificate, are part of the tests."""


def _handler(gate: Gate) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            reply = gate.pass_on(self.command, self.path, self.headers, body)
            if reply is None:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_PUT = do_OPTIONS = answer  # noqa: N815 - the names that http.server looks for

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            """Quiet: a failing test shows the programs' logs."""

    return Handler
