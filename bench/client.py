"""A frugal HTTP client: a connection that is kept, one request at a time, raw bytes.

The rule: it costs far less than the server it speaks to, or it would be measured instead. Only what the servers here
really send is understood: Content-Length, and chunks.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson

_LONGEST_SECONDS = 60.0
_LARGEST_BYTES = 8 * 1024 * 1024


class BadAnswer(Exception):
    """The server said something else than what is true, or nothing; the text says what."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    Attributes:
        size: of all of it on the wire, in bytes.
    """

    status: int
    body: bytes
    size: int

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            BadAnswer: it isn't a success, or isn't JSON.
        """
        if self.status != 200:
            raise BadAnswer(f"{self.status} {self.body[:300]!r}")
        return orjson.loads(self.body)


class Connection:
    """One connection to a server on loopback; opened when it is first needed, and again after it was closed."""

    def __init__(self, port: int, *, seconds: float = _LONGEST_SECONDS) -> None:
        self._port = port
        self._seconds = seconds
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send a request and read its answer.

        Raises:
            BadAnswer: there was none in time, or it isn't HTTP.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await self._ask(request)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            raise BadAnswer(f"no answer: {error!r}") from None

    async def _ask(self, request: bytes) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=_LARGEST_BYTES)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
            size = len(head) + len(body)
        else:
            body, size = await self._chunks(reader)
            size += len(head)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(lines[0].split(" ")[1]), body, size)

    async def _chunks(self, reader: asyncio.StreamReader) -> tuple[bytes, int]:
        body, size = b"", 0
        while True:
            line = await reader.readuntil(b"\r\n")
            length = int(line, 16)
            chunk = await reader.readexactly(length + 2)
            body, size = body + chunk[:-2], size + len(line) + len(chunk)
            if length == 0:
                return body, size

    def close(self) -> None:
        """Close it."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
