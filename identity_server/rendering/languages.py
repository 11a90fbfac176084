"""The languages that mails and pages come in: catalogues, negotiation, dates.

Rule: whatever a client says about languages, the answer is a language that we have; nothing here raises on
input from the network.
"""

from __future__ import annotations

import gettext
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from identity_server.domain.durations import MINUTE_MS

PACKAGED_LANGUAGES = Path(__file__).parent.parent / "templates" / "languages"
"""Where the catalogues of this package lie."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FEW_HOURS = 6
_TWO_DAYS = 48
_MAX_HEADER = 1_000
_MAX_TAGS = 20
_MAX_TAG = 35
# A tag (or `*`), then optionally its weight (RFC 9110, section 12.5.4).
_RANGE = re.compile(
    r"\s*(?P<tag>\*|[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*)\s*(?:;\s*[qQ]\s*=\s*(?P<q>[01](?:\.[0-9]{0,3})?)\s*)?"
)


@dataclass(frozen=True, slots=True)
class Language:
    """A language that we have a catalogue for.

    Attributes:
        tag: its BCP 47 tag, for `lang` attributes and `Content-Language`.
        name: what its own speakers call it.
        translations: the catalogue.
    """

    tag: str
    name: str
    translations: gettext.NullTranslations = field(repr=False)
    _months: tuple[str, ...] = field(repr=False)

    def moment(self, timestamp_ms: int | str) -> str:
        """A point of time for people, to the minute, in UTC.

        Args:
            timestamp_ms: milliseconds since the Unix epoch.

        Raises:
            ValueError: not a number, or beyond the calendar.
        """
        try:
            when = _EPOCH + timedelta(milliseconds=int(timestamp_ms))
        except OverflowError:
            raise ValueError("a time beyond the calendar") from None
        month = self._months[when.month - 1]
        date = self.translations.gettext("%(day)s %(month)s %(year)s")
        moment = self.translations.gettext("%(date)s at %(time)s UTC")
        return moment % {
            "date": date % {"day": when.day, "month": month, "year": when.year},
            "time": f"{when:%H:%M}",
        }

    def span(self, duration_ms: int) -> str:
        """A length of time for people, in the largest unit that suits it, rounded up.

        >>> Languages.load().default.span(90 * 60_000)
        '90 minutes'
        """
        ngettext = self.translations.ngettext
        minutes = max(math.ceil(duration_ms / MINUTE_MS), 1)
        hours, days, years = (math.ceil(minutes / each) for each in (60, 60 * 24, 60 * 24 * 365))
        if minutes < _FEW_HOURS * 60 and minutes % 60:
            return ngettext("%(count)s minute", "%(count)s minutes", minutes) % {"count": minutes}
        if hours <= _TWO_DAYS:
            return ngettext("%(count)s hour", "%(count)s hours", hours) % {"count": hours}
        if days % 365:
            return ngettext("%(count)s day", "%(count)s days", days) % {"count": days}
        return ngettext("%(count)s year", "%(count)s years", years) % {"count": years}


class Languages:
    """The catalogues at hand, and which of them fits a reader."""

    def __init__(self, languages: Mapping[str, Language], *, default: str) -> None:
        """Take catalogues by tag.

        Raises:
            ValueError: there is none for the default language.
        """
        if default not in languages:
            raise ValueError(f"no catalogue for the default language {default!r}; there are: {', '.join(languages)}")
        self._languages = dict(languages)
        self._by_folded_tag = {tag.casefold(): language for tag, language in languages.items()}
        self.default = self._languages[default]

    @classmethod
    def load(cls, directory: Path = PACKAGED_LANGUAGES, *, default: str = "en") -> Languages:
        """Read every `<tag>.po` of a directory and compile it in memory.

        Raises:
            ValueError: a catalogue is broken, or there is none for the default language.
        """
        languages = {path.stem: _read(path) for path in sorted(directory.glob("*.po"))}
        return cls(languages, default=default)

    @property
    def all(self) -> tuple[Language, ...]:
        """Every language, in the order of the tags."""
        return tuple(self._languages.values())

    def name_of(self, tag: str) -> str:
        """What its own speakers call a language, whether or not we have it; the tag where nobody knows."""
        ours = self._by_folded_tag.get(tag.casefold())
        return _native_name(tag) if ours is None else ours.name

    def find(self, tag: str | None) -> Language | None:
        """The language for exactly this tag, or for a shorter form of it (`fr-CA` finds `fr`)."""
        subtags = (tag or "")[:_MAX_TAG].casefold().replace("_", "-").split("-")
        for length in range(len(subtags), 0, -1):
            found = self._by_folded_tag.get("-".join(subtags[:length]))
            if found is not None:
                return found
        return None

    def negotiate(self, wanted: Iterable[str], *, default: Language | None = None) -> Language:
        """The first wanted language that we have (RFC 4647, "Lookup"), else the default, or the one given instead."""
        otherwise = default or self.default
        for tag in islice(wanted, _MAX_TAGS):
            found = otherwise if tag == "*" else self.find(tag)
            if found is not None:
                return found
        return otherwise


def parse_accept_language(header: str | None) -> tuple[str, ...]:
    """The tags of an `Accept-Language` header, best first; what can't be read is left out.

    >>> parse_accept_language("en;q=0.5, fr-CH, *;q=0.1")
    ('fr-CH', 'en', '*')
    """
    weighted: list[tuple[float, str]] = []
    for item in (header or "")[:_MAX_HEADER].split(",")[:_MAX_TAGS]:
        match = _RANGE.fullmatch(item)
        if match is None or len(match["tag"]) > _MAX_TAG:
            continue
        weight = min(float(match["q"] or 1), 1.0)
        if weight > 0:
            weighted.append((weight, match["tag"]))
    weighted.sort(key=lambda pair: -pair[0])
    return tuple(tag for _, tag in weighted)


@cache
def _native_name(tag: str) -> str:
    """What its own speakers call a language that we have no catalogue for, or the tag where nobody knows."""
    # Its names of languages come with everything else it knows of them: megabytes that few servers need.
    from babel import Locale  # noqa: PLC0415
    from babel.core import UnknownLocaleError  # noqa: PLC0415

    try:
        return str(Locale.parse(tag, sep="-").get_display_name() or tag).capitalize()
    except (ValueError, UnknownLocaleError):
        return tag


@cache
def _read(path: Path) -> Language:
    """Read a catalogue, once in a process: it comes with the package, like code."""
    with path.open("rb") as file:
        catalogue = read_po(file, locale=path.stem.replace("-", "_"), abort_invalid=True)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    translations = gettext.GNUTranslations(compiled)
    return Language(
        tag=path.stem,
        name=translations.pgettext("this language, in itself", "English"),
        translations=translations,
        _months=_months(translations),
    )


def _months(translations: gettext.NullTranslations) -> tuple[str, ...]:
    # Not asked of Babel, whose data on dates takes a process megabytes for each language; a test compares.
    return (
        translations.pgettext("in a date", "January"),
        translations.pgettext("in a date", "February"),
        translations.pgettext("in a date", "March"),
        translations.pgettext("in a date", "April"),
        translations.pgettext("in a date", "May"),
        translations.pgettext("in a date", "June"),
        translations.pgettext("in a date", "July"),
        translations.pgettext("in a date", "August"),
        translations.pgettext("in a date", "September"),
        translations.pgettext("in a date", "October"),
        translations.pgettext("in a date", "November"),
        translations.pgettext("in a date", "December"),
    )
