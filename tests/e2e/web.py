"""HTTP as a person's browser and as plain tools speak it, kept to what the stories need.

The one rule: certificates are always verified, against the test's own authority.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode, urljoin

from tests.e2e.processes import PATIENCE_SECONDS


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; `url` is where any redirects led."""

    url: str
    status: int
    headers: Message
    body: bytes = field(repr=False)

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class Web:
    """Fetches URLs, trusting one certificate authority only."""

    def __init__(self, *, ca: ssl.SSLContext) -> None:
        # No proxy of the surroundings may come between.
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=ca), urllib.request.ProxyHandler({})
        )

    def get(self, url: str, *, bearer: str | None = None) -> Answer:
        return self._fetch("GET", url, None, {}, bearer)

    def post_json(
        self, url: str, body: Mapping[str, Any], *, bearer: str | None = None, method: str = "POST"
    ) -> Answer:
        return self._fetch(method, url, json.dumps(body).encode(), {"Content-Type": "application/json"}, bearer)

    def post_form(self, url: str, fields: Mapping[str, str]) -> Answer:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._fetch("POST", url, urlencode(fields).encode(), headers, None)

    def answers(self, url: str) -> bool:
        """Whether a GET is answered 200 yet."""
        try:
            return self.get(url).status == 200
        except (OSError, urllib.error.URLError):
            return False

    def _fetch(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], bearer: str | None
    ) -> Answer:
        request = urllib.request.Request(url, data=body, method=method, headers=dict(headers))
        if bearer is not None:
            request.add_header("Authorization", f"Bearer {bearer}")
        try:
            response = self._opener.open(request, timeout=PATIENCE_SECONDS)
        except urllib.error.HTTPError as refusal:
            response = refusal
        with response:
            return Answer(url=response.url, status=response.status, headers=response.headers, body=response.read())


@dataclass(slots=True)
class Form:
    """A form of a page: where it leads, and the fields that a browser would send untouched."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Form] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append(Form(action=values.get("action", ""), method=values.get("method", "get").lower()))
            self._inside = True
        elif tag == "input" and self._inside and "name" in values:
            self.found[-1].fields[values["name"]] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False


def only_form(page: Answer) -> Form:
    """The one form of a page, its action made absolute."""
    parser = _Forms()
    parser.feed(page.text)
    parser.close()
    assert len(parser.found) == 1, f"{len(parser.found)} forms on the page"
    form = parser.found[0]
    form.action = urljoin(page.url, form.action)
    return form
