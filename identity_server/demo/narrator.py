"""What the terminal shows: words, requests with their answers, and checks, in 80 columns at most.

The one rule: tokens, hashes and signatures are shortened here, so that no step has to think of it.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from enum import Enum, auto
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

WIDTH = 80
_WORDS = 2  # columns before words, and before everything else
_BLOCK = 4
_LABEL = 6
_FIRST_ERROR = 400
# Tokens, hashes, keys and signatures are at least this long and have no other characters; error codes do, too.
_OPAQUE = re.compile(r"(?!M_)[A-Za-z0-9+/=_-]{22,}")
_SECRET_IN_URL = re.compile(r"((?:token|client_secret|sid)=)([^&\s]{8})[^&\s]+")
_OUR_URL = re.compile(r"https://localhost:[0-9]+/_matrix/identity/")
_SHOWN = 8


class Detail(Enum):
    """How much of a request is shown."""

    FULL = auto()
    LINE = auto()
    NOTHING = auto()


class Narrator:
    """Prints the story."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._width = min(console.width, WIDTH)
        self._detail = Detail.FULL
        self._last = ""

    @contextmanager
    def detail(self, detail: Detail) -> Iterator[None]:
        """Show more or less of the requests of this block."""
        before, self._detail = self._detail, detail
        try:
            yield
        finally:
            self._detail = before

    def title(self, text: str) -> None:
        """The headline of everything."""
        self._gap("title")
        self._console.print(Text(text, style="bold"))
        self._line("=", style="bold")

    def step(self, number: int, of: int, title: str) -> None:
        """The heading of one step."""
        self._gap("step")
        heading = Text.assemble((f"{number}/{of}", "cyan"), "  ", (title, "bold"))
        self._console.print(Rule(heading, align="left", style="cyan"), width=self._width)

    def say(self, text: str) -> None:
        """A paragraph in plain words; line breaks in the source don't count."""
        self._gap("words")
        self._print(Text(_one_line(text)), indent=_WORDS)

    def privacy(self, text: str) -> None:
        """Why it matters to the people whose addresses these are."""
        self._gap("words")
        self._print(Text.assemble(("Privacy: ", "bold"), _one_line(text), style="green"), indent=_WORDS)

    def checked(self, text: str) -> None:
        """Something that was verified here, not just said."""
        self._gap("check")
        self._row(Text("ok", "bold green"), Text(text))

    def exchange(self, method: str, url: str, *, sent: list[str], status: int, answer: str) -> None:
        """A request with what it carried, and its answer."""
        if self._detail is Detail.NOTHING:
            return
        label = Text(str(status), "bold green" if status < _FIRST_ERROR else "bold yellow")
        if self._detail is Detail.LINE:
            self._gap("line")
            label.append(f"  {method}", "bold blue")
            self._row(label, Text(self._folded(url, less=_LABEL)), label_width=2 * _LABEL)
            return
        self._gap("exchange")
        self._row(Text(method, "bold blue"), Text(self._folded(url)))
        for line in sent:
            self._row(Text(), Text(line, "dim"))
        self._row(label, Text(answer))

    def facts(self, rows: dict[str, str]) -> None:
        """Names with values, one a line."""
        self._gap("facts")
        width = max(map(len, rows)) + 2
        for name, value in rows.items():
            self._row(Text(name, "bold"), Text(value), label_width=width)

    def mail(self, mail: EmailMessage) -> None:
        """A mail as its reader sees it, with the secret in its link cut."""
        self._gap("mail")
        body = mail.get_body(("plain",))
        text = shortened_url(body.get_content().strip()) if body is not None else ""
        for line in [*(f"{name}: {mail[name]}" for name in ("From", "To", "Subject")), "", *text.splitlines()]:
            self._row(Text("|", "dim"), Text(line), label_width=2)

    def end(self, *, seconds: float) -> None:
        """The last words, with where to go from here."""
        self._gap("end")
        self._line("=", style="bold")
        self.say(
            f"""That was the whole story, in {seconds:.1f} s. The servers have stopped; their database, keys and log
            are deleted."""
        )
        self.facts(
            {
                "make run": "starts a server to try things on",
                "make": "shows what else there is",
                "docs/": "says how to run one for real",
            }
        )
        self._console.print()

    def stopped(self, what: str, *, log: list[str]) -> None:
        """Why the story can't go on, with the end of the server's log."""
        self._gap("stopped")
        heading = Text("The demo stopped", "bold red")
        self._console.print(Rule(heading, align="left", style="red"), width=self._width)
        self.say(what)
        if log:
            self.say("The server's log ended so:")
            self._console.print()
            for line in log:
                # Unwrapped: it is for copying.
                self._console.print(Text(" " * _BLOCK + line, "dim"), soft_wrap=True)

    # --- lines ----------------------------------------------------------------------------

    def _gap(self, kind: str) -> None:
        """An empty line, save between things that make a list."""
        if not (kind == self._last and kind in {"check", "line"}):
            self._console.print()
        self._last = kind

    def _line(self, character: str, *, style: str) -> None:
        self._console.print(Rule(style=style, characters=character), width=self._width)

    def _row(self, label: Text, text: Text, *, label_width: int = _LABEL) -> None:
        label.pad_right(label_width - len(label))
        self._print(text, indent=_BLOCK, label=label)

    def _print(self, text: Text, *, indent: int, label: Text | None = None) -> None:
        """Print a text in lines of its own indentation, none with spaces at its end."""
        head = Text.assemble(" " * indent, label or "")
        for line in text.wrap(self._console, self._width - len(head), overflow="fold"):
            whole = Text.assemble(head, line)
            whole.rstrip()
            self._console.print(whole, soft_wrap=True)
            head = Text(" " * len(head))

    def _folded(self, url: str, *, less: int = 0) -> str:
        """A URL with its secrets cut, in lines that end at its own joints."""
        room, rest, lines = self._width - _BLOCK - _LABEL - less, shortened_url(url), []
        while len(rest) > room and (joint := max(rest.rfind(each, 1, room) for each in "/?")) > 0:
            lines.append(rest[:joint])
            rest = rest[joint:]
        return "\n".join([*lines, rest])


def shortened(value: Any) -> Any:
    """The value with every long opaque string in it cut to its first characters."""
    if isinstance(value, dict):
        return {shortened(name): shortened(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shortened(each) for each in value]
    if isinstance(value, str):
        return f"{value[:_SHOWN]}..." if _OPAQUE.fullmatch(value) else _OUR_URL.sub("https://.../", value)
    return value


def shortened_url(text: str) -> str:
    """The text with the secrets in the queries of its URLs cut to their first characters."""
    return _SECRET_IN_URL.sub(r"\1\2...", text)


def as_json(value: dict[str, Any]) -> str:
    """JSON for reading, shortened: on one line if that fits, else with a line for each name."""
    short = shortened(value)
    line = json.dumps(short, ensure_ascii=False)
    room = WIDTH - _BLOCK - _LABEL
    if len(line) <= room:
        return line
    members = [f"{json.dumps(name)}: {json.dumps(each, ensure_ascii=False)}," for name, each in short.items()]
    members[-1] = members[-1].removesuffix(",") + "}"
    lines = [textwrap.wrap(member, room - 1, subsequent_indent="  ", break_on_hyphens=False) for member in members]
    return "{" + "\n ".join(line for each in lines for line in each)


def _one_line(text: str) -> str:
    return " ".join(text.split())
