"""Which homeserver has made a request, by its signature (server-server API, "Request Authentication").

The rule: a signature counts only for the very request it was made for, addressed to this server.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import structlog

from identity_server.domain.errors import Forbidden, InvalidParameter
from identity_server.domain.identifiers import ServerName
from identity_server.domain.ports import OriginKeys
from identity_server.domain.signatures import NotCanonical, is_signed, require_canonical
from identity_server.domain.x_matrix import Claim, Request, parse_claims, plain_destination, signed_objects
from identity_server.services.client_limits import ClientLimits

_log = structlog.get_logger(__name__)


class HomeserverRequests:
    """Authenticates requests that homeservers have signed.

    Args:
        origin_keys: where the keys of homeservers come from.
        names: what homeservers may call this server, each a server name with an optional path.
        fetch_limits: how often a client network may have a homeserver asked for its keys.
    """

    def __init__(self, *, origin_keys: OriginKeys, names: Collection[str], fetch_limits: ClientLimits) -> None:
        self._origin_keys = origin_keys
        self._names = tuple(dict.fromkeys(names))
        self._plain_names = frozenset(plain_destination(name) for name in names)
        self._fetch_limits = fetch_limits

    async def authenticate(
        self, request: Request, *, authorization: Sequence[str], client_network: str
    ) -> ServerName:
        """The homeserver that has signed this request.

        Args:
            request: what was received.
            authorization: the values of all its Authorization headers.
            client_network: where it came from.

        Raises:
            Forbidden: no homeserver has signed it, or it is meant for another server.
            InvalidParameter: the body can't be signed: it has no canonical form.
            RateLimited: too many signatures by unknown keys from this network.
            HomeserverUnreachable, HomeserverMisbehaved: the homeserver can't be asked for its keys.
        """
        claims = parse_claims(authorization)
        if not claims:
            raise Forbidden("The request is not signed by a homeserver.")
        try:
            require_canonical(request.content)
        except NotCanonical as error:
            raise InvalidParameter(f"The body cannot have been signed: {error}.") from None
        ours = [claim for claim in claims if self._is_for_us(claim)]
        if not ours:
            raise self._misaddressed(claims[0])
        # Those that need no call first: one good signature is enough.
        for claim in sorted(ours, key=self._needs_call):
            if await self._is_true(claim, request, client_network):
                return claim.origin
        _log.info("homeserver_request.refused", origin=claims[0].origin, reason="signature")
        raise Forbidden("The signature does not fit the request, or its key isn't one that the homeserver publishes.")

    def _is_for_us(self, claim: Claim) -> bool:
        return claim.destination is None or plain_destination(claim.destination) in self._plain_names

    def _misaddressed(self, claim: Claim) -> Forbidden:
        _log.warning(
            "homeserver_request.refused",
            origin=claim.origin,
            reason="destination",
            destination=claim.destination,
            hint="if this is a name of this server, add it to server.aliases",
        )
        return Forbidden("The request is addressed to another server, by its signature.")

    def _needs_call(self, claim: Claim) -> bool:
        return self._origin_keys.known(claim.origin, claim.key_id) is None

    async def _is_true(self, claim: Claim, request: Request, client_network: str) -> bool:
        key = await self._key(claim, client_network)
        if key is None:
            return False
        destinations = self._names if claim.destination is None else (claim.destination,)
        return any(
            is_signed(signed, name=claim.origin, key_id=claim.key_id, public_key=key)
            for signed in signed_objects(request, claim, destinations=destinations)
        )

    async def _key(self, claim: Claim, client_network: str) -> bytes | None:
        known = self._origin_keys.known(claim.origin, claim.key_id)
        if known is not None:
            return known
        async with self._fetch_limits.admit(client_network):
            return await self._origin_keys.find(claim.origin, claim.key_id)
