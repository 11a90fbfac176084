"""The API's own document, and how every answer that a test gets is held against it."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import jsonschema_rs

from identity_server.api.document import WRITTEN
from identity_server.api.errors import UNREADABLE

_JSON: Final = "application/json"


class Undocumented(AssertionError):
    """An answer that the document doesn't foresee."""


@dataclass(frozen=True, slots=True)
class _Operation:
    """One operation, and whether there may be a server that doesn't have it."""

    methods: frozenset[str]
    path: re.Pattern[str]
    may_be_off: bool
    responses: dict[str, dict[str, Any]]
    validators: dict[str, jsonschema_rs.Draft202012Validator]


@cache
def document() -> dict[str, Any]:
    """The document as it was written."""
    loaded: dict[str, Any] = json.loads(WRITTEN.read_text())
    return loaded


def assert_documented(method: str, path: str, *, status: int, content_type: str, answer: Any) -> None:
    """Status, kind, shape and errcode are among those that the document has for this operation.

    Raises:
        Undocumented: they aren't.
    """
    operation = _find(method, path)
    errcode, error = (answer.get("errcode"), answer.get("error")) if isinstance(answer, dict) else (None, None)
    if operation is None or error == UNREADABLE or (operation.may_be_off and errcode == "M_UNRECOGNIZED"):
        # No operation's answer: there is none, the request didn't get so far, or it is switched off.
        return
    where = f"{method} {operation.path.pattern}: {status}"
    response = operation.responses.get(str(status))
    if response is None:
        raise Undocumented(f"{where} is foreseen nowhere")
    kinds = response.get("content", {})
    if kinds and content_type not in kinds:
        raise Undocumented(f"{where} is {content_type}, and not {' or '.join(kinds)}")
    if errcode is not None and errcode not in response.get("x-errcodes", ()):
        raise Undocumented(f"{where} {errcode} is foreseen nowhere")
    validator = operation.validators.get(str(status))
    if validator is None or answer is None or content_type != _JSON:
        return
    problems = [f"{each.instance_path}: {each.message}" for each in validator.iter_errors(answer)]
    if problems:
        raise Undocumented(f"{where} has another shape: {problems}")


def _find(method: str, path: str) -> _Operation | None:
    return next((each for each in _operations() if method in each.methods and each.path.fullmatch(path)), None)


@cache
def _operations() -> list[_Operation]:
    """Every operation; paths without a parameter first, as the more exact ones."""
    paths = sorted(document()["paths"].items(), key=lambda each: "{" in each[0])
    return [_operation(method.upper(), path, row) for path, rows in paths for method, row in rows.items()]


def _operation(method: str, path: str, row: dict[str, Any]) -> _Operation:
    responses = {status: _resolved(response) for status, response in row["responses"].items()}
    return _Operation(
        methods=frozenset({method, "HEAD"} if "x-head" in row else {method}),
        path=re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))),
        may_be_off="x-enabled-by" in row or "x-listener" in row,
        responses=responses,
        validators={
            status: _validator(json.dumps(response["content"][_JSON]["schema"]))
            for status, response in responses.items()
            if _JSON in response.get("content", {})
        },
    )


def _resolved(response: dict[str, Any]) -> dict[str, Any]:
    name = response.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = document()["components"]["responses"][name] if name else response
    return found


@cache
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({**json.loads(schema), "components": {"schemas": _strict_schemas()}})


@cache
def _strict_schemas() -> dict[str, Any]:
    """The document's schemas, but without leave for fields that they don't name: no answer of ours has others."""
    schemas: dict[str, Any] = copy.deepcopy(document()["components"]["schemas"])
    for schema in schemas.values():
        if schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
    return schemas
