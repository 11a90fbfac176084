"""Logging: one line per event, with the request it belongs to, and no address or token in it.

The rule: code never logs what identifies a person; the redaction here is the net below that, not the plan.
"""

from __future__ import annotations

import logging
import logging.handlers
import re
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog

_ADDRESS_CHARACTER = r"[^\s@<>\"'(),;:=]"
# Tried where a word begins and nowhere else, so that a long text takes time in proportion to its length.
_EMAIL = re.compile(rf"(?<!{_ADDRESS_CHARACTER}){_ADDRESS_CHARACTER}++@{_ADDRESS_CHARACTER}+\.{_ADDRESS_CHARACTER}+")
# Digests, tokens and sealed values are at least this long; ids and revisions are shorter.
_OPAQUE = re.compile(r"[A-Za-z0-9_-]{32,}")
_KEPT_FILES = 365
_IS_BLOCK = "is_block"
BLOCK = {_IS_BLOCK: True}
"""The `extra` of a record whose message is one or more whole lines."""

# These write what they are given, queries and addresses included.
_TALKATIVE = ("aiosqlite", "aiohttp", "asyncio", "aiosmtplib", "mail.log", "sqlalchemy", "alembic", "markdown_it")


def set_up_logging(*, level: str, form: str, path: Path | None) -> None:
    """Configure structlog and the standard library's logging alike.

    Args:
        level: a name of `logging`, e.g. INFO.
        form: "json" or "console".
        path: a file, rotated at midnight; None for stderr.
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
    handler = _handler(path)
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
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Lines that have their form already are left as they are."""

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage() if getattr(record, _IS_BLOCK, False) else super().format(record)


def _handler(path: Path | None) -> logging.Handler:
    if path is None:
        return logging.StreamHandler(sys.stderr)
    return logging.handlers.TimedRotatingFileHandler(path, when="midnight", backupCount=_KEPT_FILES, encoding="utf-8")


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blot out what looks like an e-mail address or a secret, wherever it has slipped in."""
    for key, value in event.items():
        if isinstance(value, str) and key != "timestamp":
            event[key] = redact_text(value)
    return event


def redact_text(text: str) -> str:
    """The text without e-mail addresses and long opaque strings; Matrix IDs stay."""
    return _OPAQUE.sub("<redacted>", _EMAIL.sub("<address>", text))
