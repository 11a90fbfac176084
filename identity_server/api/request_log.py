"""One line in the log for each request: which row, how it went, how long it took; nothing that the caller wrote.

The rule: a request isn't held up for its line. Lines are put together here, cheaply, and handed over in blocks: ten
times a second, and before anything else is logged, so that the log stays in order.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Final

import orjson

from identity_server.domain.ports import Clock, Randomness
from identity_server.domain.random_values import opaque
from identity_server.observability import BLOCK

_logger = logging.getLogger("identity_server.requests")

_PAUSE_SECONDS = 0.1
_MOST_LINES = 1_000
_PREFIX_BYTES = 9
_LEVEL: Final = "info"


class RequestLog:
    """Lines in the form of the rest of the log.

    Args:
        form: "json" or "console", as in `observability.set_up_logging`.
    """

    def __init__(self, *, form: str, clock: Clock, randomness: Randomness) -> None:
        self._write = self._as_json if form == "json" else self._for_people
        self._clock = clock
        # Nobody else's, and then counted: an id has to tell requests apart, not to be hard to guess.
        self._prefix = opaque(randomness, _PREFIX_BYTES)
        self._count = 0
        self._lines: list[str] = []
        self._second = -1
        self._second_text = ""
        self._known: dict[tuple[str, str, int], str] = {}
        self._timer: asyncio.TimerHandle | None = None
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._before)

    def next_id(self) -> str:
        """The id of the next request."""
        self._count += 1
        return f"{self._prefix}-{self._count:x}"

    def add(self, request_id: str, method: str, route: str, status: int, *, seconds: float) -> None:
        """Log a request that has been answered."""
        if not _logger.isEnabledFor(logging.INFO):
            return
        self._lines.append(self._write(request_id, (method, route, status), round(1000 * seconds, 1)))
        if len(self._lines) >= _MOST_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self.flush)

    def flush(self) -> None:
        """Hand over what there is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            lines, self._lines = self._lines, []
            _logger.info("\n".join(lines), extra=BLOCK)

    def close(self) -> None:
        """Hand over the last of it."""
        self.flush()
        for handler in logging.getLogger().handlers:
            handler.removeFilter(self._before)

    def _before(self, record: logging.LogRecord) -> bool:
        if record.name != _logger.name:
            self.flush()
        return True

    def _now(self) -> str:
        second, milliseconds = divmod(self._clock.now_ms(), 1000)
        if second != self._second:
            self._second, self._second_text = (
                second,
                datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
            )
        return f"{self._second_text}.{milliseconds:03d}Z"

    def _as_json(self, request_id: str, what: tuple[str, str, int], milliseconds: float) -> str:
        known = self._known.get(what)
        if known is None:
            method, route, status = what
            fields = {"event": "request", "level": _LEVEL, "logger": _logger.name}
            fields |= {"method": method, "route": route, "status": status}  # type: ignore[dict-item]
            known = self._known[what] = orjson.dumps(fields).decode().removesuffix("}")
        return f'{known},"milliseconds":{milliseconds},"request_id":"{request_id}","timestamp":"{self._now()}"}}'

    def _for_people(self, request_id: str, what: tuple[str, str, int], milliseconds: float) -> str:
        known = self._known.get(what)
        if known is None:
            method, route, status = what
            known = self._known[what] = f"method={method} route={route} status={status}"
        return f"{self._now()} [{_LEVEL}] request {known} milliseconds={milliseconds} request_id={request_id}"
