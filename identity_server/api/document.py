"""The description of this API for programs, as OpenAPI: GET /_matrix/identity/openapi.json.

What was written by api/openapi.py lies beside this file. Served is what this server answers as it is configured.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

import orjson
from aiohttp import web

from identity_server.api.app_keys import SETTINGS, V1Switches

DOCUMENT_PATH: Final = "/_matrix/identity/openapi.json"
WRITTEN: Final = Path(__file__).with_name("openapi.json")


async def show_document(request: web.Request) -> dict[str, Any]:
    """Give this document, for what the server answers as it is configured."""
    settings = request.app[SETTINGS]
    return _served(settings.v1, settings.public_base_url)


@lru_cache(maxsize=1)
def _served(versions: V1Switches, base_url: str) -> dict[str, Any]:
    """Read when somebody asks for the first time: most servers are never asked. It is large, and written once for all answers."""
    document: dict[str, Any] = orjson.loads(WRITTEN.read_bytes())
    enabled = _enabled(versions)
    paths = {
        path: kept
        for path, methods in document["paths"].items()
        if (kept := {method: row for method, row in methods.items() if _is_answered(row, enabled)})
    }
    # What is JSON already needs no more to be done to it.
    return cast("dict[str, Any]", orjson.dumps({**document, "servers": [{"url": base_url}], "paths": paths}))


def _is_answered(operation: dict[str, Any], enabled: frozenset[str]) -> bool:
    return "x-listener" not in operation and enabled.issuperset(operation.get("x-enabled-by", ()))


def _enabled(versions: V1Switches) -> frozenset[str]:
    switches = {
        "general.enable_v1_access": versions.access,
        "general.enable_v1_associations": versions.associations,
        "lookup.enable_v1": versions.lookup,
    }
    return frozenset(name for name, is_on in switches.items() if is_on)
