"""Rows of Sydent become rows here.

The rule: what is here is never overwritten by something older, and never comes back once it was removed here.
So each run remembers how far it has come (`imports`), and everything below that mark is left alone.

Work goes in batches, each a transaction of its own: an import that was killed is simply run again, and a server
that runs meanwhile waits for no more than one batch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from identity_server.domain.association import Association, Visibility
from identity_server.domain.audit import AuditEvent
from identity_server.domain.credentials import SALT_BYTES, CodeHasher
from identity_server.domain.durations import DAY_MS
from identity_server.domain.errors import InvalidParameter
from identity_server.domain.identifiers import (
    ClientSecret,
    Medium,
    SessionId,
    Threepid,
    UserId,
    parse_client_secret,
    parse_user_id,
)
from identity_server.domain.invite import EPHEMERAL_KEY_LIFETIME_MS, INVITE_LIFETIME_MS
from identity_server.domain.invite import Invite as OurInvite
from identity_server.domain.ports import Clock, Randomness
from identity_server.domain.random_values import row_id
from identity_server.domain.signing import SigningKey, decode_public_key
from identity_server.domain.terms import Acceptance, Terms
from identity_server.domain.validation import (
    CODE_LIFETIME_MS,
    SESSION_LIFETIME_MS,
    SentCode,
    ValidationSession,
)
from identity_server.storage.database import Database, Transaction
from identity_server.storage.moving.imports import Mark, NewAccount
from identity_server.storage.repositories.associations import StoredAssociation
from identity_server.storage.sealing.sealer import Sealer, token_digest
from identity_server.sydent.addresses import NotAnAddress, UnknownMedium, canonical
from identity_server.sydent.bindings import GLOBAL, LOCAL, Candidate, NewestBindings
from identity_server.sydent.naming import name_of
from identity_server.sydent.progress import Progress
from identity_server.sydent.reading import (
    AcceptedUrl,
    AccessToken,
    Account,
    Binding,
    EphemeralKey,
    Invite,
    Row,
    Session,
    SessionToken,
    SydentFile,
    Unreadable,
)
from identity_server.sydent.report import ImportReport, Merged, Skip, Skipped, TableReport

R = TypeVar("R")
T = TypeVar("T", AcceptedUrl, AccessToken, Account, EphemeralKey, Invite)

_BATCH = 10_000
_LARGEST_INTEGER = 2**53 - 1
_MAX_VERSION = 255
_MAX_URL = 2048
_MAX_TOKEN = 1024
_MAX_PEPPER = 64
# As long as a homeserver that can't be reached is tried here.
_UNTOLD_MS = 14 * DAY_MS

Tell = Callable[[Transaction, Association], Awaitable[None]]
"""Sees to it that a homeserver learns of the invites that wait for an address, which is bound already."""


class CannotImport(Exception):
    """This file can't be imported with this configuration; the text says why, and what to do."""


def check_identity(source: SydentFile, *, server_name: str, signing_key: SigningKey | None) -> None:
    """Make sure that whoever goes on is who Sydent was: the same name, the same key.

    Homeservers have that name and that key on record, in rooms above all.

    Raises:
        CannotImport: the configuration gives the server another name or key.
    """
    origins = source.origin_servers()
    if not origins:
        return
    if server_name not in origins and source.count(LOCAL):
        raise CannotImport(
            f"server.name is {server_name}, but the bindings in {source.path} were made by {origins[0]}."
            " Use the configuration that Sydent ran with."
        )
    signed = source.newest_signed(server_name)
    if signed is None:
        return
    if signing_key is None or not _has_signed(signing_key, signed.text):
        raise CannotImport(
            f"the newest binding in {source.path} is not signed by this server's key."
            " Use the configuration that Sydent ran with: its ed25519.signingkey goes on being the server's key."
        )


def _has_signed(signing_key: SigningKey, text: str) -> bool:
    try:
        message = json.loads(text)
        theirs = message["signatures"][signing_key.server_name][signing_key.key_id]
        again = signing_key.sign({key: value for key, value in message.items() if key != "signatures"})
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    # Ed25519 signatures are deterministic: the same key signs the same text in the same way.
    return bool(again["signatures"][signing_key.server_name][signing_key.key_id] == str(theirs).rstrip("="))


class Importer:
    """One import.

    Args:
        target: the database that rows are moved to; only looked at in a dry run.
        sealer, code_hasher: of that database.
        server_name: this server's own name, which Sydent had before.
        terms: in force here; what was accepted is matched to them by URL.
        keeps_delivered_invites: Sydent did not delete invites when the homeserver had been told of them.
        visibility: who may know of bindings; Sydent has no word on it.
        tell: called where Sydent was stopped before the homeserver had been told; not in a dry run.
    """

    def __init__(
        self,
        *,
        source: SydentFile,
        target: Database,
        sealer: Sealer,
        code_hasher: CodeHasher,
        clock: Clock,
        randomness: Randomness,
        server_name: str,
        terms: Terms,
        keeps_delivered_invites: bool,
        visibility: Visibility,
        tell: Tell,
        dry_run: bool,
        progress: Progress,
    ) -> None:
        self._source = source
        self._target = target
        self._sealer = sealer
        self._code_hasher = code_hasher
        self._randomness = randomness
        self._server_name = server_name
        self._terms = terms
        self._keeps_delivered_invites = keeps_delivered_invites
        self._visibility = visibility
        self._tell = tell
        self._untold: set[Threepid] = set()
        self._dry_run = dry_run
        self._progress = progress
        self._now_ms = clock.now_ms()
        self._report = ImportReport(dry_run=dry_run)
        self._marks: dict[str, Mark] = {}
        self._marks_name = name_of(source)

    async def run(self) -> ImportReport:
        """Move everything that can be moved; returns what became of every row.

        Raises:
            ReportDoesNotAddUp: a fault of this program.
        """
        self._marks = await self._target.read(lambda tx: tx.imports.marks(self._marks_name))
        source = self._source
        await self._pepper()
        await self._table("accounts", source.accounts(), self._accounts)
        await self._table("accepted_terms_urls", source.accepted_urls(), self._accepted)
        await self._table("tokens", source.access_tokens(), self._tokens)
        await self._table("ephemeral_public_keys", source.ephemeral_keys(), self._ephemeral_keys)
        await self._table("invite_tokens", source.invites(), self._invites)
        await self._sessions()
        await self._bindings()
        await self._tell_homeservers()
        for table in ("peers", "peer_pubkeys"):
            self._skip_table(table, Skipped.NO_REPLICATION)
        self._report.check()
        return self._report

    async def _write(self, use_case: Callable[[Transaction], Awaitable[R]]) -> R:
        """Run a use case that asks `_dry_run` before it writes."""
        return await (self._target.read if self._dry_run else self._target.transaction)(use_case, bulk=True)

    def _skip_table(self, table: str, reason: Skipped) -> None:
        report = self._report.table(table)
        report.read = self._source.count(table)
        report.skipped[reason] += report.read

    # --- small tables ---------------------------------------------------------------------

    async def _table(
        self,
        table: str,
        pages: Iterator[list[Row[T]]],
        move: Callable[[Transaction, list[T]], Awaitable[TableReport]],
    ) -> None:
        """Move a table page by page; the mark moves along in the same transaction."""
        self._progress.begin(table, self._source.count(table))
        for page in pages:
            self._report.table(table).add(await self._page(table, page, move))
            self._progress.advance(len(page))

    async def _page(
        self, table: str, page: list[Row[T]], move: Callable[[Transaction, list[T]], Awaitable[TableReport]]
    ) -> TableReport:
        readable = [row for row in page if not isinstance(row, Unreadable)]
        known = self._known_to(table)
        last_row = max(page[-1].row, known)

        async def use_case(tx: Transaction) -> TableReport:
            outcome = await move(tx, readable)
            outcome.read = len(page)
            outcome.skipped[Skipped.UNREADABLE] += len(page) - len(readable)
            await self._note(tx, outcome.moved)
            if not self._dry_run and last_row > known:
                await tx.imports.set_mark(self._marks_name, table, last_row, now_ms=self._now_ms)
            return outcome

        return await self._write(use_case)

    async def _note(self, tx: Transaction, moved: int) -> None:
        if moved and not self._dry_run:
            await tx.audit.add(AuditEvent.IMPORTED, now_ms=self._now_ms, count=moved)

    def _known_to(self, table: str) -> int:
        mark = self._marks.get(table)
        return 0 if mark is None else mark.last_row

    def _is_known(self, table: str, row: int) -> bool:
        return row <= self._known_to(table)

    def _is_known_invite(self, row: Invite) -> bool:
        """Sydent gives the number of a deleted invite to a later one."""
        mark = self._marks.get("invite_tokens")
        return mark is not None and row.row <= mark.last_row and row.received_s * 1000 <= mark.at_ms

    async def _pepper(self) -> None:
        pepper = self._source.pepper()
        report = self._report.table("hashing_metadata")
        report.read = self._source.count("hashing_metadata")
        if not report.read:
            return

        async def use_case(tx: Transaction) -> Skipped | None:
            if pepper is None or not (pepper.isascii() and pepper.isalnum() and len(pepper) <= _MAX_PEPPER):
                return Skipped.BAD_PEPPER
            known = await tx.peppers.list()
            if known:
                return Skipped.BEFORE if pepper in {each.value for each in known} else Skipped.OWN_PEPPER
            if not self._dry_run:
                await tx.peppers.add(pepper, now_ms=self._now_ms)
            return None

        reason = await self._write(use_case)
        if reason is None:
            report.moved = 1
        else:
            report.skipped[reason] += 1
        if report.read > 1:
            # Sydent keeps one row, and reads no other.
            report.skipped[Skipped.UNREADABLE] += report.read - 1

    async def _accounts(self, tx: Transaction, rows: list[Account]) -> TableReport:
        outcome = TableReport()
        new: list[NewAccount] = []
        agreed: dict[UserId, str] = {}
        here = await tx.imports.find_accounts([UserId(row.user_id) for row in rows])
        for row in rows:
            with outcome.skipping():
                user_id, version = _user_id(row.user_id), row.consent_version or None
                if version is not None and len(version) > _MAX_VERSION:
                    raise Skip(Skipped.TOO_LONG)
                if user_id in here:
                    if version is None or not self._is_better(version, here[user_id]):
                        raise Skip(Skipped.BEFORE)
                    agreed[user_id] = version
                elif self._is_known("accounts", row.row):
                    raise Skip(Skipped.BEFORE)
                else:
                    new.append(NewAccount(user_id, _time(row.created_ms), version))
                outcome.moved += 1
        if not self._dry_run:
            await tx.imports.add_accounts(new)
            await tx.imports.set_master_versions(agreed)
        return outcome

    def _is_better(self, version: str, than: str | None) -> bool:
        """Which version is the later one can't be told; but the one in force is what counts."""
        return than is None or (than != version and version == self._terms.master_version)

    async def _accepted(self, tx: Transaction, rows: list[AcceptedUrl]) -> TableReport:
        outcome = TableReport()
        new: list[tuple[UserId, Acceptance]] = []
        user_ids = {UserId(row.user_id) for row in rows}
        there = await tx.imports.find_accounts(user_ids)
        known = await tx.imports.find_accepted_urls(user_ids)
        for row in rows:
            with outcome.skipping():
                user_id = _user_id(row.user_id)
                if self._is_known("accepted_terms_urls", row.row) or (user_id, row.url) in known:
                    raise Skip(Skipped.BEFORE)
                if not row.has_account or (user_id not in there and not self._dry_run):
                    raise Skip(Skipped.NO_ACCOUNT)
                if len(row.url) > _MAX_URL:
                    raise Skip(Skipped.TOO_LONG)
                # An earlier version of the terms: all that is known of it is the URL, which is what counts for Sydent.
                found = self._terms.find(row.url) or Acceptance(policy_id="", version="", language="", url=row.url)
                known.add((user_id, row.url))
                new.append((user_id, found))
                outcome.moved += 1
        if not self._dry_run:
            await tx.imports.add_accepted(new, now_ms=self._now_ms)
        return outcome

    async def _tokens(self, tx: Transaction, rows: list[AccessToken]) -> TableReport:
        outcome = TableReport()
        digests = {row.row: token_digest(row.token) for row in rows}
        here = await tx.imports.find_tokens(digests.values())
        new: dict[bytes, UserId] = {}
        for row in rows:
            with outcome.skipping():
                if not 0 < len(row.token) <= _MAX_TOKEN:
                    raise Skip(Skipped.BAD_TOKEN)
                # Known and not here any more: logged out here.
                if digests[row.row] in here or self._is_known("tokens", row.row):
                    raise Skip(Skipped.BEFORE)
                if not row.has_account:
                    raise Skip(Skipped.NO_ACCOUNT)
                new[digests[row.row]] = _user_id(row.user_id)
                outcome.moved += 1
        if not self._dry_run:
            await self._add_missing_accounts(tx, set(new.values()))
            await tx.imports.add_tokens(new, now_ms=self._now_ms)
        return outcome

    async def _add_missing_accounts(self, tx: Transaction, user_ids: set[UserId]) -> None:
        """An account that was erased here, and whose owner has registered with Sydent since."""
        missing = user_ids - (await tx.imports.find_accounts(user_ids)).keys()
        await tx.imports.add_accounts([NewAccount(each, self._now_ms, None) for each in missing])

    async def _ephemeral_keys(self, tx: Transaction, rows: list[EphemeralKey]) -> TableReport:
        outcome = TableReport()
        decoded = {row.row: decode_public_key(row.public_key) for row in rows}
        here = await tx.imports.find_ephemeral_keys([key for key in decoded.values() if key is not None])
        new: dict[bytes, int] = {}
        for row in rows:
            with outcome.skipping():
                key = decoded[row.row]
                if key is None:
                    raise Skip(Skipped.BAD_KEY)
                if key in here or self._is_known("ephemeral_public_keys", row.row):
                    raise Skip(Skipped.BEFORE)
                if key in new:
                    outcome.merged[Merged.SAME_KEY] += 1
                    continue
                new[key] = _time(row.made_s * 1000)
                outcome.moved += 1
        if not self._dry_run:
            valid_until_ms = self._now_ms + EPHEMERAL_KEY_LIFETIME_MS
            await tx.imports.add_ephemeral_keys(new, valid_until_ms=valid_until_ms)
        return outcome

    async def _invites(self, tx: Transaction, rows: list[Invite]) -> TableReport:
        outcome = TableReport()
        here = await tx.imports.find_invites([token_digest(row.token) for row in rows])
        refused = await _refused_among(tx, rows)
        new: dict[bytes, OurInvite] = {}
        for row in rows:
            with outcome.skipping():
                invite = self._invite(row)
                if invite.threepid in refused:
                    raise Skip(Skipped.REFUSED)
                if row.sent_s is not None:
                    self._untold.add(invite.threepid)
                digest = token_digest(invite.token)
                if digest in here or self._is_known_invite(row):
                    raise Skip(Skipped.BEFORE)
                if digest in new:
                    outcome.merged[Merged.SAME_TOKEN] += 1
                    continue
                outcome.rewritten += invite.threepid.address != row.address
                new[digest] = invite
                outcome.moved += 1
        if not self._dry_run:
            for invite in new.values():
                await tx.invites.add(invite)
        return outcome

    def _invite(self, row: Invite) -> OurInvite:
        """Sydent forgets the private key as soon as the mail is sent, and never links an invite to its key."""
        if row.sent_s is not None and self._was_delivered(row.sent_s):
            raise Skip(Skipped.DELIVERED)
        if not 0 < len(row.token) <= _MAX_TOKEN:
            raise Skip(Skipped.BAD_TOKEN)
        return OurInvite(
            id=row_id(self._randomness),
            threepid=_threepid(row),
            room_id=row.room_id,
            sender=_user_id(row.sender),
            token=row.token,
            private_key="",
            public_key=b"",
            details={},
            brand=None,
            languages=(),
            created_at_ms=_time(row.received_s * 1000),
            expires_at_ms=self._now_ms + INVITE_LIFETIME_MS,
        )

    def _was_delivered(self, sent_s: int) -> bool:
        """Sydent deletes what was delivered, and tries nothing again once it has been stopped.

        What was sent long ago is left alone all the same: the first versions of Sydent deleted nothing.
        """
        return self._keeps_delivered_invites or sent_s * 1000 <= self._now_ms - _UNTOLD_MS

    async def _tell_homeservers(self) -> None:
        """Carry on where Sydent was stopped while it was telling homeservers."""
        if self._dry_run:
            return
        for threepid in self._untold:
            await self._target.transaction(partial(self._tell_of, threepid), bulk=True)

    async def _tell_of(self, threepid: Threepid, tx: Transaction) -> None:
        association = await tx.associations.find(threepid)
        # Unbound since: then its invites wait for the next binding.
        if association is not None:
            await self._tell(tx, association)

    # --- validation sessions --------------------------------------------------------------

    async def _sessions(self) -> None:
        """Move the sessions that can still be used, with what was mailed for them. There are few of these."""
        report, tokens = (
            self._report.table("threepid_validation_sessions"),
            self._report.table("threepid_token_auths"),
        )
        live: list[Session] = []
        self._progress.begin("threepid_validation_sessions", self._source.count("threepid_validation_sessions"))
        for page in self._source.sessions():
            report.read += len(page)
            for row in page:
                if isinstance(row, Unreadable):
                    report.skipped[Skipped.UNREADABLE] += 1
                elif not 0 <= self._now_ms - row.mtime < SESSION_LIFETIME_MS:
                    report.skipped[Skipped.OVER] += 1
                else:
                    live.append(row)
            self._progress.advance(len(page))
        mailed = self._tokens_of({row.row for row in live}, tokens)
        # The newest first: of two with the same address and secret, the newer one is in use.
        for row in sorted(live, key=lambda each: each.mtime, reverse=True):
            await self._session(row, mailed.get(row.row, []), report, tokens)

    def _tokens_of(self, sessions: set[int], report: TableReport) -> dict[int, list[SessionToken]]:
        found: dict[int, list[SessionToken]] = {}
        for page in self._source.session_tokens():
            report.read += len(page)
            for row in page:
                if isinstance(row, Unreadable):
                    report.skipped[Skipped.UNREADABLE] += 1
                elif row.session not in sessions:
                    report.skipped[Skipped.NO_SESSION] += 1
                else:
                    found.setdefault(row.session, []).append(row)
        return found

    async def _session(
        self, row: Session, mailed: list[SessionToken], report: TableReport, tokens: TableReport
    ) -> None:
        async def use_case(tx: Transaction) -> tuple[TableReport, TableReport]:
            mine, of_tokens = TableReport(), TableReport()
            with mine.skipping():
                await self._move_session(tx, row, mailed, mine, of_tokens)
            return mine, of_tokens

        mine, of_tokens = await self._write(use_case)
        left = len(mailed) - of_tokens.moved - of_tokens.merged.total() - of_tokens.skipped.total()
        of_tokens.skipped[Skipped.BEFORE if mine.skipped[Skipped.BEFORE] else Skipped.NO_SESSION] += left
        report.add(mine)
        tokens.add(of_tokens)

    async def _move_session(
        self, tx: Transaction, row: Session, mailed: list[SessionToken], report: TableReport, tokens: TableReport
    ) -> None:
        session, secret = _session_of(row, mailed, now_ms=self._now_ms)
        sessions = tx.validation_sessions
        here = await sessions.lookup_by_id(session.sid)
        if here is not None:
            # All that can have changed since an earlier import: it was validated with Sydent.
            if here.threepid != session.threepid or here.validated_at_ms is not None or not row.validated:
                raise Skip(Skipped.BEFORE)
            if not self._dry_run:
                await sessions.save(replace(here, validated_at_ms=row.mtime))
            report.moved += 1
            tokens.skipped[Skipped.BEFORE] += len(mailed)
            return
        assert session.threepid is not None
        if await sessions.find(threepid=session.threepid, client_secret=secret, requested_by=None):
            report.merged[Merged.SAME_SESSION] += 1
            return
        report.moved += 1
        report.rewritten += session.threepid.address != row.address
        if not self._dry_run:
            await sessions.add(session, secret)
        await self._session_tokens(tx, session, mailed, tokens)

    async def _session_tokens(
        self, tx: Transaction, session: ValidationSession, mailed: list[SessionToken], report: TableReport
    ) -> None:
        """A link's token goes on working; so does a code, which is too short to be kept in the same way."""
        assert session.threepid is not None
        if session.threepid.medium is not Medium.EMAIL:
            await self._session_code(tx, session, mailed, report)
            return
        digests = {token_digest(each.token) for each in mailed}
        digests -= {each for each in digests if await tx.validation_sessions.find_by_token(each) is not None}
        report.merged[Merged.SAME_TOKEN] += len(mailed) - len(digests)
        report.moved += len(digests)
        if not self._dry_run:
            for digest in digests:
                await tx.validation_sessions.add_token(
                    session.sid, digest, now_ms=session.created_at_ms, expires_at_ms=session.expires_at_ms
                )

    async def _session_code(
        self, tx: Transaction, session: ValidationSession, texted: list[SessionToken], report: TableReport
    ) -> None:
        expires_at_ms = session.created_at_ms + CODE_LIFETIME_MS
        if session.validated_at_ms is not None or expires_at_ms <= self._now_ms:
            report.skipped[Skipped.CODE] += len(texted)
            return
        *older, newest = texted
        report.merged[Merged.NEWER_CODE] += len(older)
        report.moved += 1
        if not self._dry_run:
            salt = self._randomness.token_bytes(SALT_BYTES)
            hashed = self._code_hasher.hash(session.sid, newest.token, salt=salt)
            await tx.validation_sessions.put_code(session.sid, SentCode(hashed, expires_at_ms))

    # --- bindings -------------------------------------------------------------------------

    async def _bindings(self) -> None:
        """Move the newest binding of each address; the marks move when everything is done."""
        last_rows = {table: self._source.last_row(table) for table in (LOCAL, GLOBAL)}
        if all(self._is_known(table, last_row) for table, last_row in last_rows.items()):
            for table in last_rows:
                self._skip_table(table, Skipped.BEFORE)
            return
        newest = NewestBindings()
        try:
            self._offer(LOCAL, self._source.local_bindings(), newest)
            self._count_copies()
            self._offer(GLOBAL, self._source.global_bindings(server_name=self._server_name), newest)
            decides = newest.count()
            self._progress.begin("bindings", sum(decides.values()))
            for batch in newest.batches(_BATCH):
                await self._settle(batch)
        finally:
            newest.close()

        async def use_case(tx: Transaction) -> None:
            for table, last_row in last_rows.items():
                await tx.imports.set_mark(self._marks_name, table, last_row, now_ms=self._now_ms)

        if not self._dry_run:
            await self._target.transaction(use_case, bulk=True)

    def _count_copies(self) -> None:
        report = self._report.table(GLOBAL)
        copies = self._source.count_copies(self._server_name)
        report.add(TableReport(read=copies, merged=Counter({Merged.COPY: copies})))

    def _offer(self, table: str, pages: Iterator[list[Row[Binding]]], newest: NewestBindings) -> None:
        """Read a table and account for all rows but those that are the newest of their address."""
        report = self._report.table(table)
        self._progress.begin(f"{table}: reading", self._source.count(table))
        before, candidates = newest.count(), 0
        for page in pages:
            report.read += len(page)
            found = list(self._candidates(table, page, report))
            newest.offer(found)
            candidates += len(found)
            self._progress.advance(len(page))
        # Whoever is thrown out of `newest` by a row of this table counts as older too, in its own table.
        for each, count in newest.count().items():
            mine = candidates if each == table else 0
            self._report.table(each).merged[Merged.OLDER] += before[each] + mine - count

    def _candidates(self, table: str, page: list[Row[Binding]], report: TableReport) -> Iterable[Candidate]:
        for row in page:
            if isinstance(row, Unreadable):
                report.skipped[Skipped.UNREADABLE] += 1
                continue
            try:
                blind = self._sealer.blind(_threepid(row))
            except Skip as skip:
                report.skipped[skip.reason] += 1
            else:
                yield Candidate(blind, row.ts, table, row.row)

    async def _settle(self, batch: list[Candidate]) -> None:
        """Store what the newest rows say; the batch is in the order of its blinds."""
        new = [each for each in batch if not self._is_known(each.table, each.row)]
        for table in (LOCAL, GLOBAL):
            known = sum(each.table == table for each in batch) - sum(each.table == table for each in new)
            self._report.table(table).skipped[Skipped.BEFORE] += known
        if new:
            found = {
                table: self._source.bindings_by_row(table, [each.row for each in new if each.table == table])
                for table in (LOCAL, GLOBAL)
            }
            outcomes = await self._write(lambda tx: self._store(tx, new, found))
            for table, outcome in outcomes.items():
                self._report.table(table).add(outcome)
        self._progress.advance(len(batch))

    async def _store(
        self, tx: Transaction, batch: list[Candidate], found: dict[str, dict[int, Binding]]
    ) -> dict[str, TableReport]:
        outcomes = {table: TableReport() for table in found}
        await tx.imports.expect_many()
        here = await self._bound(tx, batch, found)
        refused = await _refused_among(tx, (row for rows in found.values() for row in rows.values()))
        stored: list[Association] = []
        removed: list[int] = []
        for each in batch:
            outcome, row = outcomes[each.table], found[each.table].get(each.row)
            with outcome.skipping():
                association = self._decide(each, row, here.get(each.blind))
                if association is not None and association.threepid in refused:
                    raise Skip(Skipped.REFUSED)
                outcome.moved += 1
                if each.blind in here:
                    removed.append(here[each.blind].id)
                if association is not None:
                    stored.append(association)
                    outcome.rewritten += row is not None and row.address != association.threepid.address
        if not self._dry_run:
            # Random ids, but in order: the database then finds their places side by side.
            ids = sorted(row_id(self._randomness) for _ in stored)
            await tx.associations.put_all(list(zip(ids, stored, strict=True)), replaced=removed, now_ms=self._now_ms)
            await self._note(tx, sum(outcome.moved for outcome in outcomes.values()))
        return outcomes

    async def _bound(
        self, tx: Transaction, batch: list[Candidate], found: dict[str, dict[int, Binding]]
    ) -> dict[bytes, StoredAssociation]:
        """What is bound here of the addresses of a batch, by their blinds."""
        if tx.key_ids == (self._sealer.key_id,):
            return await tx.associations.list_blinds(batch[0].blind, batch[-1].blind)
        # The root key is being replaced, or has been since this began: the blinds here are not those in the batch.
        threepids: dict[bytes, Threepid] = {}
        for each in batch:
            row = found[each.table].get(each.row)
            with suppress(Skip):
                threepids |= {} if row is None else {each.blind: _threepid(row)}
        here = await tx.associations.list_of(threepids.values())
        return {blind: here[threepid] for blind, threepid in threepids.items() if threepid in here}

    def _decide(self, newest: Candidate, row: Binding | None, here: StoredAssociation | None) -> Association | None:
        """The association to be stored; None if the address is to have none.

        Raises:
            Skip: nothing changes.
        """
        if row is None or row.ts != newest.ts:
            raise Skip(Skipped.CHANGED)
        if row.mxid is None:
            if here is None:
                raise Skip(Skipped.UNBOUND)
            if here.ts > row.ts:
                raise Skip(Skipped.NEWER_HERE)
            return None
        association = self._association(row, row.mxid)
        if here is not None and here.ts >= row.ts:
            same = (here.ts, here.user_id) == (row.ts, row.mxid)
            raise Skip(Skipped.BEFORE if same else Skipped.NEWER_HERE)
        return association if here is None else association.succeeding(here.user_id, here.visibility)

    def _association(self, row: Binding, mxid: str) -> Association:
        user_id = _user_id(mxid)
        if row.not_before is None or row.not_after is None:
            raise Skip(Skipped.BAD_VALIDITY)
        if not (0 <= row.ts <= _LARGEST_INTEGER and 0 <= row.not_before < row.not_after <= _LARGEST_INTEGER):
            raise Skip(Skipped.BAD_VALIDITY)
        if row.not_after <= self._now_ms:
            raise Skip(Skipped.OVER)
        return Association(
            threepid=_threepid(row),
            user_id=user_id,
            ts=row.ts,
            not_before=row.not_before,
            not_after=row.not_after,
            visibility=self._visibility,
        )


def _session_of(row: Session, mailed: list[SessionToken], *, now_ms: int) -> tuple[ValidationSession, ClientSecret]:
    threepid = _threepid(row)
    try:
        secret = parse_client_secret(row.client_secret)
    except InvalidParameter:
        raise Skip(Skipped.BAD_SECRET) from None
    has_code = bool(mailed) and now_ms < row.mtime + CODE_LIFETIME_MS
    if threepid.medium is not Medium.EMAIL and not row.validated and not has_code:
        raise Skip(Skipped.CODE)
    session = ValidationSession(
        sid=SessionId(str(row.row)),
        threepid=threepid,
        requested_by=None,
        send_attempt=max([0, *(each.send_attempt for each in mailed)]),
        next_link=None,
        # Sydent counts both its times from the last request.
        created_at_ms=row.mtime,
        validated_at_ms=row.mtime if row.validated else None,
    )
    return session, secret


def _threepid(row: Binding | Invite | Session) -> Threepid:
    try:
        return canonical(row.medium, row.address)
    except UnknownMedium:
        raise Skip(Skipped.BAD_MEDIUM) from None
    except NotAnAddress:
        raise Skip(Skipped.BAD_ADDRESS) from None


async def _refused_among(tx: Transaction, rows: Iterable[Binding | Invite]) -> set[Threepid]:
    """Addresses whose owners have asked here to be left alone."""
    # Reading an address takes longer than all else about a row, and mostly there is nobody.
    if not await tx.refusals.are_there_any():
        return set()
    threepids = set()
    for row in rows:
        with suppress(Skip):
            threepids.add(_threepid(row))
    return await tx.refusals.among(threepids)


def _user_id(text: str) -> UserId:
    try:
        return parse_user_id(text)
    except InvalidParameter:
        raise Skip(Skipped.BAD_USER) from None


def _time(ms: int) -> int:
    """A time that every database can hold; one that can't be right becomes the beginning."""
    return ms if 0 <= ms <= _LARGEST_INTEGER else 0
