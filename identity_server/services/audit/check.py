"""Whether the audit journal is as this server has left it.

The rule: nothing in the database is believed but what the server's signing key vouches for, and what follows from it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

from identity_server.domain.audit_chain import BEGINNING, Link, LinkedEntry, Statement, after, signed_link
from identity_server.domain.signing import SigningKey
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.audit_chain import Waiting

_PAGE = 5_000
_TRIES = 3
_MOST_FAULTS = 20
_NAME_BYTES = 8


@dataclass(frozen=True, slots=True)
class KeptHead:
    """What somebody has kept of an earlier head.

    Attributes:
        seq: its number, where more than the hash was kept.
    """

    hash: bytes
    seq: int | None = None


@dataclass(slots=True)
class Findings:
    """What a check has found.

    Attributes:
        faults: what is wrong, as sentences; the first so many.
        fault_count: how many there are.
        checked: how many linked entries there are.
        first_seq: the oldest that is to be there.
        head: what the server has signed last; None if nothing, or if that isn't genuine.
        signed_at_ms: when.
        waiting: what isn't linked yet, and so could be removed unnoticed.
        of_other_keys: how many entries are keyed by a root key that isn't at hand: only the chain vouches for them.
    """

    waiting: Waiting
    first_seq: int = 1
    head: Link | None = None
    signed_at_ms: int = 0
    checked: int = 0
    of_other_keys: int = 0
    fault_count: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, sentence: str) -> None:
        """Take something down."""
        self.fault_count += 1
        if self.fault_count <= _MOST_FAULTS:
            self.faults.append(sentence)


@dataclass(frozen=True, slots=True)
class _Standing:
    """What the database says at one moment."""

    head: dict[str, Any] | None
    pruned: dict[str, Any] | None
    newest_seq: int | None
    waiting: Waiting


class AuditCheck:
    """Checks the journal; a server may be running beside it.

    Args:
        signing_key: the server's own.
    """

    def __init__(self, *, database: Database, signing_key: SigningKey) -> None:
        self._database = database
        self._signing_key = signing_key

    async def run(self, *, kept: KeptHead | None = None) -> Findings:
        """Go through the whole journal.

        Args:
            kept: a head that was kept elsewhere, which the journal has to lead through.
        """
        for _ in range(_TRIES):
            standing = await self._database.read(_stand, bulk=True)
            findings = await self._walk(standing, kept)
            if (await self._database.read(_stand, bulk=True)).pruned == standing.pruned:
                break
            # Old entries were removed meanwhile, which looks as if they were missing.
        return findings

    def kept(self, message: Mapping[str, Any]) -> KeptHead | None:
        """What a signed head says that was kept as it was given out; None if this server hasn't signed it."""
        link = signed_link(Statement.HEAD, message, key=self._signing_key)
        return None if link is None else KeptHead(link.hash, link.seq)

    async def _walk(self, standing: _Standing, kept: KeptHead | None) -> Findings:
        findings = Findings(standing.waiting)
        start = self._start(standing, findings)
        walk = _Walk(findings, start, kept)
        last_seq = standing.newest_seq or 0
        after_seq = 0
        while page := await self._database.read(partial(_page, after_seq=after_seq), bulk=True):
            for linked, genuine in page:
                if linked.link.seq <= last_seq:
                    walk.step(linked, genuine=genuine)
            after_seq = page[-1][0].link.seq
            if after_seq >= last_seq:
                break
        self._end(standing, walk)
        return findings

    def _start(self, standing: _Standing, findings: Findings) -> Link | None:
        """What the oldest entry follows; None if that can't be known."""
        if standing.pruned is None:
            return BEGINNING
        link = signed_link(Statement.PRUNED, standing.pruned, key=self._signing_key)
        if link is None:
            findings.fault("The note of what was removed for its age is not signed by this server's key.")
            return None
        findings.first_seq = link.seq + 1
        return link

    def _end(self, standing: _Standing, walk: _Walk) -> None:
        findings = walk.findings
        if standing.head is not None:
            findings.head = signed_link(Statement.HEAD, standing.head, key=self._signing_key)
            if findings.head is None:
                findings.fault("The head is not signed by this server's key.")
            else:
                findings.signed_at_ms = standing.head["at_ms"]
        elif standing.newest_seq is not None or standing.pruned is not None:
            findings.fault("There are entries, but no signed head.")
        walk.end()


class _Walk:
    """From the beginning of the chain to its end."""

    def __init__(self, findings: Findings, start: Link | None, kept: KeptHead | None) -> None:
        self.findings = findings
        self._place = start
        self._kept = kept
        self._found_kept = start is not None and self._is_kept(start)
        self._salts = array("Q")

    def step(self, linked: LinkedEntry, *, genuine: bool | None) -> None:
        link = linked.link
        findings = self.findings
        findings.checked += 1
        if self._place is not None and link.seq != self._place.seq + 1:
            findings.fault(f"{_entries(self._place.seq + 1, link.seq - 1)} missing.")
        elif self._place is not None and after(self._place, linked.entry) != link:
            findings.fault(f"Entry {link.seq} was altered, or doesn't belong there.")
        elif genuine is False:
            findings.fault(f"Entry {link.seq} was not written by this server.")
        findings.of_other_keys += genuine is None
        self._salts.append(int.from_bytes(linked.entry.salt[-_NAME_BYTES:], "big"))
        self._found_kept = self._found_kept or self._is_kept(link)
        self._place = link

    def end(self) -> None:
        """Compare where the chain ends with where it has to, and look for what is in it twice."""
        findings, place, head = self.findings, self._place, self.findings.head
        if head is not None and place is not None and place != head:
            if place.seq < head.seq:
                findings.fault(f"{_entries(place.seq + 1, head.seq)} missing, at the end.")
            elif place.seq > head.seq:
                findings.fault(f"{_entries(head.seq + 1, place.seq)} not signed for.")
            else:
                findings.fault("The chain doesn't end in the hash that was signed: its entries were written anew.")
        twice = sum(one == next_one for one, next_one in pairwise(sorted(self._salts)))
        if twice:
            findings.fault(f"{twice} of the entries are copies of others.")
        self._compare_with_kept()

    def _is_kept(self, link: Link) -> bool:
        kept = self._kept
        if kept is None or link.hash != kept.hash:
            return False
        # What a first entry follows is the same for all.
        return kept.seq == link.seq or (kept.seq is None and link.hash != BEGINNING.hash)

    def _compare_with_kept(self) -> None:
        findings, kept = self.findings, self._kept
        if kept is None or self._found_kept:
            return
        last_seq = 0 if self._place is None else self._place.seq
        if kept.seq is None:
            removed = (
                f" Those before entry {findings.first_seq} are no longer kept." if findings.first_seq > 1 else ""
            )
            findings.fault(f"No entry has the hash that was kept.{removed}")
        elif kept.seq > last_seq:
            findings.fault(
                f"The journal ends with entry {last_seq}, but went as far as {kept.seq} when the head was kept: its"
                " end was removed, or the database was restored from an earlier copy."
            )
        elif kept.seq < findings.first_seq:
            findings.fault(
                f"The head that was kept is of entry {kept.seq}, and the oldest here is {findings.first_seq}: they"
                " can't be compared. Keep a newer one."
            )
        else:
            findings.fault(f"Entry {kept.seq} is not the one that the kept head is about: it was written anew.")


async def _stand(tx: Transaction) -> _Standing:
    chain = tx.audit_chain
    return _Standing(
        head=await chain.statement(Statement.HEAD),
        pruned=await chain.statement(Statement.PRUNED),
        newest_seq=await chain.newest_seq(),
        waiting=await chain.waiting(),
    )


async def _page(tx: Transaction, *, after_seq: int) -> list[tuple[LinkedEntry, bool | None]]:
    entries = await tx.audit_chain.list_after(after_seq, limit=_PAGE)
    return [(each, tx.audit.is_genuine(each.entry)) for each in entries]


def _entries(first: int, last: int) -> str:
    return f"Entry {first} is" if first == last else f"Entries {first} to {last} are"
