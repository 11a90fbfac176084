"""Brands: whose name, colour and words stand on mails and pages, and whose files replace ours.

A brand is a subdirectory of `templates.path`. A file in it replaces the packaged one of the same name
(`mail/verification.html.j2`, `pages/confirm.html.j2` ...), one by one; `brand.toml` sets the variables. Templates in
Sydent's form are found by `sydent_files.py`.
Rule: brands are listed once, at load. A name from the network is looked up in that list and never becomes a path.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from identity_server.rendering.colours import Colour
from identity_server.rendering.faults import BrandingProblems
from identity_server.rendering.files import read_bounded

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SETTINGS = "brand.toml"
_MAX_SETTINGS_BYTES = 16_384
_MAX_TEXT = 500
_SUPPORT = re.compile(r"https?://[^\s/]\S*|[^\s@:/?&#%]+@[^\s@:/?&#%]+")


@dataclass(frozen=True, slots=True)
class Brand:
    """What a brand sets.

    Attributes:
        name: shown to people.
        logo_text: the name as it stands at the top of pages and mails.
        colour: the accent; it is darkened or lightened where it would be hard to read.
        support: an address or URL for questions, or None.
        language: for readers who want none that there is; None for the server's default.
        footer: closing line by language tag; the tag "" stands for every other language.
    """

    name: str
    logo_text: str
    colour: Colour
    support: str | None = None
    language: str | None = None
    footer: Mapping[str, str] = field(default_factory=dict)

    @property
    def support_url(self) -> str | None:
        """What to link the support contact to."""
        if self.support is None or self.support.startswith(("http://", "https://")):
            return self.support
        return f"mailto:{self.support}"

    def footer_in(self, language: str) -> str:
        """The closing line for a language, or "" where there is none."""
        return self.footer.get(language) or self.footer.get("", "")


@dataclass(frozen=True, slots=True)
class BrandSource:
    """A brand and the directories its files are looked for in, first come first served."""

    brand: Brand
    directories: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Brands:
    """Every brand there is.

    Attributes:
        default: for readers who ask for no brand, or for one that we don't have.
        named: by directory name.
    """

    default: BrandSource
    named: Mapping[str, BrandSource]

    def find(self, name: str | None) -> BrandSource:
        """The brand of this name, else the default."""
        return self.named.get(name or "", self.default)


def load_brands(path: Path | None, *, default_brand: str, server_name: str) -> Brands:
    """List the brands under `templates.path`; None is for a server that has no such directory.

    Raises:
        BrandingProblems: the directory or a `brand.toml` can't be used.
    """
    plain = Brand(name=server_name, logo_text=server_name, colour=Colour.parse("#0b6b6b"))
    if path is None:
        return Brands(default=BrandSource(plain, ()), named={})
    if not path.is_dir():
        raise BrandingProblems([f"{path}: templates.path is not a directory"])
    directories = {each.name: each for each in sorted(path.iterdir()) if each.is_dir() and _NAME.fullmatch(each.name)}
    problems: list[str] = []
    fallback = directories.get(default_brand)
    default = plain if fallback is None else _read_settings(fallback, plain, problems)
    named = {
        name: BrandSource(
            _read_settings(directory, default, problems),
            (directory,) if fallback in {None, directory} else (directory, fallback),
        )
        for name, directory in directories.items()
        if directory != fallback
    }
    whole_default = BrandSource(default, () if fallback is None else (fallback,))
    if fallback is not None:
        named[default_brand] = whole_default
    if problems:
        raise BrandingProblems(problems)
    return Brands(default=whole_default, named=named)


def _read_settings(directory: Path, fallback: Brand, problems: list[str]) -> Brand:
    """Read a brand's `brand.toml`; where there is none, `fallback` stands."""
    file = directory / _SETTINGS
    if not file.exists():
        return fallback
    try:
        settings = tomllib.loads(read_bounded(file, max_bytes=_MAX_SETTINGS_BYTES).decode("utf-8"))
    except ValueError as error:
        problems.append(f"{file}: {error}")
        return fallback
    reader = _SettingsReader(file, settings, problems)
    name = reader.text("name") or fallback.name
    brand = Brand(
        name=name,
        logo_text=reader.text("logo_text") or name,
        colour=reader.colour("colour") or fallback.colour,
        support=reader.support("support"),
        language=reader.text("language"),
        footer=reader.footer("footer"),
    )
    reader.report_unknown()
    return brand


class _SettingsReader:
    """Takes typed values out of one `brand.toml` and notes what is wrong with it."""

    def __init__(self, file: Path, settings: Mapping[str, Any], problems: list[str]) -> None:
        self._file = file
        self._settings = dict(settings)
        self._problems = problems

    def text(self, key: str) -> str | None:
        value = self._settings.pop(key, None)
        return None if value is None else self._line(key, value)

    def colour(self, key: str) -> Colour | None:
        text = self.text(key)
        try:
            return None if text is None else Colour.parse(text)
        except ValueError as error:
            self._complain(key, str(error))
            return None

    def support(self, key: str) -> str | None:
        text = self.text(key)
        if text is not None and not _SUPPORT.fullmatch(text):
            self._complain(key, "must be an e-mail address or an http(s) URL")
            return None
        return text

    def footer(self, key: str) -> dict[str, str]:
        value = self._settings.pop(key, {})
        by_language = value if isinstance(value, dict) else {"": value}
        lines = {tag: self._line(f"{key}.{tag}".rstrip("."), line) for tag, line in by_language.items()}
        return {tag: line for tag, line in lines.items() if line is not None}

    def report_unknown(self) -> None:
        for key in self._settings:
            self._complain(key, "is not a setting of a brand")

    def _line(self, key: str, value: object) -> str | None:
        if isinstance(value, str) and 0 < len(value) <= _MAX_TEXT and value.isprintable():
            return value
        self._complain(key, f"must be one line of text, at most {_MAX_TEXT} characters")
        return None

    def _complain(self, key: str, what: str) -> None:
        self._problems.append(f"{self._file}: {key} {what}")
