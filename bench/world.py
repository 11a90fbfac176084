"""The data of the benchmark, as a function of a number: nothing is stored to know what is true.

The rule: deterministic. The n-th address, its owner and the n-th token are the same in every run and for every size,
so a database of a million contains that of a hundred thousand. All Matrix IDs are equally long, and so are all
answers to questions of one kind: a byte count then tells whether something is missing.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from random import Random

VERSION = 5
"""Counts up whenever the data changes its shape: databases of another version are made anew."""

SERVER_NAME = "id.bench.example"
SIGNING_KEY = "ed25519 0 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
PEPPER = "Sa1tOfTheBenchmarkOfThirtyTwoCha"
BOUND_AT_MS = 1_700_000_000_000
LIFETIME_MS = 100 * 365 * 24 * 60 * 60 * 1000

ACCOUNTS = 2_000
NEWCOMERS = 6_000
"""Accounts with the numbers after those, each of which looks up once."""
HOMESERVERS = 32
HOMESERVER_PORT = 28448
TERMS_URL = "https://id.bench.example/terms-1.0-en.html"
TERMS = f"""master_version: "1.0"
docs:
  terms:
    version: "1.0"
    langs:
      en: {{name: "Terms", url: "{TERMS_URL}"}}
"""
MASTER_VERSION = "1.0"


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who asks."""

    user_id: str
    token: str


@dataclass(frozen=True, slots=True)
class Address:
    """A canonical address."""

    medium: str
    text: str

    def hashed(self, pepper: str) -> str:
        """What a client sends for it."""
        digest = hashlib.sha256(f"{self.text} {self.medium} {pepper}".encode()).digest()
        return urlsafe_b64encode(digest).rstrip(b"=").decode()


def account(number: int) -> Account:
    """The n-th account; its homeserver is one of those that `sinks.py` plays."""
    token = hashlib.sha256(f"token {number}".encode()).hexdigest()
    return Account(f"@asker{number:06}:127.0.0.{number % HOMESERVERS + 1}:{HOMESERVER_PORT}", token)


def bound(number: int) -> Address:
    """The n-th address that is bound; every fifth is a phone number."""
    if number % 5 == 4:
        return Address("msisdn", f"4477{number:08}")
    # The digest keeps the database from finding neighbours side by side, as real addresses aren't either.
    scattered = hashlib.blake2b(b"%d" % number, digest_size=5).hexdigest()
    return Address("email", f"{scattered}{number}@mail{number % 97}.example.com")


def owner(number: int) -> str:
    """The Matrix ID that the n-th bound address leads to."""
    return f"@person{number:09}:hs{number % 997:03}.example.org"


def stranger(number: int) -> Address:
    """An address that nobody bound."""
    return Address("email", f"stranger{number}@mail{number % 97}.example.com")


@dataclass(frozen=True, slots=True)
class Question:
    """A lookup, and its answer.

    Attributes:
        asker: number of the account that asks.
        hashes: what is asked, in the order of the request.
        mappings: what must be answered.
    """

    asker: int
    hashes: list[str]
    mappings: dict[str, str]


def questions(
    *, associations: int, size: int, count: int, askers: range = range(ACCOUNTS), pepper: str = PEPPER
) -> list[Question]:
    """Lookups of `size` addresses, half of them bound; of one address, every second.

    Each is asked by one account only, so that no account asks for more different addresses than a server may allow.
    """
    draw = Random(f"{associations} {size} {askers.start}")
    found = []
    for number in range(count):
        hits = size // 2 if size > 1 else (number + 1) % 2
        known = draw.sample(range(associations), hits)
        mappings = {bound(each).hashed(pepper): owner(each) for each in known}
        strangers = (stranger(draw.randrange(10**9)).hashed(pepper) for _ in range(size - hits))
        hashes = [*mappings, *strangers]
        draw.shuffle(hashes)
        found.append(Question(askers[number % len(askers)], hashes, mappings))
    return found
