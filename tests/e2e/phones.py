"""OpenMarket's side of sending text messages, on loopback, and the phones that they arrive at.

The one rule: a text is handed out once, to the one who waits for its number.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.e2e.processes import PATIENCE_SECONDS

_CODE = re.compile(r"\b[0-9]{6}\b")


class Phones:
    """Accepts every text message.

    Attributes:
        url: where messages are posted to.
    """

    def __init__(self) -> None:
        self._texts: list[tuple[str, str]] = []
        self._arrived = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/sms/v4/mt"

    def open(self) -> None:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, number: str, *, seconds: float = PATIENCE_SECONDS) -> str:
        """The oldest text to a number that nobody took yet, waiting for it if need be."""
        with self._arrived:
            arrived = self._arrived.wait_for(lambda: any(to == number for to, _ in self._texts), seconds)
            assert arrived, f"no text within {seconds} s"
            entry = next(entry for entry in self._texts if entry[0] == number)
            self._texts.remove(entry)
            return entry[1]

    def deliver(self, number: str, text: str) -> None:
        """A text arrives."""
        with self._arrived:
            self._texts.append((number, text))
            self._arrived.notify_all()


def code_in(text: str) -> str:
    """The code of a text: what its reader copies."""
    found = _CODE.search(text)
    assert found, "the text has no code"
    return found[0]


def _handler(phones: Phones) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["mobileTerminate"]
            phones.deliver(message["destination"]["address"], message["message"]["content"])
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            """Quiet: a failing test shows the programs' logs."""

    return Handler
