"""From the file, the environment and the defaults to one checked `Config`.

The one rule: `IDENTITY_SERVER__` variables win over the file, the file over `SYDENT_*` variables, those over
defaults; and nothing is decided twice.
"""

from __future__ import annotations

import difflib
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from identity_server.config import ini
from identity_server.config.checks import Checker
from identity_server.config.keys import FILE_SUFFIX, Key, Section, variables
from identity_server.config.problems import NOWHERE, Origin, Problem, Report
from identity_server.config.sections import Config, all_sections
from identity_server.config.values import Unreadable

_PEER_PREFIX = "peer."
"""Sections of this name describe the peers of Sydent's replication."""

_SYDENT_VARIABLES = {
    "SYDENT_SERVER_NAME": ("general", "server.name"),
    "SYDENT_PID_FILE": ("general", "pidfile.path"),
    "SYDENT_DB_PATH": ("db", "db.file"),
}
_MAX_VALUE_SHOWN = 60


def load(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    strict: bool = False,
    hostname: Callable[[], str] = socket.gethostname,
) -> Config:
    """Read and check the whole configuration.

    Args:
        path: the file; None for `$SYDENT_CONF`, else `./sydent.conf`, else built-in defaults with all data
            in `./data`.
        environ: the environment variables.
        strict: whether names that nobody knows are errors.
        hostname: gives the name of the machine, for want of `server.name`.

    Raises:
        ConfigError: with everything that is wrong.
    """
    report = Report(strict=strict)
    place = _locate(path, environ, report)
    document = ini.Document() if place.file is None else ini.read_document(place.file, report)
    reader = _Reader(document, report)
    reader.take_sydent_variables(environ)
    reader.take_file()
    reader.take_variables(environ)
    config = reader.build(place)
    peers = [name for name in document.sections() if name.startswith(_PEER_PREFIX)]
    checker = Checker(config, report=report, origin=reader.origin, hostname=hostname)
    checked = checker.check(peers=[document.origin(name) for name in peers])
    report.raise_errors()
    return replace(checked, warnings=report.warnings)


@dataclass(frozen=True, slots=True)
class _Place:
    """The file to read, if any, and the defaults that depend on where it is."""

    file: Path | None
    defaults: Mapping[tuple[str, str], str]


def _locate(path: Path | None, environ: Mapping[str, str], report: Report) -> _Place:
    if path is not None:
        return _beside(path, path)
    if named := environ.get("SYDENT_CONF"):
        file = Path(named)
        if _may_be_there(file):
            return _beside(file, file)
        # Sydent's container names a file that its first start creates; we start without it, and create none.
        origin = Origin(variable="SYDENT_CONF")
        report.unknown(Problem(f"{named} doesn't exist: starting with the defaults.", origin=origin))
        return _beside(None, file)
    if _may_be_there(Path("sydent.conf")):
        return _beside(Path("sydent.conf"), Path("sydent.conf"))
    in_data = {
        ("db", "db.file"): "data/db/identity_server.db",
        ("crypto", "key_dir"): "data/keys",
        ("general", "pidfile.path"): "",
    }
    return _Place(None, in_data)


def _may_be_there(file: Path) -> bool:
    """Whether the file exists, or can't be looked for (a closed folder): reading it then says why."""
    try:
        return file.exists()
    except OSError:
        return True


def _beside(file: Path | None, conf: Path) -> _Place:
    return _Place(file, {("crypto", "key_dir"): str(conf.parent / "keys")})


@dataclass(frozen=True, slots=True)
class _Given:
    text: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class _Target:
    """What a variable is for: a key, whose value it holds or names a file with."""

    name: str
    names_a_file: bool


class _Reader:
    """Gathers what is given for each key, then turns it into the sections' objects."""

    def __init__(self, document: ini.Document, report: Report) -> None:
        self._document = document
        self._report = report
        self._sections = {each.name: each for each in all_sections()}
        # By section and name of the key (of a family: of the member).
        self._given: dict[tuple[str, str], _Given] = {}

    def origin(self, section: str, name: str) -> Origin:
        """Where a key's value comes from."""
        given = self._given.get((section, name))
        return given.origin if given else NOWHERE

    # --- gathering, from the weakest source to the strongest -------------------------------

    def take_sydent_variables(self, environ: Mapping[str, str]) -> None:
        for variable, target in _SYDENT_VARIABLES.items():
            # An empty name of the server or the database means nothing; an empty pid file means none.
            if variable in environ and (environ[variable] or target == ("general", "pidfile.path")):
                self._given[target] = _Given(environ[variable].strip(), Origin(variable=variable))

    def take_file(self) -> None:
        for written in self._document.keys(ini.DEFAULT):
            self._take_default(written)
        for name in self._document.sections():
            if name in self._sections:
                self._take_section(self._sections[name])
            elif name != ini.DEFAULT and not name.startswith(_PEER_PREFIX):
                self._unknown_section(name)

    def _take_default(self, written: str) -> None:
        for section in self._sections.values():
            if found := section.find(written):
                if written not in self._document.keys(section.name):
                    self._take_line(section, *found, written)
                return
        self._unknown_key(ini.DEFAULT, written)

    def _take_section(self, section: Section) -> None:
        seen: dict[str, str] = {}
        for written in self._document.keys(section.name):
            found = section.find(written)
            if found is None:
                self._unknown_key(section.name, written)
                continue
            name = _full_name(*found)
            if name in seen:
                origin = self._document.origin(section.name, written)
                self._error(f"`{seen[name]}` above is the same key: keep one of the two.", section.name, name, origin)
            seen[name] = written
            self._take_line(section, *found, written)

    def _take_line(self, section: Section, key: Key, member: str | None, written: str) -> None:
        name = _full_name(key, member)
        origin = self._document.origin(section.name, written)
        try:
            # Also for a key of [DEFAULT]: what it refers to is looked up in the section first, as configparser does.
            read = self._document.pattern if key.has_variables else self._document.value
            self._given[section.name, name] = _Given(read(section.name, written), origin)
        except ValueError as error:
            self._error(f"{error}.", section.name, name, origin)

    def take_variables(self, environ: Mapping[str, str]) -> None:
        taken: set[tuple[str, str]] = set()
        for variable, section, rest in variables(iter(sorted(environ))):
            target = self._target(section, rest)
            if target is None:
                self._unknown_variable(variable)
                continue
            origin = Origin(variable=variable)
            if (section, target.name) in taken:
                self._error("two variables give this key: keep one of the two.", section, target.name, origin)
            taken.add((section, target.name))
            try:
                text = ini.read_text(Path(environ[variable])) if target.names_a_file else environ[variable]
            except ValueError as error:
                self._error(f"{error}.", section, target.name, origin)
                continue
            self._given[section, target.name] = _Given(text.strip(), origin)

    def _target(self, section_name: str, rest: str) -> _Target | None:
        section = self._sections.get(section_name)
        if section is None:
            return None
        if found := section.find_variable(rest):
            return _Target(_full_name(*found), names_a_file=False)
        found = section.find_variable(rest.removesuffix(FILE_SUFFIX))
        return _Target(_full_name(*found), names_a_file=True) if found and found[0].secret else None

    # --- names that nobody knows ----------------------------------------------------------

    def _unknown_section(self, name: str) -> None:
        nearest = _nearest(name, [*self._sections, ini.DEFAULT])
        message = "there is no such section, so nothing in it counts."
        origin = self._document.origin(name)
        self._report.unknown(Problem(message, ini.shown_name(name), None, origin, nearest))

    def _unknown_key(self, section: str, written: str) -> None:
        origin = self._document.origin(section, written)
        homes = [each.name for each in self._sections.values() if each.find(written)]
        if homes:
            self._report.unknown(
                Problem(f"this key belongs into [{homes[0]}]; here it doesn't count.", section, written, origin)
            )
            return
        own = self._sections.get(section)
        known = _names([own] if own else self._sections.values())
        nearest = _nearest(written, known) or _nearest(written, _names(self._sections.values()))
        self._report.unknown(Problem("there is no such key.", section, ini.shown_name(written), origin, nearest))

    def _unknown_variable(self, variable: str) -> None:
        known = [each.variable(key) for each in self._sections.values() for key in each.keys.values()]
        nearest = _nearest(variable, known)
        self._report.unknown(
            Problem("no key has this variable.", origin=Origin(variable=variable), suggestion=nearest)
        )

    # --- from texts to values -------------------------------------------------------------

    def build(self, place: _Place) -> Config:
        built = {each.name: self._build_section(each, place.defaults) for each in self._sections.values()}
        return Config(**built, path=place.file, given=frozenset(self._given))

    def _build_section(self, section: Section, defaults: Mapping[tuple[str, str], str]) -> Any:
        return section.cls(
            **{
                attribute: self._family(section.name, key)
                if key.is_family
                else self._single(section.name, key, defaults.get((section.name, key.name)))
                for attribute, key in section.keys.items()
            }
        )

    def _single(self, section: str, key: Key, default: str | None) -> Any:
        given = self._given.get((section, key.name))
        fallback = key.default_value() if default is None else key.reader.read(default)
        return fallback if given is None else self._value(section, key, key.name, given, fallback)

    def _family(self, section: str, key: Key) -> dict[str, Any]:
        members = key.default_value()
        prefix = key.name.removesuffix("*")
        for (where, name), given in self._given.items():
            if where == section and name.startswith(prefix):
                member = name.removeprefix(prefix)
                if self._is_member(section, key, name, member, given.origin):
                    members[member] = self._value(section, key, name, given, members.get(member))
        return {member: value for member, value in members.items() if value is not None}

    def _is_member(self, section: str, key: Key, name: str, member: str, origin: Origin) -> bool:
        assert key.member_names is not None
        try:
            key.member_names.read(member)
        except ValueError:
            self._error(f"after the last dot there must be {key.member_names.expects}.", section, name, origin)
            return False
        return True

    def _value(self, section: str, key: Key, name: str, given: _Given, fallback: Any) -> Any:
        try:
            return key.reader.read(given.text)
        except Unreadable as error:
            detail = str(error)
        except ValueError:
            # Raised by a library: its text may repeat the value.
            detail = ""
        message = detail or f"this must be {key.reader.expects}{_but_not(key, given.text)}"
        self._error(f"{message}.", section, name, given.origin)
        return fallback

    def _error(self, message: str, section: str, name: str, origin: Origin) -> None:
        self._report.error(Problem(message, section, name, origin))


def _but_not(key: Key, text: str) -> str:
    """The wrong value, where it may be shown: neither a secret nor an address."""
    if key.secret or "@" in text or len(text) > _MAX_VALUE_SHOWN or not text.isprintable():
        return ""
    return f", not `{text}`" if text else ", not empty"


def _full_name(key: Key, member: str | None) -> str:
    return key.name if member is None else key.member_name(member)


def _names(sections: Iterable[Section]) -> list[str]:
    return [key.written_name for section in sections for key in section.keys.values()]


def _nearest(name: str, known: list[str]) -> str | None:
    folded = {each.lower(): each for each in known}
    matches = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.7)
    return folded[matches[0]] if matches else None
