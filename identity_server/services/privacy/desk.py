"""What an operator can do for the owner of a Matrix ID who asks what is held about them."""

from __future__ import annotations

from identity_server.domain.account_holdings import AccountHoldings, SearchCount
from identity_server.domain.audit import AuditEvent
from identity_server.domain.budgets import BudgetKind, Holder
from identity_server.domain.identifiers import UserId
from identity_server.domain.ports import Clock
from identity_server.services.audit.desk import AuditDesk, Numbered
from identity_server.storage.database import Database, Transaction


class NothingHeld(Exception):
    """Nothing is stored under a Matrix ID; perhaps it isn't written as its homeserver writes it."""


class AccountDesk:
    """Reads what is stored under a Matrix ID."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._audit = AuditDesk(database=database)

    async def export(self, user_id: UserId) -> AccountHoldings:
        """Everything that is held about a Matrix ID; commits an entry of the journal that says that it was taken.

        Raises:
            NothingHeld: nothing is, and no entry says so.
        """
        entries = tuple(await self._audit.find(user_id))

        async def use_case(tx: Transaction) -> AccountHoldings:
            now_ms = self._clock.now_ms()
            holdings = await _read(tx, user_id, entries, now_ms=now_ms)
            if holdings.is_nothing:
                raise NothingHeld
            await tx.audit.add(AuditEvent.ACCOUNT_EXPORTED, now_ms=now_ms, about=(user_id,))
            return holdings

        return await self._database.transaction(use_case, bulk=True)


async def _read(tx: Transaction, user_id: UserId, entries: tuple[Numbered, ...], *, now_ms: int) -> AccountHoldings:
    associations = await tx.associations.list_by_user(user_id)
    received = [invite for each in associations for invite in await tx.invites.list_stored(each.threepid)]
    account = await tx.accounts.find(user_id)
    return AccountHoldings(
        user_id=user_id,
        at_ms=now_ms,
        created_at_ms=None if account is None else account.created_at_ms,
        agreed_master_version=None if account is None else account.agreed_master_version,
        tokens=tuple(await tx.access_tokens.list_times(user_id)),
        accepted=tuple(await tx.accounts.list_accepted_with_times(user_id)),
        associations=tuple(associations),
        sessions=tuple(await tx.validation_sessions.list_asked_for_by(user_id)),
        invites_sent=tuple(await tx.invites.list_sent_by(user_id)),
        invites_received=tuple(received),
        searches=tuple(await _searches(tx, user_id)),
        audit=entries,
    )


async def _searches(tx: Transaction, user_id: UserId) -> list[SearchCount]:
    peppers = {Holder(BudgetKind.ACCOUNT, user_id, each.id): each for each in await tx.peppers.list()}
    used = await tx.budgets.find(peppers)
    return [SearchCount(peppers[holder].created_at_ms, usage.today + usage.once) for holder, usage in used.items()]
