"""Makes every test that uses the harness a search for leaks, too.

The one rule: what a test is about says nothing about what is searched for. The harness notes whatever was sent to the
server, answered, mailed or texted and must stay secret; and when the server ends, none of it may be in its database
(write-ahead log included), in its index, in what it logged at DEBUG, in its metrics, in its traces, or in the text of an error.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import structlog
from structlog.typing import EventDict, WrappedLogger

from identity_server.domain.errors import InvalidEmail
from identity_server.domain.identifiers import canonical_email
from identity_server.domain.ports import Mail, TextMessage
from tests.support.leaks import Ledger

_SECRETS = {
    "access_token": "token",
    "client_secret": "client secret",
    "next_link": "link to go to afterwards",
    "private_key": "private key",
    "token": "token",
}
_ADDRESSES = frozenset({"address", "email", "phone_number", "to"})
# A lookup may hold ten thousand.
_MOST_OF_A_LIST = 50
# Shorter ones stand in other things by chance: they are what tests write that are about odd values.
_SHORTEST = 8
_RANDOM = 32
_PHONE = re.compile(r"\+?[0-9]{7,15}")
_CODE = re.compile(r"\b[0-9]{6,8}\b")


class Leaked(AssertionError):
    """A secret stands where it must not; the text says what kind of secret, and where."""


class _Ear(logging.Handler):
    """Hears everything that is logged in this process, before anything is blotted out of it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(_text_of(record))

    def hear(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """A processor for structlog; what it passes on is unchanged."""
        told = structlog.processors.format_exc_info(_logger, _method, dict(event))
        self.heard.append(repr(told))
        return event


_WITH_TRACEBACK = logging.Formatter()


def _text_of(record: logging.LogRecord) -> str:
    return f"{record.name} {_WITH_TRACEBACK.format(record)}"


EAR = _Ear()
"""One for each process that runs tests."""


def listen() -> None:
    """Have everything heard that is logged from now on; what the terminal shows stays as it is, without colours."""
    *processors, _ = structlog.get_config()["processors"]
    # By itself, structlog has rich paint tracebacks, which takes far longer than the rest of most tests.
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[EAR.hear, *processors, renderer])
    logging.getLogger().addHandler(EAR)
    logging.getLogger("identity_server").setLevel(logging.DEBUG)


class Canaries:
    """The secrets of one server of the harness."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._addresses: dict[str, str] = {}
        self._errors: list[bytes] = []
        self._since = len(EAR.heard)

    # --- what is noted --------------------------------------------------------------------

    def note_request(self, path: str, options: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """What a request holds, wherever it holds it."""
        query = [*parse_qsl(urlsplit(path).query), *_pairs(options.get("params"))]
        self._note_all(query)
        self._note(_parsed(options.get("json")))
        self._note(_parsed(options.get("data")))
        for hop in re.split(r"[,\s]+", headers.get("X-Forwarded-For", "")):
            # The whole address; the network that it belongs to is what limits count.
            if len(hop) >= _SHORTEST:
                self._ledger.note_number("IP address", hop)

    def note_reply(self, status: int, body: bytes, content: Any) -> None:
        """What is answered; an error must not repeat what was asked."""
        self._note(content)
        if status >= 400 and content is not None:
            self._errors.append(body)

    def note_mails(self, mails: Iterable[Mail]) -> None:
        """What was mailed, which nobody but the recipient knows."""
        for mail in mails:
            self._note({"to": mail.to, **mail.variables})

    def note_texts(self, texts: Iterable[TextMessage]) -> None:
        """What was texted."""
        for text in texts:
            self._note({"to": text.to})
            for code in _CODE.findall(text.body):
                self._ledger.note_number("code", code)

    def note_keys(self, folder: Path) -> None:
        """The server's own keys; a key file's last word is the key."""
        for file in folder.glob("*.key"):
            self._ledger.note(file.name, file.read_text().split()[-1].rstrip("="))

    def _note(self, content: Any) -> None:
        if isinstance(content, Mapping):
            self._note_all(content.items())
            for value in content.values():
                self._note(value)
        elif isinstance(content, list):
            for value in islice(content, _MOST_OF_A_LIST):
                self._note(value)

    def _note_all(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        for name, value in pairs:
            if name == "addresses" and isinstance(value, list):
                self._note_lookup(islice(value, _MOST_OF_A_LIST))
            elif not isinstance(value, str) or len(value) < _SHORTEST:
                continue
            elif name in _SECRETS:
                # Half of one that a test has made up may be a word.
                note = self._ledger.note if len(value) < _RANDOM else self._ledger.note_token
                note(_SECRETS[name], value)
            elif name in _ADDRESSES:
                self._note_address(value)

    def _note_address(self, value: str) -> None:
        if _PHONE.fullmatch(value):
            self._addresses[value.removeprefix("+")] = "msisdn"
            return
        try:
            self._addresses[canonical_email(value)] = "email"
        except InvalidEmail:
            return
        self._ledger.note("address", value)

    def _note_lookup(self, queries: Iterable[Any]) -> None:
        for query in queries:
            if isinstance(query, str) and len(query) >= _SHORTEST:
                self._ledger.note("query of a lookup", query)

    # --- where it is looked for -----------------------------------------------------------

    def search(self, places: Mapping[str, bytes], *, peppers: Iterable[str]) -> None:
        """Look for everything that was noted in these places, in what was logged and in the errors.

        Raises:
            Leaked: something was found.
        """
        peppers = list(peppers)
        for address, medium in self._addresses.items():
            self._ledger.note_whole_address(address, medium=medium, peppers=peppers)
        logged = "\n".join(EAR.heard[self._since :]).encode("utf-8", "replace")
        everywhere = {**places, "log": logged, "errors": b"\n".join(self._errors)}
        found = {where: leaks for where, content in everywhere.items() if (leaks := self._ledger.find_in(content))}
        if found:
            raise Leaked(f"where it must not be: {found}")


def _parsed(body: Any) -> Any:
    """A body as a test hands it over: an object, a form, or the text of either."""
    if isinstance(body, bytes | str):
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
            return dict(parse_qsl(text))
    return body


def _pairs(params: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(params, Mapping):
        yield from params.items()
    elif isinstance(params, list | tuple):
        yield from params
