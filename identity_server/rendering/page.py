"""A page: a value with every header that it needs, made by one frame.

Rule: a page works without JavaScript, loads nothing, and comes with the headers that keep it so. Turning it into a
response is `api/`'s part.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from markupsafe import Markup

from identity_server.rendering.languages import Language, parse_accept_language
from identity_server.rendering.templates import Templates


@dataclass(frozen=True, slots=True)
class Page:
    """A page, ready to be sent.

    Attributes:
        status: the HTTP status.
        html: the document, to be sent as UTF-8.
        headers: every header it needs, `Content-Type` included.
    """

    status: int
    html: str = field(repr=False)
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads a page.

    Attributes:
        lang: the language chosen on a page (`lang` in the query or form), or None.
        accept_language: the header as it came, or None.
        brand: the brand asked for, or None.
    """

    lang: str | None = None
    accept_language: str | None = None
    brand: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A link in the language switch: what it is called, its tag and its target."""

    name: str
    tag: str
    url: str


class PageMaker:
    """Makes pages from `templates/pages/`: the words are the template's, all else is the same for every page."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates

    @property
    def server_name(self) -> str:
        """The identity server's name."""
        return self._templates.server_name

    def make(
        self,
        name: str,
        reader: Reader,
        *,
        status: int = 200,
        here: str | None = None,
        language: Language | None = None,
        links: Sequence[Link] | None = None,
        current: str | None = None,
        form_targets: Sequence[str] = ("'none'",),
        variables: Mapping[str, object] | None = None,
        extra: Mapping[str, str] | None = None,
        indexable: bool = False,
    ) -> Page:
        """Make a page.

        Args:
            name: of its template in `templates/pages/`.
            reader: who reads it.
            status: the HTTP status.
            here: the address by which it can be asked for again; None leaves the language switch out.
            language: of the frame, where that isn't up to the reader.
            links: the language switch, where it isn't the usual one.
            current: the tag that is marked in it.
            form_targets: CSP sources that its forms may lead to.
            variables: what its template shows.
            extra: further headers.
            indexable: whether search engines may keep it.
        """
        language = language or self.language_of(reader)
        style = self._style(language, reader.brand)
        html = self._templates.render(
            f"pages/{name}.html.j2",
            language=language,
            brand=reader.brand,
            variables={
                "style": Markup(style),  # noqa: S704 - our own template; the brand's colour is a parsed one
                "links": self._switch(here, reader.brand) if links is None else links,
                "current": current or language.tag,
                **(variables or {}),
            },
        )
        headers = _page_headers(style=style, language=language.tag, form_targets=form_targets, indexable=indexable)
        # A lone surrogate from a query could not be encoded; a question mark can.
        html = html.encode("utf-8", "replace").decode("utf-8")
        return Page(status=status, html=html, headers={**headers, **(extra or {})})

    def language_of(self, reader: Reader) -> Language:
        """What is spoken to a reader: what they chose on a page, else what their browser asks for, else the brand's."""
        chosen = self._templates.languages.find(reader.lang)
        return chosen or self._templates.language_for(parse_accept_language(reader.accept_language), reader.brand)

    def within_brand(self, url: str, brand: str | None) -> str:
        """A link or the target of a form, made to ask for the brand that its reader has asked for."""
        return _with(url, self._templates.asking_for(brand))

    def _switch(self, here: str | None, brand: str | None) -> list[Link]:
        if here is None:
            return []
        languages = self._templates.languages.all
        return [
            Link(each.name, each.tag, _with(self.within_brand(here, brand), [("lang", each.tag)]))
            for each in languages
        ]

    def _style(self, language: Language, brand: str | None) -> str:
        style = self._templates.render("pages/style.css.j2", language=language, brand=brand, variables={})
        # The hash is of what stands between the tags, to the byte; browsers read CRLF as LF.
        return style.replace("\r\n", "\n").replace("</", "<\\/")


def _page_headers(
    *, style: str, language: str, form_targets: Sequence[str] = ("'none'",), indexable: bool = False
) -> dict[str, str]:
    """The headers of a page: it may show itself, use this one stylesheet, and send its form; nothing else.

    Args:
        style: the text of its `<style>` element.
        language: its language tag.
        form_targets: CSP sources that its form may lead to. Browsers hold redirects after a POST to them, too.
        indexable: whether search engines may keep it.
    """
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        f"form-action {' '.join(form_targets)}",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Language": language,
        "Content-Security-Policy": "; ".join(policy),
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return headers if indexable else {**headers, "X-Robots-Tag": "noindex"}


def _with(url: str, added: Sequence[tuple[str, str]]) -> str:
    """The URL with parameters added to its query, or put in the place of what it had under these names."""
    parts, names = urlsplit(url), {name for name, _ in added}
    kept = [each for each in parse_qsl(parts.query, keep_blank_values=True) if each[0] not in names]
    return urlunsplit(parts._replace(query=urlencode([*kept, *added], errors="replace")))
