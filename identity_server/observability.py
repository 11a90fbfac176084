"""Logging: one line per event, with the request it belongs to, and no address or token in it.

The rule: code never logs what identifies a person; the redaction here is the net below that, not the plan.
"""

from __future__ import annotations

import logging
import logging.handlers
import re
import select
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

import structlog
from structlog.contextvars import STRUCTLOG_KEY_PREFIX

_ADDRESS_CHARACTER = r"[^\s@<>\"'(),;:=]"
_NAME_CHARACTER = r"[^\s@<>\"'(),;:=&?#/]"
# As it stands in URLs, also in those within others, in escaped text, and as keyboards of East Asia write it.
_AT = re.compile(r"%(?:25)*40|\\u0040|\\x40|&#(?:64|x40);|\uff20", re.IGNORECASE)
_LABELS = r"[\w-]++(?:\.[\w-]++)++"
_WORD_CHARACTER = r"[^\s@<>\"'(),;:=&?#/%\\]"
# An address within another, as mail systems write to whom a mail that has bounced was sent. What stands before a plain `=`
# is the name of a field; in these it is a list's own address, with the person's behind it.
_BOUNCED = (
    rf"(?<!{_WORD_CHARACTER})(?:SRS[01][=+-](?:{_WORD_CHARACTER}|=){{1,200}}+"
    rf"|(?=[^\s@<>\"'(),;:=&?#/%\\+-]*+[+-]){_WORD_CHARACTER}++={_LABELS}(?=@))"
)
# Tried where a word begins and nowhere else, so that a long text takes time in proportion to its length.
_EMAIL = re.compile(
    rf"(?:{_BOUNCED}|(?<!{_ADDRESS_CHARACTER}){_ADDRESS_CHARACTER}++|\"[^\"\n]{{1,64}}\")"
    # As quoted-printable writes the @, only before what can but be a name: there are numbers that begin like this.
    rf"(?:@(?:\[[^\]\s]{{1,64}}\]|{_NAME_CHARACTER}+[.\u3002\uff0e]{_NAME_CHARACTER}+)|=40{_LABELS}(?<=[A-Za-z]{{2}}))"
)
# At a host without a dot. So are other things written: a URL's user, a version, a Matrix ID behind what was escaped.
_LOCAL_EMAIL = re.compile(
    rf"(://[^\s/?#@]*+@)|(?:(?<!{_WORD_CHARACTER})(?<![/%\\]){_WORD_CHARACTER}++|\"[^\"\n]{{1,64}}\")"
    r"@(?!v?\d)[^\W_][\w-]*+(?![@%]|[.:]\w)"
)
# As people write them: what begins with + has 7 digits and more, what begins with 0 has 9.
_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+\s?\(?\d(?:[\s()/.-]{0,2}\d){6,14}|\(?0(?:[\s()/-]{0,2}\d){8,14})(?!\w)", re.ASCII
)
# As this server writes them, and codes. Only where no sizes, times and numbers of ours are to be read.
_DIGITS = re.compile(r"(?<![\w.+-])\d{6,15}(?![\w-]|\.\d)", re.ASCII)
# Digests, tokens and sealed values are at least this long; ids and revisions are shorter.
_OPAQUE = re.compile(r"[A-Za-z0-9_-]{32,}")
# Apps make up client secrets, and Sydent's tokens are short.
_NAMED = re.compile(
    r"\b((?:access_?|id_?)?token|client_?secret|password|private_key)('?\"?\s*[=:]\s*'?\"?)[\w.~%+/=-]+",
    re.IGNORECASE,
)
# A proxy's request ids may be as long as tokens are.
_FROM_US = "_from_structlog"
_OUR_OWN = frozenset({"timestamp", "request_id", "_record", _FROM_US})
_ERROR = "exception"
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
                structlog.processors.format_exc_info,
                redact,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
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


class _Discreet(logging.Handler):
    """Says that something couldn't be logged, and not what it was, as the library's handlers would."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        del record
        # A traceback has the error's text, and that may quote what was to be logged.
        error = sys.exc_info()[1]
        with suppress(OSError, AttributeError):
            sys.stderr.write(
                f"a line couldn't be logged: {type(error).__name__} {getattr(error, 'strerror', None) or ''}\n"
            )


class _File(_Discreet, logging.handlers.WatchedFileHandler):
    """A log file that another process begins anew each midnight."""


class _RotatedFile(_Discreet, logging.handlers.TimedRotatingFileHandler):
    """A log file that this process begins anew each midnight."""


class _SharedStream(_Discreet, logging.StreamHandler[TextIO]):
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
        return _File(path, encoding="utf-8")
    return _RotatedFile(path, when="midnight", backupCount=_KEPT_FILES, encoding="utf-8")


def log_what_nobody_awaits() -> None:
    """Have the log hear of errors that Python would write to stderr as they are, in finalizers above all."""

    def hear(fault: sys.UnraisableHookArgs) -> None:
        error = fault.exc_value
        logging.getLogger("python").error("an error that nobody awaits", exc_info=error)

    sys.unraisablehook = hear


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
    """Blot out what looks like an address or a secret, wherever it has slipped in."""
    # What a library says, and the texts of errors, may quote anything.
    is_ours = event.get(_FROM_US, True)
    for key, value in event.items():
        if key not in _OUR_OWN:
            event[key] = _redacted(value, is_ours=is_ours and key != _ERROR)
    return event


def _redacted(value: Any, *, is_ours: bool) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {redact_text(str(name)): _redacted(each, is_ours=is_ours) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(each, is_ours=is_ours) for each in value]
    # Whatever else there is would be put into words by the renderer, unseen.
    text = redact_text(value if isinstance(value, str) else repr(value))
    return text if is_ours else _DIGITS.sub("<number>", text)


def redact_text(text: str) -> str:
    """The text without addresses, however they are written, and without tokens; Matrix IDs stay."""
    text = _EMAIL.sub("<address>", _AT.sub("@", text))
    text = _LOCAL_EMAIL.sub(lambda found: found[1] or "<address>", text)
    return _OPAQUE.sub("<redacted>", _NAMED.sub(r"\1\2<redacted>", _PHONE.sub("<number>", text)))
