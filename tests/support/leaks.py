"""Looks for secrets where they must not be, in every shape that a careless program would leave them in.

The one rule: what is found is reported by its kind and shape, never by its value.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

# base64 turns 3 bytes into 4 letters, so a value inside a longer one can be written in three ways.
_BASE64_OFFSETS = range(3)
_URLSAFE = bytes.maketrans(b"+/", b"-_")


@dataclass(slots=True)
class Ledger:
    """The secrets that a run has used, by value, with what each is."""

    _secrets: dict[bytes, str] = field(default_factory=dict, repr=False)
    _numbers: dict[bytes, str] = field(default_factory=dict, repr=False)

    def note(self, kind: str, secret: str | bytes) -> None:
        """Remember a secret."""
        self._secrets[secret.encode() if isinstance(secret, str) else secret] = kind

    def note_token(self, kind: str, token: str) -> None:
        """Remember a long random string; its first half alone is too much as well."""
        self.note(kind, token)
        self.note(f"half of a {kind}", token[: len(token) // 2])

    def note_number(self, kind: str, number: str) -> None:
        """Remember digits that may stand in a longer number by chance: they count where none of them goes on."""
        self._numbers[number.encode()] = kind

    def note_address(self, address: str, *, pepper: str) -> None:
        """Remember an address as typed and as stored, its local part, and the digests that give it away."""
        self.note_whole_address(address, medium="email", peppers=[pepper])
        self.note("address", address.casefold().partition("@")[0])

    def note_whole_address(self, address: str, *, medium: str, peppers: Iterable[str]) -> None:
        """The same without the local part, which may well be that of a Matrix ID."""
        canonical = address.casefold()
        for form in {address, canonical}:
            self.note("address", form)
        self.note("plain digest of an address", hashlib.sha256(canonical.encode()).digest())
        for pepper in peppers:
            self.note("lookup hash", hashlib.sha256(f"{canonical} {medium} {pepper}".encode()).digest())

    def find_in(self, haystack: bytes) -> set[str]:
        """What of it stands in some bytes: "KIND as SHAPE", empty when all is well."""
        lower = haystack.lower()
        found = {
            f"{kind} as {shape}"
            for secret, kind in self._secrets.items()
            for shape, needle, any_case in _shapes(secret)
            if (needle.lower() in lower if any_case else needle in haystack)
        }
        numbers = self._numbers.items()
        return found | {f"{kind} as it is" for number, kind in numbers if _stands_alone(number, haystack)}


def _stands_alone(number: bytes, haystack: bytes) -> bool:
    # Asked first without a pattern, which takes far longer.
    return number in haystack and bool(re.search(rb"(?<![\d.:])%b(?![\d])" % re.escape(number), haystack))


def _shapes(secret: bytes) -> Iterator[tuple[str, bytes, bool]]:
    """Each way to write a secret: its name, its bytes, and whether case doesn't matter."""
    yield "it is", secret, True
    yield "hex", secret.hex().encode(), True
    for offset in _BASE64_OFFSETS:
        letters = _certain_letters(secret, offset)
        yield "base64", letters, False
        yield "urlsafe base64", letters.translate(_URLSAFE), False
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return
    yield "URL encoded", quote(text, safe="").encode(), True
    yield "UTF-16", text.encode("utf-16-le"), True


def _certain_letters(secret: bytes, offset: int) -> bytes:
    """The base64 letters that a secret has wherever it begins `offset` bytes after a group's start.

    Letters that share bits with what stands before or after it are left out.
    """
    encoded = base64.b64encode(bytes(offset) + secret)
    first = -(-offset * 8 // 6)
    last = (offset + len(secret)) * 8 // 6
    return encoded[first:last]


def everything_in(folder: Path) -> bytes:
    """The bytes of every file below a folder: databases, write-ahead logs, copies made on the way."""
    found = []
    for path in sorted(folder.rglob("*")):
        # Beside a server that runs, one may be gone by now.
        with suppress(FileNotFoundError):
            found += [path.read_bytes()] if path.is_file() else []
    return b"\n".join(found)


def dump(database: Path) -> bytes:
    """A SQLite database as SQL, what stands in its write-ahead log included; blobs are hex."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return "\n".join(connection.iterdump()).encode()
