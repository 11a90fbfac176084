"""Binding an address to a Matrix ID, and undoing it (Identity Service API, "Establishing associations")."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from identity_server.domain.association import Association, Visibility
from identity_server.domain.audit import AuditEvent
from identity_server.domain.durations import MINUTE_MS
from identity_server.domain.errors import AddressRefused, Forbidden, NoSuchBinding, NoSuchSession, NotYourMatrixId
from identity_server.domain.homeserver_policy import HomeserverPolicy
from identity_server.domain.identifiers import (
    ClientSecret,
    Medium,
    ServerName,
    SessionId,
    Threepid,
    UserId,
    server_of,
)
from identity_server.domain.ports import Clock, Randomness
from identity_server.domain.random_values import row_id
from identity_server.domain.rate_limits import RateLimit
from identity_server.domain.retention import CHANGES_KEPT_MS, MONTH_MS, UNPROVEN_PHONE_MS
from identity_server.domain.signing import SigningKey
from identity_server.services.associations.bind_notices import BindNotices
from identity_server.services.associations.owner_notices import BOUND, UNBOUND, OwnerNotices
from identity_server.services.lookup.budgets import LookupBudgets
from identity_server.services.outbox.port import Outbox
from identity_server.services.sweeping import in_batches
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.jobs import Job

_BINDS = RateLimit(burst=20, interval_ms=MINUTE_MS)
_VISIBILITY_CHANGES = RateLimit(burst=20, interval_ms=MINUTE_MS)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BindingRules:
    """What holds for bindings from now on.

    Attributes:
        policy: to whose users addresses may be bound.
        visibility: who may know of a binding whose owner has decided nothing.
        phone_months: for how many months after it was proven a phone number stays bound; None for good.
    """

    policy: HomeserverPolicy
    visibility: Visibility
    phone_months: int | None

    def not_after(self, threepid: Threepid, *, proven_at_ms: int) -> int | None:
        """When a binding is over that rests on a proof of that time; None for never."""
        if threepid.medium is not Medium.MSISDN or self.phone_months is None:
            return None
        return proven_at_ms + self.phone_months * MONTH_MS


class Associations:
    """Makes, shows, hides and removes associations."""

    def __init__(
        self,
        *,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        randomness: Randomness,
        signing_key: SigningKey,
        bind_notices: BindNotices,
        owner_notices: OwnerNotices,
        rules: BindingRules,
        lookup_budgets: LookupBudgets,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness
        self._signing_key = signing_key
        self._bind_notices = bind_notices
        self._owner_notices = owner_notices
        self._rules = rules
        self._lookup_budgets = lookup_budgets

    async def bind(
        self,
        *,
        sid: SessionId,
        client_secret: ClientSecret,
        user_id: UserId,
        account_id: UserId | None,
        client_network: str,
    ) -> dict[str, Any]:
        """Bind the proven address of a session to a Matrix ID; returns the signed association with its invites.

        Commits the association in place of the address's earlier one (the newest proof wins), and notices to the
        homeserver and to the owner of the address. They are sent without being waited for: it may be the
        homeserver that asks for this bind.

        Args:
            sid: the session.
            client_secret: its secret.
            user_id: who the address is to be bound to.
            account_id: whose access token was shown; None for the v1 API, which binds to anyone.
            client_network: what counts against the limit where no account asks (v1).

        Raises:
            NotYourMatrixId: the Matrix ID isn't the account's own.
            HomeserverDenied: addresses are not bound to users of that homeserver.
            NoSuchSession: there is none, or another account asked for it.
            SessionExpired, SessionNotValidated: as they say.
            AddressRefused: its owner wants it not to be bound here.
            RateLimited: too many bindings by this account.
        """
        if account_id is not None and user_id != account_id:
            raise NotYourMatrixId
        self._rules.policy.require_binding(user_id)
        now_ms = self._clock.now_ms()

        async def use_case(tx: Transaction) -> tuple[dict[str, Any], list[Job]]:
            session = await tx.validation_sessions.lookup(sid, client_secret)
            # Whoever followed the link was told which Matrix ID had asked; it can't be given to another one.
            if session is None or session.requested_by not in {account_id, None}:
                raise NoSuchSession
            threepid, proven_at_ms = session.validated_threepid(now_ms)
            # Each binding is a notice to a homeserver and perhaps a mail.
            await tx.rate_limits.take("bind", account_id or client_network, _BINDS, now_ms=now_ms)
            return await self._put(tx, AuditEvent.BOUND, threepid, user_id, proven_at_ms=proven_at_ms, now_ms=now_ms)

        return await self._carry_out(use_case)

    async def bind_by_operator(self, *, threepid: Threepid, user_id: UserId) -> dict[str, Any]:
        """Bind an address without a proof, because the operator's own systems vouch for it.

        Commits and notifies as `bind` does. Lists of homeservers are for those who are not the operator.

        Raises:
            AddressRefused: its owner wants it not to be bound here; no other's word counts against that.
        """
        now_ms = self._clock.now_ms()
        return await self._carry_out(
            lambda tx: self._put(
                tx, AuditEvent.BOUND_BY_OPERATOR, threepid, user_id, proven_at_ms=now_ms, now_ms=now_ms
            )
        )

    async def _put(
        self,
        tx: Transaction,
        event: AuditEvent,
        threepid: Threepid,
        user_id: UserId,
        *,
        proven_at_ms: int,
        now_ms: int,
    ) -> tuple[dict[str, Any], list[Job]]:
        if await tx.refusals.find(threepid) is not None:
            raise AddressRefused
        association = Association.starting(
            now_ms,
            threepid=threepid,
            user_id=user_id,
            visibility=self._rules.visibility,
            not_after=self._rules.not_after(threepid, proven_at_ms=proven_at_ms),
        )
        before = await tx.associations.put(row_id(self._randomness), association)
        is_news = before is None or before.user_id != user_id
        if before is not None and is_news:
            await tx.audit.add(AuditEvent.REPLACED, now_ms=now_ms, about=(threepid, before.user_id))
        await tx.audit.add(event, now_ms=now_ms, about=(threepid, user_id))
        signed, to_homeserver = await self._bind_notices.add(tx, association, now_ms=now_ms)
        to_owner = await self._owner_notices.add(tx, BOUND, threepid, user_id) if is_news else []
        return signed, [to_homeserver, *to_owner]

    async def _carry_out(self, use_case: Callable[[Transaction], Awaitable[tuple[T, list[Job]]]]) -> T:
        """Run a use case, and send what it has to tell without waiting for that."""
        result, notices = await self._database.transaction(use_case)
        for notice in notices:
            self._outbox.start(notice)
        return result

    async def unbind_by_session(
        self, *, sid: SessionId, client_secret: ClientSecret, user_id: UserId, threepid: Threepid
    ) -> None:
        """Remove the binding of an address to a Matrix ID, on the proof that a session gives.

        Commits the removal. An address that isn't bound, or is bound to someone else, is left as it is.

        Raises:
            Forbidden: there is no such session, or it is for another address.
            SessionExpired, SessionNotValidated: as they say.
        """
        now_ms = self._clock.now_ms()

        async def use_case(tx: Transaction) -> tuple[None, list[Job]]:
            session = await tx.validation_sessions.lookup(sid, client_secret)
            if session is None:
                raise Forbidden("This session id and client secret do not prove anything here.")
            proven, _ = session.validated_threepid(now_ms)
            if proven != threepid:
                raise Forbidden("This session is for another address.")
            return await self._unbind(tx, AuditEvent.UNBOUND, threepid, user_id, now_ms=now_ms)

        await self._carry_out(use_case)

    async def unbind_by_homeserver(self, *, origin: ServerName, user_id: UserId, threepid: Threepid) -> None:
        """Remove the binding of an address to a Matrix ID, because the homeserver of that Matrix ID says so.

        Commits the removal. An address that isn't bound, or is bound to someone else, is left as it is: an
        account can be given up long after its address has gone to another one.

        Raises:
            Forbidden: the Matrix ID is not one of the homeserver's.
        """
        if server_of(user_id) != origin:
            raise Forbidden("This Matrix ID does not belong to the homeserver that signed the request.")
        now_ms = self._clock.now_ms()
        event = AuditEvent.UNBOUND_BY_HOMESERVER
        await self._carry_out(lambda tx: self._unbind(tx, event, threepid, user_id, now_ms=now_ms))

    async def unbind_by_operator(self, *, threepid: Threepid, user_id: UserId) -> None:
        """Remove the binding of an address to a Matrix ID, because the operator's own systems say so.

        Commits the removal. An address that isn't bound, or is bound to someone else, is left as it is.
        """
        now_ms = self._clock.now_ms()
        event = AuditEvent.UNBOUND_BY_OPERATOR
        await self._carry_out(lambda tx: self._unbind(tx, event, threepid, user_id, now_ms=now_ms))

    async def _unbind(
        self, tx: Transaction, event: AuditEvent, threepid: Threepid, user_id: UserId, *, now_ms: int
    ) -> tuple[None, list[Job]]:
        bound = await tx.associations.find(threepid)
        if bound is None or bound.user_id != user_id:
            return None, []
        await tx.associations.remove(threepid, now_ms=now_ms)
        await tx.audit.add(event, now_ms=now_ms, about=(threepid, user_id))
        return None, await self._owner_notices.add(tx, UNBOUND, threepid, user_id)

    async def release(self, tx: Transaction, threepid: Threepid, *, now_ms: int) -> list[Job]:
        """Remove whatever binding an address has, as a step of what its owner wants done; returns notices to start."""
        bound = await tx.associations.find(threepid)
        if bound is None:
            return []
        _, notices = await self._unbind(tx, AuditEvent.UNBOUND, threepid, bound.user_id, now_ms=now_ms)
        return notices

    async def list_of(self, user_id: UserId) -> list[Association]:
        """What is bound to a Matrix ID, the oldest first; for the eyes of its owner alone."""
        return await self._database.read(lambda tx: tx.associations.list_by_user(user_id), bulk=True)

    async def set_visibility(self, *, threepid: Threepid, user_id: UserId, visibility: Visibility) -> None:
        """Commit who may know of a binding; it holds for the next lookup, and until the address is someone else's.

        The caller has made sure that it is the owner who asks, of the Matrix ID or of the address.

        Raises:
            NoSuchBinding: the address isn't bound to this Matrix ID.
            RateLimited: too many changes for this Matrix ID.
        """
        now_ms = self._clock.now_ms()

        async def use_case(tx: Transaction) -> None:
            bound = await tx.associations.find(threepid)
            if bound is None or bound.user_id != user_id:
                raise NoSuchBinding
            await self.show(tx, bound, visibility, now_ms=now_ms)

        await self._database.transaction(use_case)

    async def show(self, tx: Transaction, bound: Association, visibility: Visibility, *, now_ms: int) -> None:
        """Let others know of a binding, or no longer, as a step of what its owner wants done.

        Raises:
            RateLimited: too many changes for this Matrix ID.
        """
        if bound.visibility is visibility:
            return
        # Every change is read by every node.
        await tx.rate_limits.take("visibility", bound.user_id, _VISIBILITY_CHANGES, now_ms=now_ms)
        changed = replace(bound, visibility=visibility)
        await tx.associations.replace(row_id(self._randomness), changed, now_ms=now_ms)
        about = (bound.threepid, bound.user_id)
        await tx.audit.add(AuditEvent.VISIBILITY_CHANGED, now_ms=now_ms, about=about)

    async def list_live(self, threepids: Sequence[Threepid], *, client_network: str, asked: int) -> list[Association]:
        """The associations of these addresses that hold now and that everyone may see, for lookups in plain text (v1).

        Nobody says who asks, so it is the network that is charged, and for every address each time.

        Args:
            threepids: the addresses.
            client_network: from where they are asked for.
            asked: for how many; what can't be an address costs as much as others.

        Raises:
            RateLimited: this network has looked up enough for today.
        """
        await self._lookup_budgets.charge_network(client_network, max(asked, 1))
        now_ms = self._clock.now_ms()

        async def use_case(tx: Transaction) -> list[Association]:
            found = [await tx.associations.find(threepid) for threepid in threepids]
            return [each for each in found if each is not None and each.holds(now_ms) and each.is_shown_to(None)]

        return await self._database.read(use_case, bulk=len(threepids) > 1)

    def sign(self, association: Association) -> dict[str, Any]:
        """An association as it goes over the wire, without invites."""
        return self._signing_key.sign(association.to_wire())

    async def sweep_expired(self) -> int:
        """Commit the removal of bindings of phone numbers that haven't been proven anew in time; returns how many.

        From the end of their time they aren't found any more. For a week they still are somebody's, who then finds
        them as they were.
        """
        now_ms = self._clock.now_ms()

        async def sweep(tx: Transaction, limit: int) -> int:
            ids = await tx.associations.list_expired_phones(before_ms=now_ms - UNPROVEN_PHONE_MS, limit=limit)
            if ids:
                await tx.associations.remove_all(ids, now_ms=now_ms)
                await tx.audit.add(AuditEvent.SWEPT, now_ms=now_ms, count=len(ids))
            return len(ids)

        return await in_batches(self._database, sweep)

    async def cleanup(self) -> int:
        """Commit the removal of feed entries that every reader has long seen; returns how many."""
        before_ms = self._clock.now_ms() - CHANGES_KEPT_MS
        return await in_batches(
            self._database, lambda tx, limit: tx.associations.trim_changes(before_ms=before_ms, limit=limit)
        )
