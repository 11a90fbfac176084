"""The pages that people see in a browser: confirm, results, errors, policies.

Rule: a page works without JavaScript, loads nothing, and comes with the headers that keep it so. It is a
value (`Page`); turning it into a response is `api/`'s part.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import email_validator
from markupsafe import Markup

from identity_server.domain.identifiers import Medium
from identity_server.rendering.faults import BrandingProblems, TemplateFault
from identity_server.rendering.languages import Language, parse_accept_language
from identity_server.rendering.policies import PolicyDocument
from identity_server.rendering.templates import Templates

_HOST = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,252}[a-z0-9])?|\[[0-9a-f:.]+\]")
_MAX_LINK = 2_000
_DEFAULT_PORTS = {"http": 80, "https": 443}
_OK = 200
_TOO_MANY_REQUESTS = 429
_UNAVAILABLE = 503
_SERVER_ERROR = 500
# What `verify_response_template` shows; its words are the operator's, in whatever language that is, but for these.
_LINK_HAS_WORKED = "Your email address is confirmed. You can close this page and go on where you came from."
_LINK_HAS_FAILED = "This link is wrong or no longer valid. Please go back to your app and ask for a new mail."
# A page of the operator's has styles, scripts and pictures of its own, which a policy of ours would break.
_FOREIGN_PAGE_HEADERS = MappingProxyType(
    {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Robots-Tag": "noindex",
    }
)
_STATUSES_WITH_WORDS = (404, _TOO_MANY_REQUESTS, _SERVER_ERROR, _UNAVAILABLE)


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


class Pages:
    """Makes every page from `templates/pages/`.

    Where a method takes `here`, that is the address by which the page can be asked for again (a relative one
    will do, and is the safest behind proxies); the language switch adds `lang` to it. None leaves the switch
    out: a page that answers a POST can't be asked for again.
    """

    def __init__(self, templates: Templates) -> None:
        self._templates = templates

    def confirm(
        self,
        reader: Reader,
        *,
        here: str,
        action: str,
        token: str,
        address: str,
        user_id: str | None,
        next_link: str | None,
        expires_at_ms: int,
    ) -> Page:
        """The page that a mailed link opens: it says what is being confirmed, and its one button confirms.

        Args:
            reader: who reads it.
            here: the address of this page, token included.
            action: where the button POSTs `token` and `lang` to.
            token: the token of the mailed link.
            address: the address to be confirmed.
            user_id: the Matrix ID that asked, or None where none did (v1).
            next_link: where the answer to the POST will redirect to, or None.
            expires_at_ms: until when the button works.
        """
        next_origin = origin_of(next_link)
        return self._page(
            "confirm",
            reader,
            here=here,
            form_targets=("'self'", *((next_origin,) if next_origin else ())),
            variables={
                "action": action,
                "token": token,
                "address": address,
                "user_id": user_id,
                "next_host": host_of(next_link),
                "expires_at_ms": expires_at_ms,
            },
        )

    def confirmed(
        self,
        reader: Reader,
        *,
        here: str | None = None,
        continue_to: str | None = None,
        medium: Medium = Medium.EMAIL,
    ) -> Page:
        """The address is confirmed.

        Args:
            reader: who reads it.
            here: see the class.
            continue_to: a next_link that may not be redirected to; it is named and left to the reader.
            medium: what kind of address it is.
        """
        host = host_of(continue_to)
        variables = {"continue_to": continue_to if host else None, "next_host": host, "medium": medium}
        return self._page("confirmed", reader, here=here, variables=variables)

    def failed(
        self, reader: Reader, *, here: str | None = None, status: int = 400, medium: Medium = Medium.EMAIL
    ) -> Page:
        """The link is wrong, over or used up; says what to do next, which depends on the kind of address."""
        return self._page("failed", reader, here=here, status=status, variables={"medium": medium})

    def followed(self, reader: Reader, *, status: int = 200) -> Page | None:
        """The operator's own page after a mailed link of Sydent's kind was followed, or None where there is none.

        Args:
            reader: who reads it; only the brand counts.
            status: anything but 200 says that the link is wrong or over.
        """
        template = self._templates.sydent.page(reader.brand)
        if template is None:
            return None
        message = _LINK_HAS_WORKED if status == _OK else _LINK_HAS_FAILED
        return Page(status=status, html=template.page(message), headers=_FOREIGN_PAGE_HEADERS)

    def error(
        self, reader: Reader, *, status: int, here: str | None = None, retry_after_seconds: int | None = None
    ) -> Page:
        """Anything else that goes wrong.

        Args:
            reader: who reads it.
            status: 429 and 503 have words of their own; other 5xx and 4xx share theirs.
            here: see the class.
            retry_after_seconds: for 429 and 503; also sent as `Retry-After`.
        """
        kind = "rejected"
        if status == _TOO_MANY_REQUESTS:
            kind = "busy"
        elif status == _UNAVAILABLE:
            kind = "unavailable"
        elif status >= _SERVER_ERROR:
            kind = "broken"
        extra = {} if retry_after_seconds is None else {"Retry-After": str(max(retry_after_seconds, 1))}
        return self._page("error", reader, here=here, status=status, variables={"kind": kind}, extra=extra)

    def policy(self, reader: Reader, *, document: PolicyDocument, translations: Sequence[PolicyDocument]) -> Page:
        """A policy. The frame is in the document's language where we have that, else in the reader's.

        Args:
            reader: who reads it.
            document: the text.
            translations: every language of it (`Policies.translations`).
        """
        languages = self._templates.languages
        language = languages.find(document.language) or self._language(reader)
        links = [
            Link(name=languages.name_of(each.language), tag=each.language, url=urlsplit(each.url).path)
            for each in translations
        ]
        return self._page(
            "policy",
            reader,
            language=language,
            links=links,
            current=document.language,
            variables={"document": document, "text": Markup(document.html)},  # noqa: S704 - nh3 cleaned it at load
            indexable=True,
        )

    def check(self) -> None:
        """Make every page for every brand and language with sample values, for a start that finds faults early.

        Raises:
            BrandingProblems: lists what failed.
        """
        problems = [
            f"brand {brand or 'default'}, language {language.tag}: {fault}"
            for brand in self._templates.brand_names
            for language in self._templates.languages.all
            for fault in self._faults(Reader(lang=language.tag, brand=brand))
        ]
        if problems:
            raise BrandingProblems(problems)

    def _faults(self, reader: Reader) -> Iterator[TemplateFault]:
        link = "https://chat.example.org/"
        document = PolicyDocument(id="p", version="1", language="en", title="Policy", url=link, html="<p>Text.</p>")
        samples: tuple[Callable[[], Page], ...] = (
            lambda: self.confirm(
                reader,
                here="?token=t",
                action="",
                token="t",  # noqa: S106 - a sample
                address="alice@example.org",
                user_id="@alice:example.org",
                next_link=link,
                expires_at_ms=1_800_000_000_000,
            ),
            *(partial(self.confirmed, reader, continue_to=link, medium=medium) for medium in Medium),
            *(partial(self.failed, reader, medium=medium) for medium in Medium),
            *(partial(self.error, reader, status=status) for status in _STATUSES_WITH_WORDS),
            lambda: self.policy(reader, document=document, translations=(document,)),
        )
        for sample in samples:
            try:
                sample()
            except TemplateFault as fault:
                yield fault

    def _page(
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
        language = language or self._language(reader)
        style = self._style(language, reader.brand)
        html = self._templates.render(
            f"pages/{name}.html.j2",
            language=language,
            brand=reader.brand,
            variables={
                "style": Markup(style),  # noqa: S704 - our own template; the brand's colour is a parsed one
                "links": self._switch(here) if links is None else links,
                "current": current or language.tag,
                **(variables or {}),
            },
        )
        headers = page_headers(style=style, language=language.tag, form_targets=form_targets, indexable=indexable)
        # A lone surrogate from a query could not be encoded; a question mark can.
        html = html.encode("utf-8", "replace").decode("utf-8")
        return Page(status=status, html=html, headers={**headers, **(extra or {})})

    def _language(self, reader: Reader) -> Language:
        chosen = self._templates.languages.find(reader.lang)
        return chosen or self._templates.language_for(parse_accept_language(reader.accept_language), reader.brand)

    def _switch(self, here: str | None) -> list[Link]:
        if here is None:
            return []
        languages = self._templates.languages.all
        return [Link(each.name, each.tag, _with_language(here, each.tag)) for each in languages]

    def _style(self, language: Language, brand: str | None) -> str:
        style = self._templates.render("pages/style.css.j2", language=language, brand=brand, variables={})
        # The hash is of what stands between the tags, to the byte; browsers read CRLF as LF.
        return style.replace("\r\n", "\n").replace("</", "<\\/")


def page_headers(
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


def origin_of(url: str | None) -> str | None:
    """The CSP source for an http(s) URL's origin, or None where it has none that a header could hold.

    An IPv6 literal can't stand in a policy (CSP 3, section 2.3.1), so its scheme stands for it.

    >>> origin_of("https://Chat.Example.org/welcome?a=b")
    'https://chat.example.org'
    """
    parsed = _parse(url)
    if parsed is None:
        return None
    scheme, host, port = parsed
    if host.startswith("["):
        return f"{scheme}:"
    return f"{scheme}://{_with_port(scheme, host, port)}"


def host_of(url: str | None) -> str | None:
    """The host that an http(s) URL leads to, in ASCII form so that no letter passes for another; or None."""
    parsed = _parse(url)
    return None if parsed is None else _with_port(*parsed)


def _parse(url: str | None) -> tuple[str, str, int | None] | None:
    if not url or len(url) > _MAX_LINK:
        return None
    try:
        parts = urlsplit(url)
        host = _ascii_host(parts.hostname or "")
        port = parts.port
    except ValueError:
        return None
    # A name before an @ is there to be taken for the host.
    if parts.scheme not in _DEFAULT_PORTS or "@" in parts.netloc or host is None:
        return None
    return parts.scheme, host, port


def _ascii_host(host: str) -> str | None:
    if ":" in host:
        host = f"[{host}]"
    if not host.isascii():
        try:
            host = email_validator.validate_email(
                f"a@{host}", check_deliverability=False, globally_deliverable=False
            ).ascii_domain
        except email_validator.EmailNotValidError:
            return None
    return host if _HOST.fullmatch(host) else None


def _with_port(scheme: str, host: str, port: int | None) -> str:
    return host if port is None or port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"


def _with_language(url: str, tag: str) -> str:
    parts = urlsplit(url)
    query = [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if key != "lang"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("lang", tag)], errors="replace")))
