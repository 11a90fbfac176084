"""How much each may look up: whoever asks for their contacts notices nothing, and nobody can ask for everybody.

The rule: an answer is charged before it is given. A lookup that is too much is refused as a whole, and charged nothing:
an answer with some left out would say of these that nobody is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from identity_server.domain.budgets import BudgetKind, BudgetRules, Holder, day_of
from identity_server.domain.durations import HOUR_MS
from identity_server.domain.hashing import Pepper
from identity_server.domain.identifiers import ServerName, UserId, server_of
from identity_server.domain.ports import Clock, Randomness
from identity_server.domain.server_domains import registrable_domain
from identity_server.index.keys import Halves, halves
from identity_server.services.lookup.asked_addresses import AskedAddresses
from identity_server.services.lookup.budget_ledger import BudgetLedger, Claim, Request
from identity_server.services.lookup.charges import Charges
from identity_server.services.sweeping import in_batches
from identity_server.storage.database import Database, Transaction

_COUNTED_AT_ONCE = 2_000


class LookupBudgets:
    """Charges accounts for what they ask for the first time, and with them those that many accounts share.

    Args:
        pepper_lifetime_ms: the age at which a pepper is replaced, and everybody has all of their budget again.
    """

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        randomness: Randomness,
        rules: BudgetRules,
        pepper_lifetime_ms: int,
    ) -> None:
        self._database = database
        self._clock = clock
        self._rules = rules
        self._pepper_lifetime_ms = pepper_lifetime_ms
        self._ledger = BudgetLedger(database=database, clock=clock, rules=rules)
        self._asked = AskedAddresses(database=database, clock=clock, randomness=randomness)
        self._charges = Charges(ledger=self._ledger, asked=self._asked)

    async def charge(self, asker: UserId, pepper: Pepper, keys: bytes, *, client_network: Callable[[], str]) -> None:
        """Charge those of the keys that the account hasn't asked for under this pepper.

        Commits the charge, or spends of what has been committed in advance.

        Args:
            asker: the account.
            pepper: that the keys are made with.
            keys: of the hashes that are asked for.
            client_network: says what network the account asks from, if it makes a difference.

        Raises:
            RateLimited: so many that are new are more than is left of a budget. Nothing is charged.
            TooManyAddresses: more than can ever be asked for at once.
            Unavailable: the database can't be asked.
        """
        account = Holder(BudgetKind.ACCOUNT, asker, pepper.id)
        known_new = self._asked.missing_here(account, keys)
        if known_new is not None and not len(known_new):
            return
        claims = self._claims(account, pepper, client_network())
        if known_new is None or not self._spend(account, claims, known_new):
            await self._charges.charge(account, halves(keys), claims)

    def _spend(self, account: Holder, claims: list[Claim], new: Halves) -> bool:
        """Charge what is new out of what is set aside; False if that isn't enough, or isn't known to be new."""
        if self._charges.is_charging(account) or not self._ledger.spend(claims, len(new)):
            return False
        self._asked.note(self._asked.of(account), new)
        return True

    async def charge_network(self, client_network: str, amount: int) -> None:
        """Charge a client network alone, where nobody says who asks (v1); there are no repeats then.

        Raises:
            RateLimited, TooManyAddresses, Unavailable: as `charge`.
        """
        claims = [Claim(Holder(BudgetKind.NETWORK, client_network))]
        if self._ledger.spend(claims, amount):
            return
        (refusal,) = await self._ledger.acquire([Request(claims, amount)])
        if refusal is not None:
            raise refusal

    def _claims(self, account: Holder, pepper: Pepper, client_network: str) -> list[Claim]:
        server_name = server_of(UserId(account.name))
        replaced_at_ms = pepper.retired_at_ms or pepper.created_at_ms + self._pepper_lifetime_ms
        return [
            Claim(account, epoch_ms=pepper.created_at_ms, renewed_at_ms=replaced_at_ms),
            Claim(Holder(BudgetKind.HOMESERVER, server_name)),
            Claim(Holder(BudgetKind.DOMAIN, registrable_domain(server_name))),
            Claim(Holder(BudgetKind.NETWORK, client_network)),
        ]

    # --- upkeep ---------------------------------------------------------------------------

    async def write_down(self) -> None:
        """Commit what was asked and is only in this process's memory so far."""
        await self._asked.write_down()

    async def tidy(self) -> None:
        """Commit that others may have what this process doesn't need, and forget accounts that haven't asked of late."""
        self._asked.forget_idle()
        await self._ledger.give_back()

    async def close(self) -> None:
        """Commit what is only in memory, and give everything back."""
        await self._charges.close()
        await self._asked.write_down()
        await self._ledger.give_back(idle_ms=0)

    async def count_bound_users(self) -> int:
        """Commit how many users of homeservers and domains an address is bound to; returns how many users those are."""
        by_server: Counter[ServerName] = Counter()
        after: UserId | None = None
        while page := await self._list_bound_users(after):
            by_server.update(map(server_of, page))
            after = page[-1]
        counts: Counter[Holder] = Counter()
        for server_name, users in by_server.items():
            counts[Holder(BudgetKind.HOMESERVER, server_name)] += users
            counts[Holder(BudgetKind.DOMAIN, registrable_domain(server_name))] += users
        many = {holder: users for holder, users in counts.items() if users > self._rules.users_worth_counting}
        await self._database.transaction(lambda tx: tx.budgets.put_bound(many), bulk=True)
        return by_server.total()

    async def _list_bound_users(self, after: UserId | None) -> list[UserId]:
        return await self._database.read(
            lambda tx: tx.associations.list_bound_users(after=after, limit=_COUNTED_AT_ONCE), bulk=True
        )

    async def cleanup(self) -> int:
        """Commit the removal of what is about peppers that are gone and about days that are over; returns how many."""
        # For an hour more, in case somebody's clock is behind.
        before_day = day_of(self._clock.now_ms() - HOUR_MS, epoch_ms=0)
        oldest, *_ = await self._database.read(lambda tx: tx.peppers.list())

        async def forget(tx: Transaction, limit: int) -> int:
            return await tx.budgets.cleanup_asked(before_pepper_id=oldest.id, limit=limit)

        async def forget_usage(tx: Transaction, limit: int) -> int:
            return await tx.budgets.cleanup(before_pepper_id=oldest.id, before_day=before_day, limit=limit)

        return await in_batches(self._database, forget) + await in_batches(self._database, forget_usage)
