"""Terms of service (https://spec.matrix.org/v1.20/identity-service-api/#terms-of-service), and their pages."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from identity_server.api.app_keys import PAGES, SERVICES
from identity_server.api.errors import json_response
from identity_server.api.pages import page_response, reader_of
from identity_server.api.requests import Text, WireModel, read_json
from identity_server.api.route import ACCOUNT

_Url = Annotated[str, Text(2048)]


class _Acceptance(WireModel):
    user_accepts: Annotated[list[_Url], Field(max_length=200)]


async def get_terms(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2terms."""
    policies: dict[str, Any] = {}
    for policy in request.app[SERVICES].terms.in_force.policies:
        translations = {
            language: {"name": translation.name, "url": translation.url}
            for language, translation in policy.translations.items()
        }
        policies[policy.id] = {"version": policy.version, **translations}
    return json_response({"policies": policies})


async def accept_terms(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2terms."""
    acceptance = await read_json(request, _Acceptance)
    await request.app[SERVICES].terms.accept(request[ACCOUNT], acceptance.user_accepts)
    return json_response({})


async def show_policy(request: web.Request) -> web.Response:
    """The page of one policy, in one version and language."""
    policies = request.app[SERVICES].terms.policies
    place = request.match_info
    document = policies.find(place["policy"], place["version"], place["language"])
    if document is None:
        raise web.HTTPNotFound
    return page_response(
        request.app[PAGES].policy(reader_of(request), document=document, translations=policies.translations(document))
    )
