"""What became of every row of Sydent's.

The rule: for each table, the rows that were moved, merged and skipped add up to the rows that were read.
Nothing here can hold an address: reasons are fixed texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Merged(StrEnum):
    """Why a row has no row of its own here: another one says what it says, or something newer."""

    COPY = "the published copy of a local binding"
    OLDER = "a newer row for the same address decides"
    SAME_KEY = "the same key, written in another way"
    SAME_TOKEN = "the same token"  # noqa: S105 - a reason
    NEWER_CODE = "a newer code of the same session"
    SAME_SESSION = "a newer session of the same address and client secret"


class Skipped(StrEnum):
    """Why a row was not moved."""

    BEFORE = "imported before"
    NEWER_HERE = "something newer is here"
    UNREADABLE = "values of the wrong kind"
    BAD_MEDIUM = "neither an e-mail address nor a phone number"
    BAD_ADDRESS = "not a valid address"
    BAD_USER = "not a valid Matrix ID"
    BAD_VALIDITY = "no valid period of time"
    BAD_KEY = "not a public key"
    BAD_TOKEN = "not a usable token"  # noqa: S105 - a reason
    BAD_SECRET = "not a valid client secret"  # noqa: S105 - a reason
    TOO_LONG = "too long to be kept"
    OVER = "over"
    REFUSED = "its owner wants it to be neither bound nor invited here"
    UNBOUND = "unbound: nothing to be kept"
    DELIVERED = "delivered already"
    NO_ACCOUNT = "its account is not there"
    NO_SESSION = "its validation session was not moved"
    CHANGED = "changed by Sydent while it was read: run the import again"
    OWN_PEPPER = "this server has a pepper of its own already"
    BAD_PEPPER = "not letters and digits"
    NO_REPLICATION = "there is no replication here"
    CODE = "its code is over, or has done its work"


class Skip(Exception):
    """This row isn't moved."""

    def __init__(self, reason: Skipped) -> None:
        super().__init__(reason)
        self.reason = reason


class ReportDoesNotAddUp(Exception):
    """Rows were lost from the account: a fault of this program."""


@dataclass(slots=True)
class TableReport:
    """What became of the rows of one table.

    Attributes:
        rewritten: moved rows whose address Sydent had in another form, by case above all.
    """

    read: int = 0
    moved: int = 0
    rewritten: int = 0
    merged: Counter[Merged] = field(default_factory=Counter)
    skipped: Counter[Skipped] = field(default_factory=Counter)

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Account for a row that turns out to be skipped within the block."""
        try:
            yield
        except Skip as skip:
            self.skipped[skip.reason] += 1

    def add(self, other: TableReport) -> None:
        """Take in what became of further rows."""
        self.read += other.read
        self.moved += other.moved
        self.rewritten += other.rewritten
        self.merged += other.merged
        self.skipped += other.skipped

    def check(self, name: str) -> None:
        """Make sure that no row is lost.

        Raises:
            ReportDoesNotAddUp: one is.
        """
        known = self.moved + self.merged.total() + self.skipped.total()
        if known != self.read:
            raise ReportDoesNotAddUp(f"{name}: {self.read} rows were read, but {known} are accounted for")

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "read": self.read,
            "moved": self.moved,
            "merged": {reason.value: count for reason, count in sorted(self.merged.items()) if count},
            "skipped": {reason.value: count for reason, count in sorted(self.skipped.items()) if count},
        }


@dataclass(slots=True)
class ImportReport:
    """What became of everything.

    Attributes:
        tables: by the name of Sydent's table.
        dry_run: whether nothing was written.
    """

    dry_run: bool
    tables: dict[str, TableReport] = field(default_factory=dict)

    def table(self, name: str) -> TableReport:
        """The account of one table."""
        return self.tables.setdefault(name, TableReport())

    @property
    def moved(self) -> int:
        """How many rows brought something new."""
        return sum(table.moved for table in self.tables.values())

    @property
    def rewritten(self) -> int:
        """How many addresses were put into canonical form."""
        return sum(table.rewritten for table in self.tables.values())

    def check(self) -> None:
        """Make sure that no row of any table is lost.

        Raises:
            ReportDoesNotAddUp: one is.
        """
        for name, table in self.tables.items():
            table.check(name)

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "dry_run": self.dry_run,
            "moved": self.moved,
            "addresses_rewritten": self.rewritten,
            "tables": {name: table.to_json() for name, table in self.tables.items()},
        }

    def to_text(self) -> str:
        """As a person reads it."""
        width = max((len(name) for name in self.tables), default=0)
        lines = [f"{'':{width}}  {'read':>9} {'moved':>9} {'merged':>9} {'skipped':>9}"]
        for name, table in self.tables.items():
            figures = (table.read, table.moved, table.merged.total(), table.skipped.total())
            lines.append(f"{name:{width}}  " + " ".join(f"{figure:9}" for figure in figures))
        reasons = [
            f"  {name}: {count} {verb}: {reason}"
            for name, table in self.tables.items()
            for verb, counts in (("merged", table.merged), ("skipped", table.skipped))
            for reason, count in sorted(counts.items())
            if count
        ]
        if reasons:
            lines += ["", "Why:", *reasons]
        if self.rewritten:
            lines += ["", f"{self.rewritten} addresses were put into canonical form (case folded)."]
        lines += ["", self._summary()]
        return "\n".join(lines)

    def _summary(self) -> str:
        if not self.moved:
            return "Nothing new: everything that can be moved is here."
        rows = "1 row" if self.moved == 1 else f"{self.moved} rows"
        return f"{rows} would be moved. Nothing was written." if self.dry_run else f"{rows} moved."
