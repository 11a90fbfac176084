"""Homeservers that have everything about one of their users removed, as when an account is deactivated for good."""

from __future__ import annotations

from identity_server.domain.errors import Forbidden
from identity_server.domain.identifiers import ServerName, UserId, server_of
from identity_server.services.client_limits import ClientLimits
from identity_server.services.erasure.removal import Erasure


class ErasureRequests:
    """Erases because a homeserver says so, which has been made sure of.

    Args:
        network_limits: how often one client network may ask; whatever waits is opened for each.
    """

    def __init__(self, *, erasure: Erasure, network_limits: ClientLimits) -> None:
        self._erasure = erasure
        self._network_limits = network_limits

    async def erase(self, *, origin: ServerName, user_id: UserId, client_network: str) -> None:
        """Commit the removal of everything about a Matrix ID and the addresses that are bound to it.

        As by the operator's command, but limits that count addresses stay. Doing so again succeeds again.

        Raises:
            Forbidden: the Matrix ID is not one of the homeserver's.
            RateLimited: too many such requests from this network.
        """
        if server_of(user_id) != origin:
            raise Forbidden("This Matrix ID does not belong to the homeserver that signed the request.")
        async with self._network_limits.admit(client_network):
            await self._erasure.erase_account(user_id, by_homeserver=True)

    async def empty_log(self) -> None:
        """Leave nothing in the database's log of what has been deleted since this was last done."""
        await self._erasure.empty_log()
