"""API version check, status check, and the two questions of operators' tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from identity_server.api.app_keys import SERVICES
from identity_server.api.wire import Empty

_VERSIONS = (
    "r0.1.0",
    "r0.2.0",
    "r0.2.1",
    "r0.3.0",
    *(f"v1.{minor}" for minor in range(1, 21)),
)


class SupportedVersions(TypedDict):
    """Of the Identity Service API."""

    versions: Annotated[Sequence[str], Field(description="Every version that this server keeps to.")]


class Liveness(TypedDict):
    """The process answers."""

    status: Literal["alive"]


class Readiness(TypedDict):
    """The process can serve."""

    status: Literal["ready"]


async def versions(_request: web.Request) -> SupportedVersions:
    """List the versions of the specification that this server keeps to.

    https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityversions
    """
    return {"versions": _VERSIONS}


async def ping(_request: web.Request) -> Empty:
    """Say that there is an identity server here.

    https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2
    """
    return {}


async def health(_request: web.Request) -> Liveness:
    """Say that the process is alive."""
    return {"status": "alive"}


async def ready(request: web.Request) -> Readiness:
    """Say that the process can serve: database and index answer."""
    await request.app[SERVICES].health.require_ready()
    return {"status": "ready"}
