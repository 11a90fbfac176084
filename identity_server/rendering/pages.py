"""The pages that people see in a browser: confirm, results, errors, policies; the privacy page has a file of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import MappingProxyType
from urllib.parse import urlsplit

from markupsafe import Markup

from identity_server.domain.identifiers import Medium, ascii_domain
from identity_server.rendering.account_pages import AccountPages
from identity_server.rendering.faults import BrandingProblems, TemplateFault
from identity_server.rendering.page import Link, Page, PageMaker, Reader
from identity_server.rendering.policies import PolicyDocument
from identity_server.rendering.privacy_pages import PrivacyPages
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


class Pages:
    """Makes every page from `templates/pages/`.

    Where a method takes `here`, that is the address by which the page can be asked for again (a relative one
    will do, and is the safest behind proxies); the language switch adds `lang` to it. None leaves the switch
    out: a page that answers a POST can't be asked for again.

    Attributes:
        privacy: the pages on which people see what is held about them.
        account: the files with what is held about a Matrix ID.
    """

    def __init__(self, templates: Templates) -> None:
        self._templates = templates
        self._maker = PageMaker(templates)
        self.privacy = PrivacyPages(self._maker)
        self.account = AccountPages(self._maker)

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
            action: where the button POSTs `token` and `lang` to, in the reader's brand.
            token: the token of the mailed link.
            address: the address to be confirmed.
            user_id: the Matrix ID that asked, or None where none did (v1).
            next_link: where the answer to the POST will redirect to, or None.
            expires_at_ms: until when the button works.
        """
        next_origin = origin_of(next_link)
        return self._maker.make(
            "confirm",
            reader,
            here=here,
            form_targets=("'self'", *((next_origin,) if next_origin else ())),
            variables={
                "action": self._maker.within_brand(action, reader.brand),
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
        return self._maker.make("confirmed", reader, here=here, variables=variables)

    def failed(
        self, reader: Reader, *, here: str | None = None, status: int = 400, medium: Medium = Medium.EMAIL
    ) -> Page:
        """The link is wrong, over or used up; says what to do next, which depends on the kind of address."""
        return self._maker.make("failed", reader, here=here, status=status, variables={"medium": medium})

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
        return self._maker.make("error", reader, here=here, status=status, variables={"kind": kind}, extra=extra)

    def policy(self, reader: Reader, *, document: PolicyDocument, translations: Sequence[PolicyDocument]) -> Page:
        """A policy. The frame is in the document's language where we have that, else in the reader's.

        Args:
            reader: who reads it.
            document: the text.
            translations: every language of it (`Policies.translations`).
        """
        languages = self._templates.languages
        language = languages.find(document.language) or self._maker.language_of(reader)
        links = [
            Link(name=languages.name_of(each.language), tag=each.language, url=urlsplit(each.url).path)
            for each in translations
        ]
        return self._maker.make(
            "policy",
            reader,
            language=language,
            links=links,
            current=document.language,
            variables={"document": document, "text": Markup(document.html)},  # noqa: S704 - nh3 cleaned it at load
            indexable=True,
        )

    def has_language(self, tag: str) -> bool:
        """Whether pages come in this language."""
        return self._templates.languages.find(tag) is not None

    def check(self, *, brands: Sequence[str | None] | None = None) -> None:
        """Make every page in every language with sample values, for a start that finds faults early.

        Args:
            brands: for which brands; by default those of which an operator has changed anything.

        Raises:
            BrandingProblems: lists what failed.
        """
        problems = [
            f"brand {brand or 'default'}, language {language.tag}: {fault}"
            for brand in (self._templates.changed_brands if brands is None else brands)
            for language in self._templates.languages.all
            for fault in self._faults(Reader(lang=language.tag, brand=brand))
        ]
        if problems:
            raise BrandingProblems(problems)

    def samples(self, reader: Reader) -> Iterator[Callable[[], Page]]:
        """Each page with values that are made up."""
        link = "https://chat.example.org/"
        document = PolicyDocument(id="p", version="1", language="en", title="Policy", url=link, html="<p>Text.</p>")
        yield partial(
            self.confirm,
            reader,
            here="?token=t",
            action="",
            token="t",  # noqa: S106 - a sample
            address="alice@example.org",
            user_id="@alice:example.org",
            next_link=link,
            expires_at_ms=1_800_000_000_000,
        )
        yield from (partial(self.confirmed, reader, continue_to=link, medium=medium) for medium in Medium)
        yield from (partial(self.failed, reader, medium=medium) for medium in Medium)
        yield from (partial(self.error, reader, status=status) for status in _STATUSES_WITH_WORDS)
        yield partial(self.policy, reader, document=document, translations=(document,))
        yield from self.privacy.samples(reader)
        yield from self.account.samples(reader)

    def _faults(self, reader: Reader) -> Iterator[TemplateFault]:
        for sample in self.samples(reader):
            try:
                sample()
            except TemplateFault as fault:
                yield fault


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
    written = host if host.isascii() else ascii_domain(host)
    return written if written is not None and _HOST.fullmatch(written) else None


def _with_port(scheme: str, host: str, port: int | None) -> str:
    return host if port is None or port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"
