"""The API's document is what the route tables say, and the tests hold every answer against it."""

from __future__ import annotations

import pytest
from aiohttp import web

from identity_server.api import openapi
from identity_server.api.document import WRITTEN
from identity_server.api.route import Answers
from identity_server.api.routes import INTERNAL_ROUTES, ROUTES, V1_ACCESS, V1_ALWAYS, V1_ASSOCIATIONS, V1_LOOKUP
from tests.support.api_document import Undocumented, assert_documented, document

EVERY_ROW = (*ROUTES, *V1_ALWAYS, *V1_ACCESS, *V1_ASSOCIATIONS, *V1_LOOKUP, *INTERNAL_ROUTES)
V2 = "/_matrix/identity/v2"


def test_written_is_what_the_code_says() -> None:
    assert openapi.text() == WRITTEN.read_text(), (
        "python -m identity_server.api.openapi > identity_server/api/openapi.json"
    )


def test_every_row_is_in_it_once() -> None:
    written = [(method, path) for path, methods in document()["paths"].items() for method in methods]
    assert sorted(written) == sorted((route.method.lower(), route.path) for route in EVERY_ROW)


def test_names_of_operations_and_texts() -> None:
    operations = [each for methods in document()["paths"].values() for each in methods.values()]
    names = [each["operationId"] for each in operations]
    assert len(set(names)) == len(names)
    assert all(each["summary"] and each["responses"]["200"]["description"] for each in operations)


def test_pages_are_responses_and_all_else_is_not() -> None:
    for route in EVERY_ROW:
        assert (route.gives is web.Response) == (route.answers is Answers.PAGE), route.path


@pytest.mark.parametrize(
    ("method", "path", "status", "content_type", "answer"),
    [
        pytest.param("GET", f"{V2}/account", 200, "application/json", {}, id="a field is missing"),
        pytest.param(
            "GET", f"{V2}/account", 200, "application/json", {"user_id": "@a:b", "more": 1}, id="one too many"
        ),
        pytest.param("GET", f"{V2}/account", 200, "application/json", {"user_id": 1}, id="another type"),
        pytest.param("GET", f"{V2}/account", 200, "text/html", None, id="another kind"),
        pytest.param("GET", f"{V2}/account", 404, "application/json", {"errcode": "M_X", "error": "x"}, id="status"),
        pytest.param("GET", f"{V2}/account", 401, "application/json", {"errcode": "M_X", "error": "x"}, id="errcode"),
    ],
)
def test_what_is_not_foreseen_is_found(
    method: str, path: str, status: int, content_type: str, answer: object
) -> None:
    with pytest.raises(Undocumented):
        assert_documented(method, path, status=status, content_type=content_type, answer=answer)
