"""Logging: one line per event, with the request it belongs to, and no address or token in it.

The rule: code never logs what identifies a person; the redaction here is the net below that, not the plan.
"""

from __future__ import annotations

import logging
import logging.handlers
import re
import select
import sys
from collections.abc import Iterator, MutableMapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

import structlog
from structlog.contextvars import STRUCTLOG_KEY_PREFIX

_ADDRESS_CHARACTER = r"[^\s@<>\"'(),;:=]"
# Tried where a word begins and nowhere else, so that a long text takes time in proportion to its length.
_EMAIL = re.compile(rf"(?<!{_ADDRESS_CHARACTER}){_ADDRESS_CHARACTER}++@{_ADDRESS_CHARACTER}+\.{_ADDRESS_CHARACTER}+")
# Digests, tokens and sealed values are at least this long; ids and revisions are shorter.
_OPAQUE = re.compile(r"[A-Za-z0-9_-]{32,}")
# A proxy's request ids may be as long as tokens are.
_OUR_OWN = frozenset({"timestamp", "request_id"})
_KEPT_FILES = 365

REQUEST_ID: ContextVar[str] = ContextVar(f"{STRUCTLOG_KEY_PREFIX}request_id")
"""The id of the request that is being answered: by its name, structlog writes it into every line."""

_IS_BLOCK = "is_block"
BLOCK = {_IS_BLOCK: True}
"""The `extra` of a record whose message is one or more whole lines."""
_NOTHING = logging.makeLogRecord({})
# In characters. Lines are ASCII but for what a homeserver or relay answers, and that is cut short.
_AT_ONCE = select.PIPE_BUF

# These write what they are given, queries and addresses included.
_TALKATIVE = (
    "aiosqlite",
    "aiohttp",
    "asyncio",
    "aiosmtplib",
    "mail.log",
    "sqlalchemy",
    "alembic",
    "markdown_it",
    "urllib3",
)


def set_up_logging(*, level: str, form: str, path: Path | None, rotates: bool = False) -> None:
    """Configure structlog and the standard library's logging alike.

    Args:
        level: a name of `logging`, e.g. INFO.
        form: "json" or "console".
        path: a file; None for stderr.
        rotates: whether this process begins a new file each midnight. Only one may: others notice, and follow.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _handler(path, rotates=rotates)
    colours = path is None and sys.stderr.isatty()
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)
    )
    handler.setFormatter(
        _Formatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    for former in root.handlers:
        if isinstance(former, logging.FileHandler):
            former.close()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    # It tells of every retry; that traces were lost in the end is enough.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Lines that have their form already are left as they are."""

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage() if getattr(record, _IS_BLOCK, False) else super().format(record)


class _SharedStream(logging.StreamHandler[TextIO]):
    """A stream that other processes write to as well, most often a pipe: no line of one gets into a line of another.

    What is written to a pipe at once stays together up to a certain size, and blocks of lines may be larger.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            for part in _parts(self.format(record) + self.terminator):
                self.stream.write(part)
                self.flush()
        except Exception:  # noqa: BLE001 - as the library does it: logging must not end what it is about
            self.handleError(record)


def _parts(text: str) -> Iterator[str]:
    """The text in parts that end with a line, as large as they may be."""
    start = 0
    while len(text) - start > _AT_ONCE:
        end = text.rfind("\n", start, start + _AT_ONCE) + 1 or text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _handler(path: Path | None, *, rotates: bool) -> logging.Handler:
    if path is None:
        return _SharedStream(sys.stderr)
    if not rotates:
        return logging.handlers.WatchedFileHandler(path, encoding="utf-8")
    return logging.handlers.TimedRotatingFileHandler(path, when="midnight", backupCount=_KEPT_FILES, encoding="utf-8")


def rotate_log() -> None:
    """Begin a new log file if it is time to; for a process that has nothing of its own to log then."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.handlers.TimedRotatingFileHandler) and handler.shouldRollover(_NOTHING):
            try:
                handler.doRollover()
            except OSError:
                # As `emit` does it, which would have begun the file otherwise.
                handler.handleError(_NOTHING)


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blot out what looks like an e-mail address or a secret, wherever it has slipped in."""
    for key, value in event.items():
        if isinstance(value, str) and key not in _OUR_OWN:
            event[key] = redact_text(value)
    return event


def redact_text(text: str) -> str:
    """The text without e-mail addresses and long opaque strings; Matrix IDs stay."""
    return _OPAQUE.sub("<redacted>", _EMAIL.sub("<address>", text))
