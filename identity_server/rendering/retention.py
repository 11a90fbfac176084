"""The schedule of retention in words: for the page, for the documentation, for programs.

Rule: nothing is said here that the schedule doesn't say; this only puts it into a language.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from identity_server.domain.retention import Form, Kept
from identity_server.rendering.languages import Language


def N_(text: str) -> str:  # noqa: N802 - the name by which gettext's tools know what is to be translated
    return text


_FORMS = MappingProxyType(
    {
        Form.SEALED: N_("encrypted"),
        Form.KEYED: N_("fingerprint made with a secret key"),
        Form.DIGEST: N_("fingerprint"),
        Form.SLOW: N_("slow fingerprint made with a secret key"),
        Form.READABLE: N_("readable"),
    }
)


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row in a language: what is kept, why, how (a line for each part of it), and until when."""

    what: str
    why: str
    how: tuple[str, ...]
    until: str


def shown(row: Kept, language: Language) -> ShownRow:
    """A row in a language."""
    gettext = language.translations.gettext
    how = (
        gettext("%(what)s (%(forms)s)")
        % {"what": gettext(part.what), "forms": ", ".join(gettext(_FORMS[form]) for form in part.forms)}
        for part in row.parts
    )
    return ShownRow(what=gettext(row.what), why=gettext(row.why), how=tuple(how), until=_until(row, language))


def markdown(schedule: Iterable[Kept], language: Language) -> str:
    """The schedule as a table in Markdown."""
    gettext = language.translations.gettext
    headings = gettext("What"), gettext("What for"), gettext("How"), gettext("For how long")
    rows = (shown(each, language) for each in schedule)
    cells = ((f"**{row.what}**", row.why, "<br>".join(row.how), row.until) for row in rows)
    lines = [headings, ("---",) * len(headings), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_json(row: Kept, language: Language) -> Mapping[str, Any]:
    """A row for programs: its words in a language, and what they are made of."""
    words = shown(row, language)
    return {
        "what": words.what,
        "what_for": words.why,
        "how": list(words.how),
        "for_how_long": words.until,
        "at_most_ms": row.at_most_ms,
        "sweep": None if row.sweep is None else row.sweep.name,
        "sweep_every_ms": None if row.sweep is None else row.sweep.every_ms,
        "is_personal": row.is_personal,
        "parts": [
            {"what": part.what, "forms": [form.value for form in part.forms], "columns": list(part.columns)}
            for part in row.parts
        ],
    }


def _until(row: Kept, language: Language) -> str:
    gettext = language.translations.gettext
    until = gettext(row.until)
    if row.at_most_ms is not None:
        until %= {"time": language.span(row.at_most_ms)}
    if row.sweep is None:
        return until
    removed = {"until": until, "time": language.span(row.sweep.every_ms)}
    return gettext("%(until)s; then removed within %(time)s") % removed
