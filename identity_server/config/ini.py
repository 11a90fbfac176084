"""Reads an INI file as Sydent does, but remembers the line of everything.

The grammar, the fall-through to `[DEFAULT]` and the meaning of `%` are `configparser`'s, and a test compares
the two; but `configparser` knows no lines, and stops at the first fault. The one rule: read everything, report
every fault, and go on.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from identity_server.config.problems import Origin, Problem, Report

DEFAULT = "DEFAULT"
"""The section whose keys every other section falls back to."""

_MAX_BYTES = 1 << 20
_SECTION = re.compile(r"\[(.+)\]")
_OPTION = re.compile(r"(.*?)\s*[=:](.*)")
_PERCENT = re.compile(r"%(?:%|\((?P<name>[^)]+)\)s)?")
_MAX_DEPTH = 10
_PERCENT_HELP = "a `%` has a meaning of its own in this file (it refers to another key): write `%%` wherever you mean a percent sign"
_MAX_NAME_SHOWN = 24


@dataclass(slots=True)
class _Entry:
    line: int
    value: list[str]


@dataclass(slots=True)
class Document:
    """A parsed file: raw values and lines by section and key (keys in lower case, as Sydent has them)."""

    file: Path | None = None
    section_lines: dict[str, int] = field(default_factory=dict)
    _entries: dict[str, dict[str, _Entry]] = field(default_factory=dict)

    def sections(self) -> tuple[str, ...]:
        """The sections in the order of the file."""
        return tuple(self._entries)

    def keys(self, section: str) -> tuple[str, ...]:
        """The keys that stand in a section itself, without those of `[DEFAULT]`."""
        return tuple(self._entries.get(section, ()))

    def origin(self, section: str, key: str | None = None) -> Origin:
        """Where a section, or a key (in the section or in `[DEFAULT]`), stands."""
        if key is None:
            return Origin(self.file, self.section_lines.get(section))
        entry = self._entries.get(section, {}).get(key) or self._entries.get(DEFAULT, {}).get(key)
        return Origin(self.file, entry.line if entry else None)

    def value(self, section: str, key: str) -> str:
        """The value of a key of a section or of `[DEFAULT]`, after `%%` and `%(other)s`.

        Raises:
            KeyError: there is no such key.
            ValueError: the percent signs make no sense; the message says what to write, and not the value.
        """
        raw = self._raw(section, key)
        if raw is None:
            raise KeyError(key)
        return self._interpolate(raw, section, depth=1)

    def pattern(self, section: str, key: str) -> str:
        """The value of a key whose `%(name)s` are variables, not keys; the percent sign may be doubled there or not.

        Raises:
            KeyError: there is no such key.
        """
        raw = self._raw(section, key)
        if raw is None:
            raise KeyError(key)
        return raw.replace("%%(", "%(")

    def _raw(self, section: str, key: str) -> str | None:
        entry = self._entries.get(section, {}).get(key) or self._entries.get(DEFAULT, {}).get(key)
        return "\n".join(entry.value).rstrip() if entry else None

    def _interpolate(self, text: str, section: str, *, depth: int) -> str:
        if depth > _MAX_DEPTH:
            raise ValueError(f"the references in this value go round in circles; {_PERCENT_HELP}")

        def substitute(match: re.Match[str]) -> str:
            if match[0] == "%%":
                return "%"
            if match["name"] is None:
                raise ValueError(_PERCENT_HELP)
            raw = self._raw(section, match["name"].lower())
            if raw is None:
                raise ValueError(f"it refers to a key that stands neither here nor in [{DEFAULT}]; {_PERCENT_HELP}")
            return self._interpolate(raw, section, depth=depth + 1)

        return _PERCENT.sub(substitute, text)


def read_text(file: Path) -> str:
    """The text of a small UTF-8 file.

    Raises:
        ValueError: it can't be read, isn't UTF-8 text or is over 1 MiB; the message says which, and shows
            nothing of the contents.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except IsADirectoryError:
        raise ValueError("this is a directory, not a file") from None
    except OSError as error:
        raise ValueError(f"the file can't be read: {error.strerror or 'unknown reason'}") from None
    if len(data) > _MAX_BYTES:
        raise ValueError("the file is larger than 1 MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"the file is not UTF-8 text (first at line {line}): save it in UTF-8") from None
    if "\0" in text:
        raise ValueError(
            f"the file holds a NUL character (first at line {text[: text.index(chr(0))].count(chr(10)) + 1})"
        )
    return text


def read_document(file: Path, report: Report) -> Document:
    """Read a file; what is wrong goes to the report, and everything else is still there."""
    try:
        text = read_text(file)
    except ValueError as error:
        report.error(Problem(f"{error}.", origin=Origin(file)))
        return Document(file)
    return _Scanner(file, report).scan(text)


def shown_name(name: str) -> str:
    """A name of the file as it may appear in a message.

    A secret broken over two lines can look like a key, so what doesn't look like a key isn't shown.
    """
    return name if _looks_like_a_name(name) else f"({len(name)} characters)"


def _looks_like_a_name(name: str) -> bool:
    return bool(re.fullmatch(r"[\w.\- ]{1,80}", name)) and (
        len(name) <= _MAX_NAME_SHOWN or "." in name or "_" in name
    )


class _Scanner:
    """One pass over the lines of a file."""

    def __init__(self, file: Path, report: Report) -> None:
        self._document = Document(file)
        self._report = report
        self._section: str | None = None
        self._entry: _Entry | None = None
        self._indent = 0
        self._headless_reported = False

    def scan(self, text: str) -> Document:
        for number, line in self._lines(text):
            content = line.strip()
            if not content:
                # A value goes on after an empty line if a deeper line follows; trailing ones are cut later.
                if self._entry is not None:
                    self._entry.value.append("")
            elif content[0] not in "#;":
                self._take(number, line, content)
        return self._document

    @staticmethod
    def _lines(text: str) -> Iterator[tuple[int, str]]:
        return enumerate(io.StringIO(text, newline=None), start=1)

    def _take(self, number: int, line: str, content: str) -> None:
        indent = len(line) - len(line.lstrip())
        if self._entry is not None and indent > self._indent:
            self._entry.value.append(content)
            return
        self._indent = indent
        self._entry = None
        if header := _SECTION.match(content):
            self._open(number, header[1])
        elif self._section is None:
            self._headless(number)
        elif (option := _OPTION.match(content)) and option[1]:
            self._add(number, option[1].lower(), option[2].strip())
        else:
            self._error(number, "this line is neither `key = value` nor `[section]`, and continues no value.")

    def _open(self, number: int, section: str) -> None:
        self._section = section
        # Sydent's parser takes a second [DEFAULT], and only that.
        if section in self._document.section_lines and section != DEFAULT:
            first = self._document.section_lines[section]
            self._error(number, f"this section stands in line {first} already: join the two.")
        self._document.section_lines.setdefault(section, number)
        self._document._entries.setdefault(section, {})  # noqa: SLF001 - the scanner builds what the class keeps

    def _headless(self, number: int) -> None:
        if not self._headless_reported:
            self._headless_reported = True
            self._error(
                number, "a line stands before the first `[section]`: begin the file with one, e.g. `[general]`."
            )

    def _add(self, number: int, key: str, value: str) -> None:
        assert self._section is not None
        entries = self._document._entries[self._section]  # noqa: SLF001 - the scanner builds what the class keeps
        self._entry = _Entry(number, [value])
        if key in entries:
            self._error(number, f"this key stands in line {entries[key].line} already: keep one of the two.", key)
            return
        entries[key] = self._entry

    def _error(self, number: int, message: str, key: str | None = None) -> None:
        origin = Origin(self._document.file, number)
        name = shown_name(key) if key else None
        section = shown_name(self._section) if self._section else None
        self._report.error(Problem(message, section=section, key=name, origin=origin))
