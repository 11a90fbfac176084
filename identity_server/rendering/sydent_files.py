"""The templates that an operator brings along from Sydent: raw mails and one page, in its two forms.

A mail is one file with a whole message in it, headers included: `verification_template.eml`, `invite_template.eml`
and `migration_template.eml`, in Jinja2 where `.j2` follows, else with `%(name)s` for values. The page is
`verify_response_template.html`, always in the latter form.
Rule: files are found and compiled once, at load. Nearest first: our own templates in a brand's directory, Sydent's
in it, then the same in the default brand's. A file that the configuration names stands before them all.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Protocol
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, Template, TemplateError, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from identity_server.rendering.brands import Brands
from identity_server.rendering.faults import BrandingProblems, TemplateFault
from identity_server.rendering.files import read_bounded

MAIL_FILES: Mapping[str, str] = MappingProxyType(
    {
        "verification": "verification_template.eml",
        "invite": "invite_template.eml",
        "migration": "migration_template.eml",
    }
)
"""Which file of Sydent's stands for which mail of ours."""

_PAGE_FILE = "verify_response_template.html"

ALWAYS = frozenset({"messageid", "date", "to", "from", "multipart_boundary"})
"""What every mail template is given."""

_PAGE_VARIABLE = "message"
_JINJA = ".j2"
_MAX_BYTES = 524_288
_LITERAL_BOUNDARY = re.compile(r"boundary\s*=\s*\"?([A-Za-z0-9'()+_,./:=?-]{8,70})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SydentOverrides:
    """Single files that the configuration names; they stand before every brand's.

    Attributes:
        verification: `email.template`.
        invite: `email.invite_template`.
        page: `verify_response_template`.
    """

    verification: Path | None = None
    invite: Path | None = None
    page: Path | None = None


class _Form(Protocol):
    """A template in one of the two forms."""

    def shows(self, name: str) -> bool:
        """Whether the template may use this value."""

    def render(self, values: Mapping[str, str]) -> str:
        """The text; a value that isn't there is empty.

        Raises:
            TemplateFault: it can't be made; the text names file and line.
        """

    def unknown(self, names: frozenset[str]) -> Iterator[str]:
        """What the template asks for beyond these names, with file and line."""


@dataclass(frozen=True, slots=True)
class RawMail:
    """A mail template with a whole message in it.

    Attributes:
        file: where it stands.
        form: the compiled template.
        source: its text, as the operator wrote it.
    """

    file: Path
    form: _Form
    source: str

    def render(self, values: Mapping[str, str]) -> str:
        """The raw message.

        Raises:
            TemplateFault: it can't be made.
        """
        # A boundary that is the same in every mail is known to whoever chooses the values.
        boundaries = _LITERAL_BOUNDARY.findall(self.source)
        return self.form.render({name: _without(value, boundaries) for name, value in values.items()})

    def mentions(self, text: str) -> bool:
        """Whether the operator himself wrote this, whatever the case."""
        return text.lower() in self.source.lower()


class SydentFiles:
    """Every template in Sydent's form, by brand."""

    def __init__(
        self,
        brands: Brands,
        *,
        own: Mapping[Path, frozenset[str]],
        mails: Mapping[tuple[Path, str], RawMail],
        pages: Mapping[Path, LegacyText],
        override_mails: Mapping[str, RawMail],
        override_page: LegacyText | None,
    ) -> None:
        self._brands = brands
        self._own = own
        self._mails = mails
        self._pages = pages
        self._override_mails = override_mails
        self._override_page = override_page

    @classmethod
    def load(cls, brands: Brands, *, root: Path | None, overrides: SydentOverrides) -> SydentFiles:
        """Find and compile every file.

        Args:
            brands: the brands there are.
            root: `templates.path`, which Jinja2 templates may include others from.
            overrides: the files that the configuration names.

        Raises:
            BrandingProblems: everything that is wrong, with file and line.
        """
        names = (None, *brands.named)
        directories = sorted({each for name in names for each in brands.find(name).directories})
        loader = _Loader()
        found = cls(
            brands,
            own={each: _own_templates(each) for each in directories},
            mails={
                (each, mail): loaded
                for each in directories
                for mail, file_name in MAIL_FILES.items()
                if (file := _existing(each / f"{file_name}{_JINJA}", each / file_name)) is not None
                and (loaded := loader.mail(file, root or each)) is not None
            },
            pages={
                each: page
                for each in directories
                if (file := _existing(each / _PAGE_FILE)) is not None and (page := loader.page(file)) is not None
            },
            override_mails={
                mail: loaded
                for mail, file in (("verification", overrides.verification), ("invite", overrides.invite))
                if file is not None and (loaded := loader.mail(file, file.parent)) is not None
            },
            override_page=None if overrides.page is None else loader.page(overrides.page),
        )
        if loader.problems:
            raise BrandingProblems(loader.problems)
        return found

    def mail(self, template: str, brand: str | None) -> RawMail | None:
        """The template in Sydent's form for a mail, or None where one of ours is nearer."""
        if template in self._override_mails:
            return self._override_mails[template]
        for directory in self._brands.find(brand).directories:
            if f"mail/{template}" in self._own[directory]:
                return None
            if (directory, template) in self._mails:
                return self._mails[directory, template]
        return None

    def page(self, brand: str | None) -> LegacyText | None:
        """The page after a validation in Sydent's form, or None where ours is nearer."""
        if self._override_page is not None:
            return self._override_page
        for directory in self._brands.find(brand).directories:
            if "pages/confirmed" in self._own[directory]:
                return None
            if directory in self._pages:
                return self._pages[directory]
        return None

    def silences(self, template: str, brand: str | None) -> bool:
        """Whether a mail that Sydent doesn't know must not be sent: the mails of the brand are Sydent's."""
        if template in MAIL_FILES:
            return False
        for directory in self._brands.find(brand).directories:
            if f"mail/{template}" in self._own[directory]:
                return False
            if any((directory, each) in self._mails for each in MAIL_FILES):
                return True
        return bool(self._override_mails)

    def list_mails(self) -> list[tuple[str, RawMail]]:
        """Every mail template that is in use, once, with the mail it is for."""
        in_use = {
            raw.file: (template, raw)
            for brand in (None, *self._brands.named)
            for template in MAIL_FILES
            if (raw := self.mail(template, brand)) is not None
        }
        return list(in_use.values())


class _Loader:
    """Compiles files and notes what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._environments: dict[Path, Environment] = {}

    def mail(self, file: Path, root: Path) -> RawMail | None:
        try:
            source = _read(file)
            form = self._jinja(file, root, source) if file.name.endswith(_JINJA) else LegacyText.parse(source, file)
        except ValueError as error:
            self.problems.append(str(error))
            return None
        return RawMail(file, form, source)

    def page(self, file: Path) -> LegacyText | None:
        try:
            page = LegacyText.parse(_read(file, keep_bytes=True), file)
        except ValueError as error:
            self.problems.append(str(error))
            return None
        self.problems.extend(page.unknown(frozenset({_PAGE_VARIABLE})))
        return page

    def _jinja(self, file: Path, root: Path, source: str) -> _JinjaText:
        environment = self._environments.setdefault(root, _environment(root))
        try:
            syntax = environment.parse(source)
            template = environment.get_template(file.relative_to(root).as_posix())
        except TemplateSyntaxError as error:
            raise ValueError(f"{file}, line {error.lineno}: {error.message}") from None
        except (TemplateError, UnicodeError) as error:
            raise ValueError(f"{file}: {type(error).__name__}") from None
        # What a template brings in from others isn't looked into: it may use anything.
        stands_alone = not list(meta.find_referenced_templates(syntax))
        return _JinjaText(file, template, frozenset(meta.find_undeclared_variables(syntax)) if stands_alone else None)


def _environment(root: Path) -> ImmutableSandboxedEnvironment:
    """As Sydent's: everything is escaped unless the template says that it is safe, what is missing is empty."""
    return ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(root), autoescape=True, auto_reload=False, keep_trailing_newline=True
    )


@dataclass(frozen=True, slots=True)
class _JinjaText:
    """A template in Jinja2.

    Attributes:
        names: the values it uses, or None where that can't be told.
    """

    file: Path
    template: Template
    names: frozenset[str] | None

    def shows(self, name: str) -> bool:
        return self.names is None or name in self.names

    def render(self, values: Mapping[str, str]) -> str:
        try:
            return self.template.render(values)
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            # The text of the error may quote a value, so only its kind is told.
            lines = [
                number
                for frame, number in traceback.walk_tb(error.__traceback__)
                if frame.f_code.co_filename == self.template.filename
            ]
            where = f"{self.file}, line {lines[-1]}" if lines else str(self.file)
            raise TemplateFault(f"{where}: {type(error).__name__}") from None

    def unknown(self, _names: frozenset[str]) -> Iterator[str]:
        # For Sydent what is missing here is empty, and many templates count on that.
        return iter(())


@dataclass(frozen=True, slots=True)
class _Slot:
    """A place for a value.

    Attributes:
        name: of the value, as written.
        conversion: how it is to be printed, in the words of Python's `%`.
        line: where it stands.
    """

    name: str
    conversion: str
    line: int


@dataclass(frozen=True, slots=True)
class LegacyText:
    """A template with `%(name)s` for values, `%(name_forhtml)s` and `%(name_forurl)s` for escaped ones, `%%` for %."""

    file: Path
    pieces: tuple[str | _Slot, ...]

    @classmethod
    def parse(cls, source: str, file: Path) -> LegacyText:
        """Compile.

        Raises:
            ValueError: a % stands for nothing; the text names file and line.
        """
        pieces: list[str | _Slot] = []
        line, end = 1, 0
        for match in _PERCENT.finditer(source):
            line += source.count("\n", end, match.start())
            pieces.append(source[end : match.start()])
            end = match.end()
            if match["percent"]:
                pieces.append("%")
            elif match["name"] is not None:
                pieces.append(_Slot(match["name"], f"%{match['format']}s", line))
            else:
                raise ValueError(f"{file}, line {line}: a % must be written %%, and a value like %(name)s")
        return cls(file, (*pieces, source[end:]))

    def shows(self, name: str) -> bool:
        return any(_base(slot.name)[0] == name for slot in self._slots())

    def render(self, values: Mapping[str, str]) -> str:
        return "".join(piece if isinstance(piece, str) else _fill(piece, values) for piece in self.pieces)

    def unknown(self, names: frozenset[str]) -> Iterator[str]:
        return (
            f"{self.file}, line {slot.line}: there is no value named {slot.name}"
            for slot in self._slots()
            if _base(slot.name)[0] not in names
        )

    def page(self, message: str) -> str:
        """A page with this message on it."""
        return self.render({_PAGE_VARIABLE: escape(message)})

    def _slots(self) -> Iterator[_Slot]:
        return (piece for piece in self.pieces if isinstance(piece, _Slot))


_PERCENT = re.compile(r"%(?:(?P<percent>%)|\((?P<name>[^()\s]+)\)(?P<format>-?[0-9]{0,3}(?:\.[0-9]{1,3})?)s|)")
_ESCAPES: Mapping[str, Callable[[str], str]] = MappingProxyType({"_forhtml": escape, "_forurl": quote})


def _base(name: str) -> tuple[str, str]:
    """A name without what says how to escape it, and that."""
    for suffix in _ESCAPES:
        if name.endswith(suffix):
            return name.removesuffix(suffix), suffix
    return name, ""


def _fill(slot: _Slot, values: Mapping[str, str]) -> str:
    # The escaped form is always made here: a request may well hold a `room_name_forhtml` of its own.
    base, suffix = _base(slot.name)
    value = values.get(base, "")
    return slot.conversion % (_ESCAPES[suffix](value) if suffix else value,)


def _without(value: str, boundaries: list[str]) -> str:
    for boundary in boundaries:
        value = value.replace(boundary, " ")
    return value


def _own_templates(directory: Path) -> frozenset[str]:
    """The mails and pages that a directory has templates of ours for, like `mail/verification`."""
    return frozenset(
        f"{folder}/{file.name.partition('.')[0]}"
        for folder in ("mail", "pages")
        for file in (directory / folder).glob(f"*{_JINJA}")
    )


def _existing(*files: Path) -> Path | None:
    return next((file for file in files if file.is_file()), None)


def _read(file: Path, *, keep_bytes: bool = False) -> str:
    """Read a file of text.

    Args:
        file: the file.
        keep_bytes: whether the text must encode to the same bytes again: line ends and byte order mark stay.

    Raises:
        ValueError: it can't be read, is too large or isn't UTF-8.
    """
    try:
        raw = read_bounded(file, max_bytes=_MAX_BYTES)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{file}, line {line}: not UTF-8") from None
    if keep_bytes:
        return text
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
