"""Where the API's own document says otherwise than the specification's, operation by operation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from tests.contract.document import document as specification
from tests.support.api_document import document as own_document

_V2: Final = "/_matrix/identity/v2"
_JSON: Final = "application/json"
_EVERYWHERE: Final = frozenset({"500", "503"})
"""What any operation may be answered."""
_WITH_PARAMETERS: Final = frozenset({"400"})
_WITH_BODY: Final = frozenset({"408", "413"})
_WITH_TOKEN: Final = frozenset({"401", "403"})

_BEYOND: Final = re.compile(r"/_matrix/identity/(?!(v2|versions)\b)|/(health|ready)$")
"""Paths that have nothing to do with the specification's."""


def differences() -> list[tuple[str, str, str]]:
    """Operation, what this server's document has, what the specification's has."""
    theirs, ours = _operations(specification()), _operations(own_document())
    found = [(name, "none", "an operation") for name in theirs.keys() - ours.keys()]
    found += [(name, "an operation", "none") for name in ours.keys() - theirs.keys() if not _BEYOND.search(name)]
    for name in theirs.keys() & ours.keys():
        found += [(name, *difference) for difference in _between(ours[name], theirs[name])]
    return sorted((name.replace(f" {_V2}/", " "), here, there) for name, here, there in found)


def _operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By `METHOD path`; the names of path parameters are on no wire."""
    return {
        f"{method.upper()} {re.sub(r'{[^}]+}', '{}', path)}": _resolved(operation, document)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def _resolved(value: Any, document: dict[str, Any]) -> Any:
    """The same without references."""
    if isinstance(value, list):
        return [_resolved(each, document) for each in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        target: Any = document
        for step in value["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return _resolved(target, document)
    return {name: _resolved(each, document) for name, each in value.items()}


def _between(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _fields("query", _query(ours), _query(theirs))
    yield from _fields("body", _body(ours.get("requestBody")), _body(theirs.get("requestBody")))
    yield from _fields("answer", _body(ours["responses"]["200"]), _body(theirs["responses"]["200"]))
    tokens = [bool({"accessToken", "accessTokenBearer"} & _schemes(each)) for each in (ours, theirs)]
    if tokens[0] != tokens[1]:
        yield _worded("access token", *tokens)
    general = _EVERYWHERE
    general |= _WITH_BODY if "requestBody" in ours else frozenset()
    general |= _WITH_TOKEN if tokens[0] else frozenset()
    general |= _WITH_PARAMETERS if ours["parameters"] or "requestBody" in ours else frozenset()
    statuses = _statuses(ours, theirs), _statuses(theirs, ours)
    more, fewer = statuses[0] - statuses[1] - general, statuses[1] - statuses[0]
    if more or fewer:
        yield f"statuses {', '.join(sorted(more)) or 'as there'}", ", ".join(sorted(fewer)) or "without"


def _worded(what: str, here: object, there: object) -> tuple[str, str]:
    return (what if here else f"no {what}"), (what if there else f"no {what}")


def _fields(place: str, ours: dict[str, str], theirs: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name in sorted(ours.keys() | theirs.keys()):
        here, there = ours.get(name, "unknown"), theirs.get(name, "unknown")
        if here != there and not (name not in ours and _takes_any(ours, name) and there.startswith("optional")):
            yield f"{place} `{name}` {here}", there


def _takes_any(fields: dict[str, str], name: str) -> bool:
    """Whether fields without a name of their own are taken where this one would be."""
    return f"{name.rpartition('.')[0]}.*".lstrip(".") in fields


def _query(operation: dict[str, Any]) -> dict[str, str]:
    parameters = [each for each in operation.get("parameters", []) if each["in"] == "query"]
    return {each["name"]: _described(each["schema"], required=each.get("required", False)) for each in parameters}


def _body(container: dict[str, Any] | None) -> dict[str, str]:
    """Every field, those of objects inside (`a.b`), of lists (`a[].b`) and of any name (`*`)."""
    schema = (container or {}).get("content", {}).get(_JSON, {}).get("schema", {})
    return dict(_walk(schema, ""))


def _walk(schema: dict[str, Any], before: str) -> Iterator[tuple[str, str]]:
    for part in (schema, *schema.get("allOf", []), *schema.get("anyOf", [])):
        required = part.get("required", [])
        for name, field in part.get("properties", {}).items():
            yield before + name, _described(field, required=name in required)
            yield from _walk(field, f"{before}{name}.")
        if "items" in part:
            yield from _walk(part["items"], f"{before.rstrip('.')}[].")
        if values := part.get("additionalProperties"):
            any_value: dict[str, Any] = {} if values is True else values
            yield f"{before}*", _described(any_value, required=False)
            yield from _walk(any_value, f"{before}*.")


def _described(schema: dict[str, Any], *, required: bool) -> str:
    kinds = [part["type"] for part in (schema, *schema.get("anyOf", [])) if "type" in part]
    return f"{'required' if required else 'optional'}, {' or '.join(kinds) or 'anything'}"


def _schemes(operation: dict[str, Any]) -> set[str]:
    return {name for each in operation.get("security") or [] for name in each}


def _statuses(operation: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """A range (`4XX`) is there if the other side has anything of it."""
    known = set(operation["responses"])
    covered = {status for status in other["responses"] for each in known if "XX" in each and each[0] == status[0]}
    filled = {each for each in known if "XX" in each and any(each[0] == status[0] for status in other["responses"])}
    return (known - filled) | covered
