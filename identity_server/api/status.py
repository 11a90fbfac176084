"""API version check, status check, and the two questions of operators' tools."""

from __future__ import annotations

from aiohttp import web

from identity_server.api.app_keys import SERVICES
from identity_server.api.errors import json_response

_VERSIONS = (
    "r0.1.0",
    "r0.2.0",
    "r0.2.1",
    "r0.3.0",
    *(f"v1.{minor}" for minor in range(1, 21)),
)


async def versions(_request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityversions."""
    return json_response({"versions": _VERSIONS})


async def ping(_request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2."""
    return json_response({})


async def health(_request: web.Request) -> web.Response:
    """The process is alive."""
    return json_response({"status": "alive"})


async def ready(request: web.Request) -> web.Response:
    """The process can serve: database and index answer."""
    await request.app[SERVICES].health.require_ready()
    return json_response({"status": "ready"})
