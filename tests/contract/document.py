"""The specification document, where it is at hand, and how an answer is held against it.

It is not part of this repository: CI lays it beside the checkout, and elsewhere these tests are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import jsonschema_rs

PATH: Final = Path(__file__).parents[3] / "shared" / "spec" / "identity-service.openapi.json"
IS_HERE: Final = PATH.is_file()
WHY_SKIPPED: Final = f"the specification document is not at {Path('..') / PATH.relative_to(PATH.parents[2])}"

CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Origin, X-Requested-With, Content-Type, Accept, Authorization",
}

PAGES: Final = frozenset(f"GET /_matrix/identity/v2/validate/{medium}/submitToken" for medium in ("email", "msisdn"))
"""Operations that answer people."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, however it was fetched."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@cache
def document() -> dict[str, Any]:
    """The document."""
    loaded: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return loaded


def operations() -> list[str]:
    """Every operation, as `METHOD /path`; none where the document is not at hand."""
    if not IS_HERE:
        return []
    return [f"{method.upper()} {path}" for path, methods in document()["paths"].items() for method in methods]


def assert_keeps_to(operation: str, answer: Answer) -> None:
    """The answer is one that the document foresees, or an error in the standard form; and browsers may read it."""
    assert {name: answer.headers.get(name) for name in CORS} == CORS
    content_type = answer.headers.get("Content-Type", "")
    if operation in PAGES:
        assert content_type.startswith("text/html") or answer.status in {HTTPStatus.FOUND, HTTPStatus.SEE_OTHER}
        return
    assert content_type.startswith("application/json"), content_type
    if answer.status >= HTTPStatus.BAD_REQUEST:
        assert answer.json["errcode"].startswith("M_")
        assert answer.json["error"]
    schema = _schema(operation, answer.status)
    if schema is not None:
        jsonschema_rs.Draft202012Validator(schema).validate(answer.json)
    else:
        assert answer.status >= HTTPStatus.BAD_REQUEST, f"{answer.status} is foreseen nowhere"


def _schema(operation: str, status: int) -> dict[str, Any] | None:
    method, _, path = operation.partition(" ")
    responses = document()["paths"][path][method.lower()]["responses"]
    response = responses.get(str(status), {})
    schema: dict[str, Any] | None = response.get("content", {}).get("application/json", {}).get("schema")
    return schema
