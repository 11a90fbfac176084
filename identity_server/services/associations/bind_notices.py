"""Telling a homeserver that an address was bound to one of its users (server-server API, "3PID onbind").

The notice is a job, written with the binding; the invites that it carries are taken with it and gone when it
has been delivered.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from itertools import compress
from typing import Any

import structlog

from identity_server.domain.association import Association
from identity_server.domain.audit import AuditEvent
from identity_server.domain.durations import HOUR_MS, MINUTE_MS
from identity_server.domain.identifiers import Medium, ServerName, Threepid, UserId, server_of
from identity_server.domain.invite import Invite
from identity_server.domain.ports import Clock, DeliveryNeedless, Homeservers, Randomness
from identity_server.domain.random_values import row_id
from identity_server.domain.retention import BIND_NOTICE_LIFETIME_MS
from identity_server.domain.signing import SigningKey
from identity_server.services.outbox.port import BIND_NOTICE
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.jobs import Job

_log = structlog.get_logger(__name__)

_LONGEST_PAUSE_MS = 6 * HOUR_MS
_JITTER_BITS = 16

HANDOVER_MS = 10_000
"""How long an invite to a hidden binding waits before its homeserver is told: longer than the mail may take."""


class NoticeWriter:
    """Writes notices."""

    def __init__(self, *, randomness: Randomness, signing_key: SigningKey) -> None:
        self._randomness = randomness
        self._signing_key = signing_key

    async def add(self, tx: Transaction, association: Association, *, now_ms: int) -> tuple[dict[str, Any], Job]:
        """Take the address's waiting invites along, and write the notice.

        Returns:
            The signed association with its invites, as the binder gets it too, and the notice's claimed job.
        """
        invites = await tx.invites.take(association.threepid, now_ms=now_ms)
        payload = self._payload(association, invites)
        job = await tx.jobs.add_claimed(
            row_id(self._randomness),
            BIND_NOTICE,
            payload,
            now_ms=now_ms,
            expires_at_ms=now_ms + BIND_NOTICE_LIFETIME_MS,
            queue=payload["server_name"],
        )
        return payload["body"], job

    async def add_overdue(self, tx: Transaction, association: Association, *, now_ms: int) -> None:
        """Write the notice of an earlier binding, if invites wait although it is there: nobody was told of them."""
        invites = await tx.invites.take(association.threepid, now_ms=now_ms)
        if not invites:
            return
        payload = self._payload(association, invites)
        await tx.jobs.add(
            row_id(self._randomness),
            BIND_NOTICE,
            payload,
            now_ms=now_ms,
            expires_at_ms=now_ms + BIND_NOTICE_LIFETIME_MS,
            queue=payload["server_name"],
        )

    async def add_for_hidden(self, tx: Transaction, association: Association, invite: Invite, *, now_ms: int) -> int:
        """Write the notice of a binding that the inviter isn't told of, with this invite alone; returns its job's id.

        It is sent in a while: until the inviter has the answer, and the room knows of the invite, nobody could act
        upon it.
        """
        payload = self._payload(association, [invite])
        job_id = row_id(self._randomness)
        await tx.jobs.add(
            job_id,
            BIND_NOTICE,
            payload,
            now_ms=now_ms,
            run_at_ms=now_ms + HANDOVER_MS,
            expires_at_ms=now_ms + BIND_NOTICE_LIFETIME_MS,
            queue=payload["server_name"],
        )
        return job_id

    def without_senders(self, payload: Mapping[str, Any], senders: Container[UserId]) -> dict[str, Any]:
        """A notice that waits, without the invites that any of these has sent."""
        invites = payload["body"].get("invites", ())
        return self._with([each["sender"] not in senders for each in invites], payload)

    def _with(self, which: Sequence[bool], payload: Mapping[str, Any]) -> dict[str, Any]:
        """A notice that waits, with those of its invites that are to stay in it."""
        unsigned = {name: value for name, value in payload["body"].items() if name not in {"signatures", "invites"}}
        kept = list(compress(zip(payload["invites"], payload["body"].get("invites", ()), strict=True), which))
        if kept:
            unsigned["invites"] = [invite for _, invite in kept]
        return {
            "server_name": payload["server_name"],
            "body": self._signing_key.sign(unsigned),
            "invites": [invite_id for invite_id, _ in kept],
        }

    def _payload(self, association: Association, invites: list[Invite]) -> dict[str, Any]:
        body = association.to_wire()
        if invites:
            body["invites"] = [self._invite(invite, association) for invite in invites]
        return {
            "server_name": server_of(association.user_id),
            "body": self._signing_key.sign(body),
            "invites": [invite.id for invite in invites],
        }

    def _invite(self, invite: Invite, association: Association) -> dict[str, Any]:
        signed = self._signing_key.sign({"mxid": association.user_id, "token": invite.token})
        return invite.for_homeserver(association.user_id, signed)


class BindNotices(NoticeWriter):
    """Writes notices, sends them while what they tell of is true, and clears up after them.

    Args:
        keep_delivered_invites: leave invites until they expire, even though their homeserver knows of them.
    """

    def __init__(
        self,
        *,
        database: Database,
        homeservers: Homeservers,
        clock: Clock,
        randomness: Randomness,
        signing_key: SigningKey,
        keep_delivered_invites: bool,
    ) -> None:
        super().__init__(randomness=randomness, signing_key=signing_key)
        self._database = database
        self._homeservers = homeservers
        self._clock = clock
        self._keep_delivered_invites = keep_delivered_invites

    async def send(self, job: Job) -> None:
        """Deliver a notice; at least once. Invites that have been revoked, or are over, aren't in it any more.

        Raises:
            DeliveryNeedless: the address isn't bound to this Matrix ID any more.
            DeliveryRefused, DeliveryPostponed: as the homeserver answers.
        """
        payload = job.payload

        async def use_case(tx: Transaction) -> tuple[Association | None, set[int]]:
            invites = payload["invites"]
            return await tx.associations.find(_address_in(job)), await tx.invites.among(invites) if invites else set()

        bound, stored = await self._database.read(use_case)
        if not _tells_of(job, bound):
            raise DeliveryNeedless("there is no such binding any more")
        if len(stored) < len(payload["invites"]):
            payload = self._with([each in stored for each in payload["invites"]], payload)
        await self._homeservers.notify_bind(ServerName(payload["server_name"]), payload["body"])

    async def delivered(self, tx: Transaction, job: Job) -> None:
        """The homeserver knows: its invites have done their work."""
        if not self._keep_delivered_invites:
            await tx.invites.remove(job.payload["invites"])

    async def lapsed(self, tx: Transaction, job: Job) -> None:
        """The homeserver needn't know any more: its invites go to whoever has the address now, or wait again.

        That may be the same Matrix ID, bound anew since this was looked at: the notice of that has left these invites out.
        """
        await tx.invites.release(job.payload["invites"])
        bound = await tx.associations.find(_address_in(job))
        if bound is not None:
            await self.add_overdue(tx, bound, now_ms=self._clock.now_ms())

    async def given_up(self, tx: Transaction, job: Job) -> None:
        """The homeserver will never know: its invites wait again, and the operator can see it."""
        if not _tells_of(job, await tx.associations.find(_address_in(job))):
            await self.lapsed(tx, job)
            return
        server_name = ServerName(job.payload["server_name"])
        await tx.invites.release(job.payload["invites"])
        _log.error("bind_notice.given_up", server_name=server_name, invites=len(job.payload["invites"]))
        await tx.audit.add(AuditEvent.NOTICE_GIVEN_UP, now_ms=self._clock.now_ms(), server_name=server_name)

    def pause_ms(self, attempts: int) -> int:
        """One minute, doubling up to six hours, and up to a fifth more so that they don't all come at once."""
        pause_ms = min(MINUTE_MS << min(attempts, _JITTER_BITS), _LONGEST_PAUSE_MS)
        share = int.from_bytes(self._randomness.token_bytes(_JITTER_BITS // 8), "big")
        return pause_ms + pause_ms * share // (5 << _JITTER_BITS)


def _address_in(job: Job) -> Threepid:
    body = job.payload["body"]
    return Threepid(Medium(body["medium"]), body["address"])


def _tells_of(job: Job, bound: Association | None) -> bool:
    """Whether a notice is about what its address is bound to now."""
    return bound is not None and bound.user_id == job.payload["body"]["mxid"]
