"""Association lookup (https://spec.matrix.org/v1.20/identity-service-api/#association-lookup)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated

from aiohttp import web
from pydantic import Field, StrictStr
from typing_extensions import TypedDict

from identity_server.api.app_keys import METRICS, SERVICES, SETTINGS
from identity_server.api.clients import network_of
from identity_server.api.route import ACCOUNT, outcomes
from identity_server.api.wire import Text, WireModel
from identity_server.domain.errors import (
    HomeserverDenied,
    InvalidParameter,
    InvalidPepper,
    RateLimited,
    TooManyAddresses,
)
from identity_server.domain.identifiers import UserId
from identity_server.services.lookup import Asker


class HashedAddresses(WireModel):
    """Whose Matrix IDs are asked for."""

    algorithm: Annotated[str, Text(255), Field(description="How they are hashed, one of those on offer.")]
    pepper: Annotated[str, Text(255, min_length=0), Field(description="What they are hashed with.")]
    # Not constrained one by one: what is badly formed matches nothing, and the body's size bounds them all.
    addresses: Annotated[
        list[StrictStr],
        Field(description="URL-safe base64, without padding, of the SHA-256 of `address medium pepper`."),
    ]


class HashDetails(TypedDict):
    """How addresses are to be hashed."""

    algorithms: Annotated[Sequence[str], Field(description="The algorithms on offer.")]
    lookup_pepper: Annotated[str, Field(description="The pepper in use; it changes.")]


class LookupResult(TypedDict):
    """The addresses that are bound, and may be known to be."""

    mappings: Annotated[Mapping[str, str], Field(description="From hashes, as they were sent, to Matrix IDs.")]


@outcomes(HomeserverDenied)
async def hash_details(request: web.Request) -> HashDetails:
    """Say how addresses are to be hashed.

    https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2hash_details
    """
    details = await request.app[SERVICES].lookup.hash_details(asker=request[ACCOUNT].user_id)
    return {"algorithms": details.algorithms, "lookup_pepper": details.pepper}


def asker_of(request: web.Request, user_id: UserId) -> Asker:
    """The account that a lookup is counted for."""
    return Asker(user_id, partial(network_of, request, request.app[SETTINGS].trusted_proxies))


@outcomes(HomeserverDenied, InvalidParameter, TooManyAddresses, InvalidPepper, RateLimited)
async def lookup(request: web.Request, query: HashedAddresses) -> LookupResult:
    """Find the Matrix IDs behind hashed addresses.

    https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2lookup
    """
    mappings = await request.app[SERVICES].lookup.lookup(
        asker=asker_of(request, request[ACCOUNT].user_id),
        algorithm=query.algorithm,
        pepper=query.pepper,
        queries=query.addresses,
    )
    request.app[METRICS].count_lookup(asked=len(query.addresses), found=len(mappings))
    return {"mappings": mappings}
