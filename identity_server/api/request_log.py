"""What is noted of each request, for the log and the metrics: which row, how it went, how long it took.

The rules: nothing that the caller wrote is noted. And a request isn't held up for it: lines are written, and durations
counted, for many requests at once, ten times a second, and before anything else is logged there, so that the log stays in
order. What other threads log doesn't wait for that: metrics, traces and the list of notes are the event loop's.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import UTC, datetime
from time import monotonic
from typing import Final

import orjson

from identity_server.domain.ports import Clock, TracedRequest, Traces
from identity_server.metrics import Metrics
from identity_server.observability import BLOCK

_logger = logging.getLogger("identity_server.requests")

_PAUSE_SECONDS = 0.1
_MOST_NOTES = 1_000
_NOT_LOGGED = frozenset({"/health", "/ready"})
_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"})
_LEVEL: Final = "info"

_What = tuple[str, str, int]
"""Method, pattern of the route, status."""
_Note = tuple[str, float, float, str, str, int, str | None]
"""The id of the request, when it began and ended, its method, the pattern of its route, the status, and its trace's parent."""


class RequestLog:
    """Lines in the form of the rest of the log.

    Args:
        form: "json" or "console", as in `observability.set_up_logging`.
        traces: where else requests are noted.
    """

    def __init__(self, *, form: str, clock: Clock, metrics: Metrics, traces: Traces | None = None) -> None:
        self._write = self._as_json if form == "json" else self._for_people
        self._clock = clock
        self._metrics = metrics
        self._traces = traces
        self._noted: list[_Note] = []
        self._second = -1
        self._second_text = ""
        self._known: dict[_What, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.get_ident()
        metrics.gather_from(self.flush)
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._before)

    def note(
        self, request_id: str, started: float, method: str, route: str, status: int, parent: str | None = None
    ) -> None:
        """A request has been answered that was begun at that time (monotonic seconds)."""
        self._noted.append((request_id, started, monotonic(), method, route, status, parent))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self.flush)
        elif len(self._noted) >= _MOST_NOTES:
            self.flush()

    def flush(self) -> None:
        """Write and count what has been noted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._noted:
            return
        noted, self._noted = self._noted, []
        now_ms, now = self._clock.now_ms(), monotonic()
        logs, lines = _logger.isEnabledFor(logging.INFO), []
        for request_id, started, ended, method, route, status, parent in noted:
            seconds = ended - started
            shown = method if method in _METHODS else "other"
            self._metrics.observe_request(route, shown, status, seconds)
            if route in _NOT_LOGGED:
                continue
            at_ms = now_ms - round(1000 * (now - ended))
            if self._traces is not None:
                self._traces.request(TracedRequest(request_id, shown, route, status, at_ms, seconds, parent))
            if logs:
                lines.append(self._write(at_ms, request_id, (shown, route, status), seconds))
        if lines:
            _logger.info("\n".join(lines), extra=BLOCK)

    def close(self) -> None:
        """Hand over the last of it."""
        self.flush()
        for handler in logging.getLogger().handlers:
            handler.removeFilter(self._before)

    def _before(self, record: logging.LogRecord) -> bool:
        if record.name != _logger.name and record.thread == self._thread:
            self.flush()
        return True

    def _time(self, at_ms: int) -> str:
        second, milliseconds = divmod(at_ms, 1000)
        if second != self._second:
            self._second, self._second_text = (
                second,
                datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
            )
        return f"{self._second_text}.{milliseconds:03d}Z"

    def _as_json(self, at_ms: int, request_id: str, what: _What, seconds: float) -> str:
        known = self._known.get(what)
        if known is None:
            method, route, status = what
            fields = {"event": "request", "level": _LEVEL, "logger": _logger.name}
            fields |= {"method": method, "route": route, "status": status}  # type: ignore[dict-item]
            known = self._known[what] = orjson.dumps(fields).decode().removesuffix("}")
        return (
            f'{known},"milliseconds":{1000 * seconds:.1f},"request_id":"{request_id}",'
            f'"timestamp":"{self._time(at_ms)}"}}'
        )

    def _for_people(self, at_ms: int, request_id: str, what: _What, seconds: float) -> str:
        known = self._known.get(what)
        if known is None:
            method, route, status = what
            # In the columns that structlog's own lines have.
            known = f"[{_LEVEL:<9}] {'request':<30} [{_logger.name}] method={method} route={route} status={status}"
            self._known[what] = known
        return f"{self._time(at_ms)} {known} milliseconds={1000 * seconds:.1f} request_id={request_id}"
