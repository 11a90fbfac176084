"""The deprecated v1 API: what always answers, and what the operator may switch on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.harness import SECRET, Harness, Reply, User, running

V1 = "/_matrix/identity/api/v1"
EMAIL = "alice@example.com"
EVERYTHING = {
    "GENERAL__ENABLE_V1_ACCESS": "true",
    "GENERAL__ENABLE_V1_ASSOCIATIONS": "true",
    "LOOKUP__ENABLE_V1": "true",
}


@pytest.fixture
async def open_server(tmp_path: Path) -> AsyncIterator[Harness]:
    async with running(tmp_path, settings=EVERYTHING) as harness:
        yield harness


async def request_token(server: Harness, **changes: Any) -> Reply:
    body = {"client_secret": SECRET, "email": EMAIL, "send_attempt": 1, **changes}
    return await server.post(f"{V1}/validate/email/requestToken", body)


async def invited(server: Harness, user: User) -> dict[str, str]:
    """An invite; returns what its mail's signing link carries."""
    body = {"medium": "email", "address": "carol@example.com", "room_id": "!r", "sender": user.user_id}
    assert (await server.post("store-invite", body, as_=user)).status == 200
    fragment = urlsplit(server.mail.sent[-1].variables["invite_url"]).fragment
    sign_url = parse_qs(fragment.partition("?")[2])["signurl"][0]
    return {name: values[0] for name, values in parse_qs(urlsplit(sign_url).query).items()}


@pytest.mark.parametrize(
    "path", ["validate/email/requestToken", "3pid/bind", "3pid/unbind", "store-invite", "bulk_lookup"]
)
async def test_off_means_not_there(server: Harness, path: str) -> None:
    reply = await server.post(f"{V1}/{path}", {})
    assert (reply.status, reply.errcode) == (404, "M_UNRECOGNIZED")
    assert (await server.get(f"{V1}/lookup?medium=email&address={EMAIL}")).status == 404


async def test_what_others_point_at_always_answers(server: Harness, alice: User) -> None:
    assert (await server.get(V1)).json == {}
    key = (await server.get(f"{V1}/pubkey/ed25519:0")).json["public_key"]
    assert (await server.get(f"{V1}/pubkey/isvalid", params={"public_key": key})).json == {"valid": True}
    assert (await server.get(f"{V1}/pubkey/ephemeral/isvalid", params={"public_key": key})).json == {"valid": False}
    sid = (await server.request_token(alice, EMAIL)).json["sid"]
    query = f"token={server.mail.last_token}&client_secret={SECRET}&sid={sid}"
    assert (await server.get(f"{V1}/validate/email/submitToken?{query}")).status == 200
    assert (await server.bind(alice, sid)).status == 200


@pytest.mark.parametrize("form", ["query", "query and null", "query and empty json", "json", "form"])
async def test_signing_as_clients_do(server: Harness, alice: User, form: str) -> None:
    fields = {**await invited(server, alice), "mxid": "@carol:example.org"}
    url = f"{V1}/sign-ed25519"
    if form == "query":
        reply = await server.post(url, params=fields)
    elif form == "query and null":
        reply = await server.request("POST", url, params=fields, data=b"null")
    elif form == "query and empty json":
        json = {"Content-Type": "application/json"}
        reply = await server.request("POST", url, params=fields, data=b"", headers=json)
    elif form == "json":
        reply = await server.post(url, fields)
    else:
        reply = await server.post(url, data=fields)
    assert reply.status == 200
    assert (reply.json["mxid"], reply.json["sender"]) == ("@carol:example.org", alice.user_id)
    assert list(reply.json["signatures"]) == ["id.example.org"]


async def test_whole_story_without_accounts(open_server: Harness) -> None:
    server = open_server
    sid = (await request_token(server)).json["sid"]
    assert server.mail.sent[-1].variables["user_id"] == ""
    proof = {"sid": sid, "client_secret": SECRET}
    early = await server.get(f"{V1}/3pid/getValidated3pid", params=proof)
    assert (early.status, early.errcode) == (400, "M_SESSION_NOT_VALIDATED")
    submitted = await server.post(f"{V1}/validate/email/submitToken", data={**proof, "token": server.mail.last_token})
    assert submitted.json == {"success": True}
    validated = await server.get(f"{V1}/3pid/getValidated3pid", params=proof)
    assert validated.json["address"] == EMAIL
    bound = await server.post(f"{V1}/3pid/bind", {**proof, "mxid": "@anyone:example.org"})
    assert bound.json["mxid"] == "@anyone:example.org"

    found = await server.get(f"{V1}/lookup", params={"medium": "email", "address": "Alice@Example.com"})
    assert {**found.json, "signatures": None} == {**bound.json, "signatures": None}
    threepids = [["email", "ALICE@example.com"], ["email", "nobody@example.com"], ["msisdn", "1"], ["fax", "1"]]
    bulk = await server.post(f"{V1}/bulk_lookup", {"threepids": threepids})
    assert bulk.json == {"threepids": [["email", EMAIL, "@anyone:example.org"]]}
    body = {**proof, "mxid": "@anyone:example.org", "threepid": {"medium": "email", "address": EMAIL}}
    assert (await server.post(f"{V1}/3pid/unbind", body)).json == {}
    assert (await server.get(f"{V1}/lookup", params={"medium": "email", "address": EMAIL})).json == {}


async def test_session_of_an_account_is_not_for_v1(open_server: Harness) -> None:
    alice = await open_server.register()
    sid = await open_server.validated(alice, EMAIL)
    stolen = {"sid": sid, "client_secret": SECRET, "mxid": "@thief:example.org"}
    reply = await open_server.post(f"{V1}/3pid/bind", stolen)
    assert (reply.status, reply.errcode) == (404, "M_NO_VALID_SESSION")


@pytest.mark.parametrize("missing", list(EVERYTHING))
async def test_each_switch_counts(tmp_path: Path, missing: str) -> None:
    settings = {name: value for name, value in EVERYTHING.items() if name != missing}
    async with running(tmp_path, settings=settings) as server:
        served = {
            "GENERAL__ENABLE_V1_ACCESS": (await server.post(f"{V1}/validate/email/requestToken", {})).status != 404,
            "GENERAL__ENABLE_V1_ASSOCIATIONS": (await server.post(f"{V1}/3pid/bind", {})).status != 404,
            "LOOKUP__ENABLE_V1": (await server.post(f"{V1}/bulk_lookup", {})).status != 404,
        }
    everything_off = missing == "GENERAL__ENABLE_V1_ACCESS"
    assert served == {name: not everything_off and name != missing for name in EVERYTHING}


async def test_strangers_share_the_allowance_of_their_network(open_server: Harness) -> None:
    for number in range(5):
        assert (await request_token(open_server, email=f"a{number}@example.com")).status == 200
    reply = await request_token(open_server, email="a5@example.com")
    assert (reply.status, reply.errcode) == (429, "M_LIMIT_EXCEEDED")


@pytest.mark.parametrize(
    ("threepids", "status"), [(5, 400), ([5], 400), ([["email"]], 400), ([["email", 5]], 400), ([], 200)]
)
async def test_odd_bulk_lookups(open_server: Harness, threepids: Any, status: int) -> None:
    assert (await open_server.post(f"{V1}/bulk_lookup", {"threepids": threepids})).status == status


async def test_wrong_forms(open_server: Harness) -> None:
    url = f"{V1}/validate/email/requestToken"
    for options in (
        {"data": b"\xff\xfe"},
        {"data": b"{broken"},
        {"data": b"[]", "headers": {"Content-Type": "application/json"}},
        {},
    ):
        reply = await open_server.request("POST", url, **options)
        assert reply.status == 400
        assert reply.errcode is not None


async def test_network_is_charged_for_every_address_it_asks_for(tmp_path: Path) -> None:
    async with running(tmp_path, settings={**EVERYTHING, "LOOKUP__BUDGET_NETWORK_PER_DAY": "5"}) as server:
        threepids = [["email", f"n{number}@example.com"] for number in range(2)]
        for _ in range(2):
            assert (await server.post(f"{V1}/bulk_lookup", {"threepids": threepids})).status == 200
        refused = await server.post(f"{V1}/bulk_lookup", {"threepids": threepids})
        assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
        one = {"medium": "email", "address": EMAIL}
        assert (await server.get(f"{V1}/lookup", params=one)).status == 200
        assert (await server.get(f"{V1}/lookup", params=one)).status == 429
        server.clock.advance(days=1)
        assert (await server.post(f"{V1}/bulk_lookup", {"threepids": threepids})).status == 200


async def test_what_cannot_be_an_address_costs_as_much(tmp_path: Path) -> None:
    """It takes the longest to find out, and would otherwise be free."""
    async with running(tmp_path, settings={**EVERYTHING, "LOOKUP__BUDGET_NETWORK_PER_DAY": "5"}) as server:
        threepids = [["email", "no address"]] * 5
        assert (await server.post(f"{V1}/bulk_lookup", {"threepids": threepids})).json == {"threepids": []}
        assert (await server.post(f"{V1}/bulk_lookup", {"threepids": threepids})).status == 429
