"""Ready-made requests, each with what must be answered to it.

The rule: whoever sends one can say whether the answer is true, without asking anybody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from bench import world

V2 = "/_matrix/identity/v2"
LOOKUP_SIZES = (1, 100, 1_000, 10_000)
# Enough different ones that no cache between the client and the data holds them all, few enough to be made quickly.
_LOOKUPS = {1: 4_000, 10: 400, 100: 400, 1_000: 100, 10_000: 20}

FIRST_LOOKUPS = {1: 3_600, 100: 1_800, 1_000: 600}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request as it goes over the wire, and what its answer must say.

    Attributes:
        expected: fields that the answer must have, with these values; nothing else may be in an empty one.
    """

    request: bytes
    expected: Mapping[str, Any]

    def is_answered_by(self, body: bytes) -> bool:
        """Whether this is the true answer."""
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            return False
        if not isinstance(answer, dict):
            return False
        if not self.expected:
            return not answer
        return all(answer.get(key) == value for key, value in self.expected.items())


@dataclass(frozen=True, slots=True)
class Pool:
    """Requests of one kind, to be sent one after the other and over again."""

    name: str
    exchanges: tuple[Exchange, ...]

    def part(self, number: int, parts: int) -> Pool:
        """Every so manieth of them, beginning at another one for each number."""
        return Pool(self.name, self.exchanges[number::parts])

    def write(self, path: Path) -> None:
        """Write the requests for the load generator: the length of each on a line, then itself."""
        with path.open("wb") as file:
            for each in self.exchanges:
                file.write(b"%d\n%b" % (len(each.request), each.request))


def render(method: str, path: str, *, token: str | None = None, body: Any = None) -> bytes:
    """A request as it goes over the wire; the body is sent as JSON."""
    head = [f"{method} {path} HTTP/1.1", "Host: id.bench.example"]
    if token is not None:
        head.append(f"Authorization: Bearer {token}")
    content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join((*head, "", "")).encode() + content


def pings() -> Pool:
    return Pool("ping", (Exchange(render("GET", V2), {}),))


def accounts() -> Pool:
    people = map(world.account, range(world.ACCOUNTS))
    return Pool(
        "account",
        tuple(
            Exchange(render("GET", f"{V2}/account", token=each.token), {"user_id": each.user_id}) for each in people
        ),
    )


def hash_details(askers: range = range(world.ACCOUNTS)) -> Pool:
    people = map(world.account, askers)
    expected = {"lookup_pepper": world.PEPPER}
    return Pool(
        "hash_details",
        tuple(Exchange(render("GET", f"{V2}/hash_details", token=each.token), expected) for each in people),
    )


def newcomers(size: int) -> range:
    """Those whose first lookup is of `size` addresses."""
    first = world.ACCOUNTS + sum(count for other, count in FIRST_LOOKUPS.items() if other < size)
    return range(first, first + FIRST_LOOKUPS[size])


def first_lookups(size: int, *, associations: int) -> Pool:
    """As `lookups`, each by an account that has never looked anything up."""
    askers = newcomers(size)
    asked = world.questions(associations=associations, size=size, count=len(askers), askers=askers)
    return Pool(f"lookup of {size}, first", tuple(map(_lookup, asked)))


def lookups(size: int, *, associations: int) -> Pool:
    """Lookups of `size` addresses, half of them bound."""
    asked = world.questions(associations=associations, size=size, count=_LOOKUPS[size])
    return Pool(f"lookup of {size}", tuple(map(_lookup, asked)))


def _lookup(question: world.Question) -> Exchange:
    body = {"algorithm": "sha256", "pepper": world.PEPPER, "addresses": question.hashes}
    token = world.account(question.asker).token
    return Exchange(render("POST", f"{V2}/lookup", token=token, body=body), {"mappings": question.mappings})
