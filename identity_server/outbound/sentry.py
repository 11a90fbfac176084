"""Reports faults of ours to Sentry: the kind of error, where in the code, for which route and which request.

The rule: a report is put together from what is known to be harmless, not cleaned of what is known to be harmful. So the
texts of errors, which may quote an address or a token, stay in the log; so do local variables, and all of the request
but the pattern of its route and its id, by which the line of the log is found that says more.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Any, Final

import sentry_sdk
from sentry_sdk.utils import event_from_exception

_LAST_SECONDS: Final = 2.0
_QUIET_SECONDS: Final = 60.0
"""One kind of fault at one route is reported once a minute: a thousand reports a second help nobody."""

_TAGS = ("request_id", "kind", "chore", "provider")
_FRAME = ("filename", "function", "module", "lineno", "in_app", "pre_context", "context_line", "post_context")
_EVENT = (
    "event_id",
    "timestamp",
    "platform",
    "level",
    "logger",
    "transaction",
    "release",
    "environment",
    "server_name",
)

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class SentryReports(logging.Handler):
    """Reports every error that is logged with its traceback.

    Args:
        dsn: where to.
        release: what runs.
        server_name: who reports; not the machine's own name.
    """

    def __init__(self, dsn: str, *, release: str, server_name: str) -> None:
        super().__init__(logging.ERROR)
        # Nothing of what the library finds out by itself: requests, arguments, the machine, what was logged before.
        self._client = sentry_sdk.Client(
            dsn=dsn,
            release=release,
            server_name=server_name,
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
            max_breadcrumbs=0,
            auto_session_tracking=False,
            send_client_reports=False,
            before_send=_only_harmless,
        )
        self._quiet_until: dict[tuple[str, ...], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Report a line of the log, if it is about a fault."""
        # The log has the line already, and whoever logs has other worries.
        with suppress(Exception):
            self._report(record)

    def close(self) -> None:
        """Send what waits to be sent, if that is quick."""
        self._client.close(timeout=_LAST_SECONDS)
        super().close()

    def _report(self, record: logging.LogRecord) -> None:
        # structlog hands its fields on as they are, and puts them into words later.
        fields: Mapping[str, Any] = record.msg if isinstance(record.msg, dict) else {}
        error = _error_in(fields.get("exc_info") or record.exc_info)
        if error is None:
            return
        # A library's line may be anything; what this server says of itself is written in its code.
        said = str(fields.get("event", record.name))
        route = str(fields.get("route", ""))
        if not self._is_news((said, route, error[0].__qualname__)):
            return
        event, _ = event_from_exception(error, client_options=self._client.options)
        tags = {name: str(fields[name]) for name in _TAGS if name in fields}
        event["level"] = "error"
        event["logger"] = record.name
        event["transaction"] = route or said
        event["tags"] = {"event": said, **tags}
        self._client.capture_event(event)

    def _is_news(self, what: tuple[str, ...]) -> bool:
        now = monotonic()
        if now < self._quiet_until.get(what, 0.0):
            return False
        self._quiet_until[what] = now + _QUIET_SECONDS
        return True


def _error_in(exc_info: Any) -> _ExcInfo | None:
    if isinstance(exc_info, BaseException):
        return type(exc_info), exc_info, exc_info.__traceback__
    found = sys.exc_info() if exc_info is True else exc_info
    return found if isinstance(found, tuple) and found[0] is not None else None


def _only_harmless(event: Any, _hint: Any) -> Any:
    """The parts of a report that may leave."""
    errors = [_harmless_error(each) for each in event["exception"]["values"]]
    return {**_picked(event, _EVENT), "tags": event["tags"], "exception": {"values": errors}}


def _harmless_error(error: Mapping[str, Any]) -> dict[str, Any]:
    frames = (error.get("stacktrace") or {}).get("frames", ())
    # Sentry wants a text; the one that there is stays in the log.
    harmless: dict[str, Any] = {**_picked(error, ("type", "module")), "value": ""}
    return {**harmless, "stacktrace": {"frames": [_picked(frame, _FRAME) for frame in frames]}}


def _picked(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}
