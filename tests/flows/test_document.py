"""The API's document, as a server gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.harness import Harness, running

DOCUMENT = "/_matrix/identity/openapi.json"


async def served(server: Harness) -> dict[str, Any]:
    reply = await server.get(DOCUMENT)
    assert reply.status == 200
    found: dict[str, Any] = reply.json
    return found


async def test_says_what_this_server_answers(server: Harness) -> None:
    document = await served(server)
    assert document["servers"] == [{"url": "https://id.example.org"}]
    assert "/_matrix/identity/v2/lookup" in document["paths"]
    # What mails and rooms point at; nothing that is switched off, and nothing of the internal listener.
    deprecated = {path for path, rows in document["paths"].items() for row in rows.values() if "deprecated" in row}
    assert deprecated == {
        "/_matrix/identity/api/v1",
        "/_matrix/identity/api/v1/pubkey/isvalid",
        "/_matrix/identity/api/v1/pubkey/ephemeral/isvalid",
        "/_matrix/identity/api/v1/pubkey/{key_id}",
        "/_matrix/identity/api/v1/sign-ed25519",
        "/_matrix/identity/api/v1/validate/email/submitToken",
    }
    assert not [path for path in document["paths"] if "/internal/" in path]


async def test_says_what_is_switched_on(tmp_path: Path) -> None:
    settings = {"GENERAL__ENABLE_V1_ACCESS": "true", "LOOKUP__ENABLE_V1": "true"}
    async with running(tmp_path, settings=settings) as server:
        document = await served(server)
        assert (await server.get("/_matrix/identity/api/v1/3pid/getValidated3pid")).status == 400
        assert "/_matrix/identity/api/v1/3pid/getValidated3pid" in document["paths"]
        assert "/_matrix/identity/api/v1/bulk_lookup" in document["paths"]
        assert "/_matrix/identity/api/v1/3pid/bind" not in document["paths"]
