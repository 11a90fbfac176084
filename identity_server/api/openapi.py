"""Writes the route tables down as an OpenAPI document: `python -m identity_server.api.openapi`.

The rule: nothing about an operation is said here; all of it comes from its row, from the signature and the docstring of
its handler, and from the table of errors. The server itself never loads this: it serves what was written
(api/document.py).
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from identity_server import __version__
from identity_server.api.errors import INTERNAL, Error, row_of
from identity_server.api.headers import CORS_HEADERS
from identity_server.api.route import Access, Answers, Reads, Route
from identity_server.api.routes import INTERNAL_ROUTES, ROUTES, V1_ACCESS, V1_ALWAYS, V1_ASSOCIATIONS, V1_LOOKUP
from identity_server.domain import errors
from identity_server.rendering.templates import PRIVACY_PATH

_Json = dict[str, Any]
_SCHEMA: Final = "#/components/schemas/{model}"
_URL: Final = re.compile(r"\(?(https://\S+?)\)?[.:]?$", re.MULTILINE)
_PATH_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"

_DESCRIPTION: Final = """\
Every answer, errors included, has the headers of `x-cors`, and OPTIONS is answered on every path. HEAD is answered where
`x-head` says so. `x-max-body-bytes` is the largest body that is read; it has to arrive within 15 seconds. What is
`deprecated` belongs to v1 of the API; `x-enabled-by` names the switches of the configuration that it takes. What is
`x-unstable` isn't in the specification. Where `x-listener` is `internal`, the operator's own systems are answered, on a
listener of their own. What is no HTTP that can be read is answered `M_UNRECOGNIZED` before any operation is looked for.
"""

_SECURITY_SCHEMES: Final[_Json] = {
    "accessToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token from POST account/register.",
    },
    "accessTokenInQuery": {
        "type": "apiKey",
        "in": "query",
        "name": "access_token",
        "description": "The same, for homeservers that still send it so; an operator may have switched it off.",
    },
    "homeserverSignature": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`X-Matrix`, with the signature of a homeserver as in the server-server API.",
    },
    "internalSecret": {
        "type": "http",
        "scheme": "bearer",
        "description": "The operator's own secret, where one is set.",
    },
}

_SECURITY: Final[dict[Access, list[_Json]]] = {
    Access.OPEN: [],
    Access.HOMESERVER: [{}, {"homeserverSignature": []}],
    Access.TOKEN: [{"accessToken": []}],
    Access.ACCOUNT: [{"accessToken": []}],
    Access.ACCOUNT_AND_TERMS: [{"accessToken": []}],
    Access.INTERNAL: [{}, {"internalSecret": []}],
}

_GUARD_ERRORS: Final[dict[Access, tuple[type[errors.IdentityServerError], ...]]] = {
    Access.OPEN: (),
    Access.HOMESERVER: (),
    Access.TOKEN: (errors.Unauthenticated,),
    Access.ACCOUNT: (errors.Unauthenticated, errors.HomeserverDenied),
    Access.ACCOUNT_AND_TERMS: (errors.Unauthenticated, errors.HomeserverDenied, errors.TermsNotSigned),
    Access.INTERNAL: (errors.Unauthenticated, errors.Forbidden),
}
_QUERY_ERRORS: Final = (errors.MissingParameters, errors.InvalidParameter)
_BODY_ERRORS: Final = (
    errors.NotJson,
    errors.BadJson,
    *_QUERY_ERRORS,
    errors.BodyIncomplete,
    errors.BodyTooSlow,
    errors.BodyTooLarge,
)


@dataclass(frozen=True, slots=True)
class _Table:
    """One of the route tables.

    Attributes:
        name: goes before the names of its operations, and is their tag.
        marks: what is said of each of its operations.
    """

    routes: tuple[Route, ...]
    name: str | None = None
    marks: tuple[tuple[str, Any], ...] = ()


def _v1(routes: tuple[Route, ...], *switches: str) -> _Table:
    marks: tuple[tuple[str, Any], ...] = (("deprecated", True),)
    return _Table(routes, "v1", (*marks, ("x-enabled-by", list(switches))) if switches else marks)


_ACCESS_SWITCH: Final = "general.enable_v1_access"
_TABLES: Final = (
    _Table(ROUTES),
    _v1(V1_ALWAYS),
    _v1(V1_ACCESS, _ACCESS_SWITCH),
    _v1(V1_ASSOCIATIONS, _ACCESS_SWITCH, "general.enable_v1_associations"),
    _v1(V1_LOOKUP, _ACCESS_SWITCH, "lookup.enable_v1"),
    _Table(INTERNAL_ROUTES, "internal", (("x-listener", "internal"),)),
)


def document() -> _Json:
    """The whole document: everything that this server can be configured to answer."""
    schemas = _Schemas()
    paths: _Json = {}
    shared: _Json = {}
    for table in _TABLES:
        for route in table.routes:
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, table, schemas, shared)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Matrix identity server",
            "summary": "The Identity Service API, and what this server adds to it.",
            "description": _DESCRIPTION,
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [
            {"url": "https://{server_name}", "variables": {"server_name": {"default": "id.example.org"}}},
        ],
        "tags": list(_tags()),
        "paths": paths,
        "components": {
            "schemas": schemas.definitions,
            "responses": dict(sorted(shared.items())),
            "securitySchemes": _SECURITY_SCHEMES,
        },
        "x-cors": CORS_HEADERS,
    }


class _Schemas:
    """The schema of every model and answer, under the name of its class."""

    def __init__(self) -> None:
        routes = [route for table in _TABLES for route in table.routes if route.answers is Answers.JSON]
        taken = {route.takes for table in _TABLES for route in table.routes} - {None}
        given = {_key(route.gives): route.gives for route in routes}
        inputs: list[tuple[str, Any, TypeAdapter[Any]]] = [
            *((f"takes {model.__name__}", "validation", TypeAdapter(model)) for model in taken if model is not None),
            *((key, "serialization", TypeAdapter(kind)) for key, kind in given.items()),
            (_key(Error), "serialization", TypeAdapter(Error)),
        ]
        found, definitions = TypeAdapter.json_schemas(inputs, ref_template=_SCHEMA, schema_generator=_Generator)
        self._found = {key: schema for (key, _), schema in found.items()}
        self.definitions = dict(sorted(definitions.get("$defs", {}).items()))

    def taken(self, model: type[BaseModel]) -> _Json:
        """What a request carries."""
        schema: _Json = self._found[f"takes {model.__name__}"]
        return schema

    def given(self, kind: Any) -> _Json:
        """What an answer carries."""
        schema: _Json = self._found[_key(kind)]
        return schema

    def fields(self, model: type[BaseModel]) -> Iterator[tuple[str, _Json, bool]]:
        """Name, schema and whether it must be there, of every field of what a query carries."""
        schema = self.definitions[model.__name__]
        for name, field in schema["properties"].items():
            yield name, field, name in schema.get("required", ())


class _Generator(GenerateJsonSchema):
    """Leaves out titles that only repeat a name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema
        return False


def _key(kind: Any) -> str:
    return f"gives {getattr(kind, '__name__', kind)}"


def _tags() -> Iterator[_Json]:
    seen: set[str] = set()
    for table in _TABLES:
        for route in table.routes:
            module = inspect.getmodule(route.handler)
            name = _tag(route, table)
            if name in seen:
                continue
            seen.add(name)
            if name == "v1":
                yield {"name": name, "description": "Deprecated: it knows neither accounts nor consent."}
            else:
                yield {"name": name, **_described(inspect.getdoc(module))}


def _tag(route: Route, table: _Table) -> str:
    return table.name or route.handler.__module__.rpartition(".")[2]


def _described(text: str | None) -> _Json:
    """The first paragraph of a docstring, and the page that it names."""
    first, _, rest = (text or "").partition("\n\n")
    url = _URL.search(first) or _URL.search(rest)
    plain = " ".join(re.sub(r" ?\(https://\S+?\)", "", first).split())
    return {"description": plain, **({"externalDocs": {"url": url[1]}} if url else {})}


def _operation(route: Route, table: _Table, schemas: _Schemas, shared: _Json) -> _Json:
    text = _described(inspect.getdoc(route.handler))
    operation: _Json = {
        "operationId": _name(route, table),
        "tags": [_tag(route, table)],
        "summary": text.pop("description").rstrip("."),
        **text,
        "security": _security(route),
        "parameters": _parameters(route, schemas),
        "responses": _responses(route, schemas, shared),
        "x-access": route.access.name.lower(),
        **dict(table.marks),
    }
    if route.takes is not None and route.method != "GET":
        operation["requestBody"] = _body(route, schemas.taken(route.takes))
        operation["x-max-body-bytes"] = route.max_body
    if "HEAD" in route.methods:
        operation["x-head"] = True
    if "/unstable/" in route.path:
        operation["x-unstable"] = True
    return operation


def _name(route: Route, table: _Table) -> str:
    before = table.name or ("privacy" if route.path.startswith(PRIVACY_PATH) else None)
    return f"{before}_{route.handler.__name__}" if before else route.handler.__name__


def _security(route: Route) -> list[_Json]:
    demanded = _SECURITY[route.access]
    return [*demanded, {"accessTokenInQuery": []}] if demanded and route.method == "GET" else demanded


def _parameters(route: Route, schemas: _Schemas) -> list[_Json]:
    in_path = [
        {"in": "path", "name": name, "required": True, "schema": {"type": "string"}}
        for name in _PATH_PARAMETER.findall(route.path)
    ]
    if route.method != "GET" or route.takes is None:
        return in_path
    in_query = [
        {"in": "query", "name": name, "required": required, "schema": schema}
        for name, schema, required in schemas.fields(route.takes)
    ]
    return [*in_path, *in_query]


def _body(route: Route, schema: _Json) -> _Json:
    if route.answers is Answers.PAGE:
        kinds: tuple[str, ...] = (_FORM,)
    else:
        kinds = (_JSON, _FORM) if route.reads is Reads.ANYTHING else (_JSON,)
    body: _Json = {"content": {kind: {"schema": schema} for kind in kinds}}
    # On v1 all of it may be in the query instead.
    return {"required": True, **body} if route.reads is Reads.JSON else body


def _responses(route: Route, schemas: _Schemas, shared: _Json) -> _Json:
    outcomes = route.outcomes
    if route.answers is Answers.PAGE:
        responses: _Json = {"200": {"description": "A page.", "content": _pages(outcomes.media_types)}}
    else:
        responses = {
            "200": {
                "description": _described(getattr(route.gives, "__doc__", None))["description"],
                "content": {_JSON: {"schema": schemas.given(route.gives)}},
            }
        }
    if outcomes.redirect is not None:
        responses[str(int(outcomes.redirect))] = {"description": "On to where the request for the message said."}
    by_status: dict[int, list[type[errors.IdentityServerError]]] = {}
    for kind in _errors(route):
        by_status.setdefault(row_of(kind)[0], []).append(kind)
    for status, kinds in sorted(by_status.items()):
        responses[str(status)] = _failure(route, kinds, schemas, shared)
    return responses


def _errors(route: Route) -> list[type[errors.IdentityServerError]]:
    """Everything that the guard and the handler may end in; a fault of ours stands as the base of all."""
    found = [*_GUARD_ERRORS[route.access]]
    if route.takes is not None:
        found += _QUERY_ERRORS if route.method == "GET" else _BODY_ERRORS
    found += [*route.outcomes.errors, errors.Unavailable, errors.IdentityServerError]
    return list(dict.fromkeys(found))


def _failure(route: Route, kinds: list[type[errors.IdentityServerError]], schemas: _Schemas, shared: _Json) -> _Json:
    if route.answers is Answers.PAGE:
        return {"description": "A page that says what is wrong.", "content": _pages(("text/html",))}
    if len(kinds) > 1:
        return _failure_response(kinds, schemas)
    name = "InternalError" if row_of(kinds[0]) == INTERNAL else kinds[0].__name__
    shared[name] = _failure_response(kinds, schemas)
    return {"$ref": f"#/components/responses/{name}"}


def _failure_response(kinds: list[type[errors.IdentityServerError]], schemas: _Schemas) -> _Json:
    meanings: dict[str, list[str]] = {}
    for kind in kinds:
        meanings.setdefault(row_of(kind)[1], []).append(_meaning(kind))
    response: _Json = {
        "description": "\n\n".join(f"`{errcode}`: {' '.join(each)}" for errcode, each in meanings.items()),
        "content": {_JSON: {"schema": schemas.given(Error)}},
        "x-errcodes": sorted(meanings),
    }
    if errors.RateLimited in kinds:
        response["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return response


def _meaning(kind: type[errors.IdentityServerError]) -> str:
    if row_of(kind) == INTERNAL:
        return "A fault of this server."
    return str(_described(inspect.getdoc(kind))["description"])


def _pages(media_types: tuple[str, ...]) -> _Json:
    return {kind: {"schema": {"type": "string"} if kind.startswith("text/") else {}} for kind in media_types}


def text() -> str:
    """The document as it is kept in api/openapi.json."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
