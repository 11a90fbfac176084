"""Who is asking: registration by OpenID, access tokens, logout (Identity Service API, "Authentication")."""

from __future__ import annotations

from identity_server.domain.account import ACCESS_TOKEN_BYTES, Account
from identity_server.domain.errors import HomeserverNotAllowed, Unauthenticated
from identity_server.domain.homeserver_policy import HomeserverPolicy
from identity_server.domain.identifiers import ServerName, server_of
from identity_server.domain.ports import Clock, Homeservers, Randomness
from identity_server.domain.random_values import opaque
from identity_server.services.authentication.stamped_cache import StampedCache
from identity_server.services.client_limits import ClientLimits
from identity_server.services.sweeping import in_batches
from identity_server.storage.database import Database, Transaction
from identity_server.storage.sealing.sealer import token_digest
from identity_server.storage.stamps import Subject


class Accounts:
    """Registers, recognises and logs out accounts.

    Args:
        policy: whose users may register, and use their accounts.
        token_lifetime_ms: how long a token lives unused.

    Attributes:
        recognised: how many tokens were recognised without asking the database.
        asked: how many it was asked about.
    """

    def __init__(
        self,
        *,
        database: Database,
        homeservers: Homeservers,
        clock: Clock,
        randomness: Randomness,
        register_limits: ClientLimits,
        policy: HomeserverPolicy,
        token_lifetime_ms: int,
    ) -> None:
        self._database = database
        self._homeservers = homeservers
        self._clock = clock
        self._randomness = randomness
        self._register_limits = register_limits
        self._policy = policy
        self._token_lifetime_ms = token_lifetime_ms
        self._used_tokens: set[bytes] = set()
        self.recognised = 0
        self.asked = 0
        self._recognised = StampedCache[bytes, Account](
            database.stamps, Subject.ACCOUNTS, lifetime_seconds=database.unannounced_seconds
        )

    async def register(self, *, server_name: ServerName, openid_token: str, client_network: str) -> str:
        """Exchange an OpenID token for an access token of this server.

        Commits the account, if it is new, and the token's digest. An existing account keeps its consent.

        Raises:
            HomeserverNotAllowed: users of that homeserver may not register here.
            RateLimited: too many registrations from this network.
            OpenIdTokenRefused, HomeserverUnreachable, HomeserverMisbehaved: as the homeserver answers.
        """
        if not self._policy.using.admits(server_name):
            raise HomeserverNotAllowed(f"This identity server does not accept accounts of {server_name}.")
        async with self._register_limits.admit(client_network):
            user_id = await self._homeservers.openid_user_id(server_name, openid_token)
        token = opaque(self._randomness, ACCESS_TOKEN_BYTES)
        now_ms = self._clock.now_ms()

        async def use_case(tx: Transaction) -> None:
            await tx.accounts.add_if_new(user_id, now_ms=now_ms)
            await tx.access_tokens.add(token_digest(token), user_id, now_ms=now_ms)

        await self._database.transaction(use_case)
        return token

    def recognise(self, token: str) -> Account | None:
        """The account of a token that was used on this node today; None where `authenticate` has to be asked."""
        account = self._recognised.get(token_digest(token))
        fresh = account is not None and not account.token_use_is_news(now_ms=self._clock.now_ms())
        if not fresh:
            return None
        self.recognised += 1
        return account

    async def authenticate(self, token: str) -> Account:
        """The account that a token stands for, with the word on whether its homeserver is served.

        Raises:
            Unauthenticated: the token is unknown, logged out or too long unused.
        """
        digest = token_digest(token)
        self.asked += 1
        as_of, now_ms = self._recognised.as_of(), self._clock.now_ms()
        account = await self._database.read(lambda tx: tx.access_tokens.find(digest))
        if account is None or account.token_expired(now_ms=now_ms, lifetime_ms=self._token_lifetime_ms):
            raise Unauthenticated
        if account.token_use_is_news(now_ms=now_ms):
            # Written by the upkeep: a read must not wait for a write.
            self._used_tokens.add(digest)
        # As long as the account is remembered, so is this: the operator's lists are those of this process.
        account.is_served = self._policy.using.admits(server_of(account.user_id))
        self._recognised.put(digest, account, as_of=as_of)
        return account

    async def logout(self, account: Account) -> None:
        """Commit that the token of this request is no longer known."""
        await self._database.transaction(lambda tx: tx.access_tokens.remove(account.token_digest))

    async def record_token_uses(self) -> None:
        """Commit the last use of tokens that were used since the last time."""
        used, self._used_tokens = self._used_tokens, set()
        if used:
            now_ms = self._clock.now_ms()
            await self._database.transaction(lambda tx: tx.access_tokens.record_use(used, now_ms=now_ms), bulk=True)

    async def cleanup(self) -> int:
        """Commit the removal of tokens that have expired; returns how many."""
        await self.record_token_uses()
        unused_since_ms = self._clock.now_ms() - self._token_lifetime_ms
        return await in_batches(
            self._database,
            lambda tx, limit: tx.access_tokens.cleanup(unused_since_ms=unused_since_ms, limit=limit),
        )
