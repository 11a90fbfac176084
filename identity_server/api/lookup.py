"""Association lookup (https://spec.matrix.org/v1.20/identity-service-api/#association-lookup)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, cast

import orjson
from aiohttp import web
from pydantic import Field, GetPydanticSchema, StrictStr, ValidatorFunctionWrapHandler, WrapValidator
from typing_extensions import TypedDict

from identity_server.api.app_keys import METRICS, SERVICES
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
from identity_server.domain.written_hashes import WrittenHashes
from identity_server.services.lookup.hashed_lookup import Asker

_MANY_BYTES = 16 * 1024
"""Of a body; in smaller ones, there are so few hashes that making a string of each costs less than not doing it."""
_BEFORE_HASHES = b'"addresses":'


def _unless_written(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """A list that was read as it is written has been checked."""
    return value if type(value) is WrittenHashes else check(value)


class HashedAddresses(WireModel):
    """Whose Matrix IDs are asked for."""

    algorithm: Annotated[str, Text(255), Field(description="How they are hashed, one of those on offer.")]
    pepper: Annotated[str, Text(255, min_length=0), Field(description="What they are hashed with.")]
    # Not constrained one by one: what is badly formed matches nothing, and the body's size bounds them all.
    addresses: Annotated[
        Sequence[str],
        # Pydantic takes longer over a sequence of some kind.
        GetPydanticSchema(lambda _, make: make(list[StrictStr])),
        WrapValidator(_unless_written),
        Field(description="URL-safe base64, without padding, of the SHA-256 of `address medium pepper`."),
    ]

    @classmethod
    def parse(cls, body: bytes) -> Any:
        """As any JSON; but many hashes stay as they are written, if they are written as programs do."""
        found = _read_hashes(body) if len(body) >= _MANY_BYTES else None
        return super().parse(body) if found is None else found


def _read_hashes(body: bytes) -> dict[str, Any] | None:
    """A body of which the list of hashes is left as it is written; None if it has to be read like any other."""
    start = body.find(_BEFORE_HASHES) + len(_BEFORE_HASHES)
    end = body.find(b"]", start) + 1
    before, after = body[:start], body[end:]
    is_usual = before.endswith(_BEFORE_HASHES) and end and b"\\" not in before and b"\\" not in after
    if not is_usual or _BEFORE_HASHES in after:
        return None
    hashes = WrittenHashes.read(body[start:end])
    # The only list of this name; where it is empty now, it was those that were cut out.
    rest = None if hashes is None else orjson.loads(b"%b[]%b" % (before, after))
    if not isinstance(rest, dict) or rest.get("addresses") != []:
        return None
    return {**rest, "addresses": hashes}


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


@outcomes(HomeserverDenied, InvalidParameter, TooManyAddresses, InvalidPepper, RateLimited)
async def lookup(request: web.Request, query: HashedAddresses) -> LookupResult:
    """Find the Matrix IDs behind hashed addresses.

    https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2lookup
    """
    mappings = await request.app[SERVICES].lookup.lookup(
        asker=Asker(request[ACCOUNT].user_id, partial(network_of, request)),
        algorithm=query.algorithm,
        pepper=query.pepper,
        queries=query.addresses,
    )
    request.app[METRICS].count_lookup(asked=len(query.addresses), found=len(mappings))
    return {"mappings": cast("Mapping[str, str]", orjson.Fragment(mappings.to_json()))}
