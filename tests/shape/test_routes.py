"""Every route of the specification is in the table, and guarded as the specification says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from identity_server.api.route import Access, Route
from identity_server.api.routes import ROUTES

SPEC = Path(__file__).parents[3] / "shared/spec/identity-service.openapi.json"

# Where our guard differs from the security of the document, with the reason.
OTHERWISE = {
    # A link in a mail carries no access token, nor does one in a text message.
    ("GET", "/_matrix/identity/v2/validate/email/submitToken"): Access.OPEN,
    ("GET", "/_matrix/identity/v2/validate/msisdn/submitToken"): Access.OPEN,
    # Homeservers unbind without an account; a session or a signature proves.
    ("POST", "/_matrix/identity/v2/3pid/unbind"): Access.HOMESERVER,
}
WITHOUT_TERMS = {("POST", "/_matrix/identity/v2/terms"), ("POST", "/_matrix/identity/v2/account/logout")}


def operations() -> dict[tuple[str, str], bool]:
    """Method and path of every operation, and whether it needs an access token."""
    if not SPEC.exists():
        pytest.skip("the specification's document isn't here")
    paths = json.loads(SPEC.read_text())["paths"]
    return {
        (method.upper(), path.replace("{keyId}", "{key_id}")): bool(operation.get("security"))
        for path, methods in paths.items()
        for method, operation in methods.items()
        if method in {"get", "post", "put", "delete"}
    }


def table() -> dict[tuple[str, str], Route]:
    return {(route.method, route.path): route for route in ROUTES}


def test_every_operation_is_in_the_table() -> None:
    assert set(operations()) <= set(table())


def test_every_operation_is_guarded() -> None:
    for key, needs_token in operations().items():
        access = table()[key].access
        if key in OTHERWISE or not needs_token:
            assert access is OTHERWISE.get(key, Access.OPEN), key
        elif key in WITHOUT_TERMS:
            assert access in {Access.TOKEN, Access.ACCOUNT}, key
        else:
            assert access is Access.ACCOUNT_AND_TERMS, key


def test_no_row_stands_twice() -> None:
    assert len(table()) == len(ROUTES)
