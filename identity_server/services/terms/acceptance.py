"""Terms of service: what is in force, who has accepted it (Identity Service API, "Terms of service")."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from identity_server.domain.account import Account
from identity_server.domain.errors import InvalidParameter, TermsNotSigned, Unauthenticated
from identity_server.domain.ports import Clock
from identity_server.domain.terms import Terms
from identity_server.rendering.policies import Policies, PolicyProblems
from identity_server.storage.database import Database, Transaction

_log = structlog.get_logger(__name__)


class TermsOfService:
    """The terms in force, replaced as a whole when their files change.

    Args:
        load: reads the files anew; called in a thread.
    """

    def __init__(self, *, database: Database, clock: Clock, load: Callable[[], Policies]) -> None:
        self._database = database
        self._clock = clock
        self._load = load
        self._policies = load()

    @property
    def policies(self) -> Policies:
        """What is in force, texts included."""
        return self._policies

    @property
    def in_force(self) -> Terms:
        """What accounts must have accepted."""
        return self._policies.terms

    async def reload(self) -> None:
        """Read the files again; if anything is wrong with them, the terms in force stay."""
        try:
            policies = await asyncio.to_thread(self._load)
        except (PolicyProblems, OSError) as error:
            _log.error("terms.not_reloaded", reason=str(error))
            return
        if policies != self._policies:
            self._policies = policies
            _log.info("terms.reloaded", policies={each.id: each.version for each in policies.terms.policies})

    async def require(self, account: Account) -> None:
        """Let pass only who has accepted the terms in force, and note on the account that it has.

        Consent is never taken back, so it holds for as long as the account is remembered and these are the terms.

        Raises:
            TermsNotSigned: something is still to be accepted.
        """
        terms = self.in_force

        async def use_case(tx: Transaction) -> bool:
            accepted = await tx.accounts.list_accepted(account.user_id)
            agreed = await tx.accounts.find_agreed_master_version(account.user_id)
            return terms.satisfied(accepted=accepted, agreed_master_version=agreed)

        if terms.policies and not await self._database.read(use_case):
            raise TermsNotSigned
        account.consents_to = terms

    async def accept(self, account: Account, urls: Sequence[str]) -> None:
        """Commit that the account accepts the documents at these URLs.

        Raises:
            InvalidParameter: a URL is no document in force; nothing is recorded then.
            Unauthenticated: the account has just been erased.
        """
        terms = self.in_force
        found = [terms.find(url) for url in urls]
        acceptances = [each for each in found if each is not None]
        if len(acceptances) != len(found):
            raise InvalidParameter("user_accepts holds a URL that is not one of the terms in force; see GET terms.")
        now_ms = self._clock.now_ms()

        async def use_case(tx: Transaction) -> None:
            if not await tx.accounts.exists(account.user_id):
                raise Unauthenticated
            await tx.accounts.accept(account.user_id, acceptances, now_ms=now_ms)
            if terms.master_version is not None:
                accepted = await tx.accounts.list_accepted(account.user_id)
                if not terms.missing(accepted):
                    await tx.accounts.agree_to_master_version(account.user_id, terms.master_version)

        await self._database.transaction(use_case)
