"""Terms of service (https://spec.matrix.org/v1.20/identity-service-api/#terms-of-service), and their pages."""

from __future__ import annotations

from typing import Annotated, Any, cast

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from identity_server.api.app_keys import PAGES, SERVICES
from identity_server.api.pages import page_response, reader_of
from identity_server.api.route import ACCOUNT, outcomes
from identity_server.api.wire import Empty, Text, WireModel
from identity_server.domain.errors import InvalidParameter, UnknownEndpoint


class TermsAcceptance(WireModel):
    """Which documents a user has accepted."""

    user_accepts: Annotated[
        list[Annotated[str, Text(2048)]],
        Field(max_length=200, description="The URLs of the documents, as GET terms has them."),
    ]


class PolicyTranslation(TypedDict):
    """A policy in one language."""

    name: Annotated[str, Field(description="Its title.")]
    url: Annotated[str, Field(description="Where it can be read.")]


class Policy(TypedDict, extra_items=PolicyTranslation):  # type: ignore[call-arg] # mypy doesn't know PEP 728 yet
    """A document to be accepted; every further field is a language tag, and the document in that language."""

    version: str


class TermsInForce(TypedDict):
    """The documents in force."""

    policies: Annotated[dict[str, Policy], Field(description="Each by its name; none if there are no terms.")]


async def get_terms(request: web.Request) -> TermsInForce:
    """List the documents in force, each in all its languages.

    https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2terms
    """
    policies: dict[str, Any] = {}
    for policy in request.app[SERVICES].terms.in_force.policies:
        translations = {
            language: {"name": translation.name, "url": translation.url}
            for language, translation in policy.translations.items()
        }
        policies[policy.id] = {"version": policy.version, **translations}
    return {"policies": cast("dict[str, Policy]", policies)}


@outcomes(InvalidParameter)
async def accept_terms(request: web.Request, acceptance: TermsAcceptance) -> Empty:
    """Accept documents, each in the language that was read.

    https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2terms
    """
    await request.app[SERVICES].terms.accept(request[ACCOUNT], acceptance.user_accepts)
    return {}


@outcomes(UnknownEndpoint)
async def show_policy(request: web.Request) -> web.Response:
    """Show one policy, in one version and language."""
    policies = request.app[SERVICES].terms.policies
    place = request.match_info
    document = policies.find(place["policy"], place["version"], place["language"])
    if document is None:
        raise UnknownEndpoint
    return page_response(
        request.app[PAGES].policy(reader_of(request), document=document, translations=policies.translations(document))
    )
