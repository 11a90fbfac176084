"""Query strings: missing, doubled, over-long and unreadable parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest
from yarl import URL

from tests.api.support import MARKER, V2, assert_has_cors, assert_refused, exchange, head, nothing_stored
from tests.support.harness import Harness, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOOD: Final[Mapping[str, dict[str, str]]] = {
    f"{V2}/3pid/getValidated3pid": {"sid": "unknown", "client_secret": "secret"},
    f"{V2}/pubkey/isvalid": {"public_key": "unknown"},
    f"{V2}/pubkey/ephemeral/isvalid": {"public_key": "unknown"},
}
PAGES: Final[Mapping[str, dict[str, str]]] = {
    f"{V2}/validate/email/submitToken": {"sid": "unknown", "client_secret": "secret", "token": "unknown"},
    "/_matrix/identity/confirm": {"token": "unknown"},
}
PARAMETERS = [(path, name) for path, query in GOOD.items() for name in query]
PAGE_PARAMETERS = [(path, name) for path, query in PAGES.items() for name in query]
ENCODED_BADLY = [f"{MARKER}%00", f"{MARKER}%0A", f"{MARKER}%0d%0aX:%20y", f"{MARKER}%7F", f"{MARKER}%C2%85"]
UNREADABLE = ["%", "%zz", "%FF", "%C0%AF", "%ED%A0%80", "%F5%80%80%80", "%u0041", "%%%", "%2"]


def url(server: Harness, path: str, query: str) -> URL:
    return URL(f"{server.base}{path}?{query}", encoded=True)


def query_of(good: Mapping[str, str], **changes: str) -> str:
    return "&".join(f"{name}={value}" for name, value in {**good, **changes}.items())


async def get(server: Harness, user: User, path: str, query: str) -> tuple[int, Mapping[str, str], bytes]:
    lines = [f"Authorization: Bearer {user.token}"]
    reply = (await exchange(server, head("GET", f"{path}?{query}", *lines))).only
    return reply.status, reply.headers, reply.body


@pytest.mark.parametrize(("path", "name"), PARAMETERS)
async def test_missing(server: Harness, alice: User, path: str, name: str) -> None:
    query = {key: value for key, value in GOOD[path].items() if key != name}
    reply = await server.get(path, params=query, as_=alice)
    assert_refused(reply, 400, "M_MISSING_PARAMS")
    assert name in reply.json["error"]


@pytest.mark.parametrize(("path", "name"), PARAMETERS)
async def test_given_twice(server: Harness, alice: User, path: str, name: str) -> None:
    for second in ("unknown", MARKER, ""):
        query = [*GOOD[path].items(), (name, second)]
        reply = await server.get(path, params=query, as_=alice)
        assert_refused(reply, 400, "M_INVALID_PARAM")
        assert name in reply.json["error"]


@pytest.mark.parametrize(("path", "name"), PARAMETERS)
@pytest.mark.parametrize("value", ["", "z" * 256, "z" * 7000, *ENCODED_BADLY])
async def test_outside_the_grammar(server: Harness, alice: User, path: str, name: str, value: str) -> None:
    lines = [f"Authorization: Bearer {alice.token}"]
    with nothing_stored(server):
        answers = await exchange(server, head("GET", f"{path}?{query_of(GOOD[path], **{name: value})}", *lines))
    assert_refused(answers.only, 400, "M_INVALID_PARAM")
    assert "zzz" not in answers.only.body.decode()


@pytest.mark.parametrize(("path", "name"), PARAMETERS)
@pytest.mark.parametrize("value", UNREADABLE)
async def test_percent_encoding_that_means_nothing(
    server: Harness, alice: User, path: str, name: str, value: str
) -> None:
    lines = [f"Authorization: Bearer {alice.token}"]
    with nothing_stored(server):
        answers = await exchange(server, head("GET", f"{path}?{query_of(GOOD[path], **{name: value})}", *lines))
    if name == "public_key":
        assert (answers.only.status, answers.only.json) == (200, {"valid": False})
    else:
        assert_refused(answers.only, 400, "M_INVALID_PARAM")


@pytest.mark.parametrize(("path", "name"), PAGE_PARAMETERS)
@pytest.mark.parametrize("value", ["", "z" * 256, *ENCODED_BADLY, *UNREADABLE])
async def test_links_that_were_tampered_with_show_a_page(server: Harness, path: str, name: str, value: str) -> None:
    with nothing_stored(server):
        answers = await exchange(server, head("GET", f"{path}?{query_of(PAGES[path], **{name: value})}"))
    reply = answers.only
    assert reply.status == 400
    assert reply.headers["Content-Type"].startswith("text/html")
    assert_has_cors(reply.headers)
    assert MARKER.encode() not in reply.body


@pytest.mark.parametrize(("path", "name"), PAGE_PARAMETERS)
async def test_links_with_a_parameter_missing_or_doubled_show_a_page(server: Harness, path: str, name: str) -> None:
    lacking = {key: value for key, value in PAGES[path].items() if key != name}
    for query in (list(lacking.items()), [*PAGES[path].items(), (name, "other")]):
        reply = await server.get(path, params=query)
        assert reply.status == 400
        assert reply.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("path", ["/_matrix/identity/confirm", f"{V2}/validate/email/submitToken"])
@pytest.mark.parametrize(
    "hint", ["%00", "%FF", "..%2f..%2fetc", "%3Cscript%3Ezq8marker", "z" * 1000, "%E2%80%AE", ""]
)
async def test_language_and_brand_are_only_hints(server: Harness, path: str, hint: str) -> None:
    query = query_of({**PAGES[path], "lang": hint, "brand": hint})
    answers = await exchange(server, head("GET", f"{path}?{query}", "Accept-Language: \xff\xfe, ;q=, de;q=x, *"))
    assert answers.only.status == 400
    assert answers.only.headers["Content-Type"].startswith("text/html")
    assert b"<script>zq8" not in answers.only.body


async def test_hints_that_mean_nothing_don_t_stop_a_mail(server: Harness, alice: User) -> None:
    sent = len(server.mail.sent)
    lines = [f"Authorization: Bearer {alice.token}", "Accept-Language: \xff, en", "Transfer-Encoding: chunked"]
    body = b'{"email":"hints@example.com","client_secret":"a","send_attempt":1}'
    target = f"{V2}/validate/email/requestToken?brand=%00%FF..%2F&brand=b&lang=%FF"
    answers = await exchange(server, head("POST", target, *lines) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    assert answers.only.status == 200, answers.only.json
    assert len(server.mail.sent) == sent + 1


async def test_more_parameters_than_anyone_needs(server: Harness) -> None:
    reply = await server.get(url(server, f"{V2}/pubkey/isvalid", "a&" * 4000 + "public_key=x").path_qs)
    assert (reply.status, reply.json) == (200, {"valid": False})


async def test_parameters_belong_into_the_body_of_a_post(server: Harness, alice: User) -> None:
    reply = await server.post("3pid/bind", {}, as_=alice, params={"sid": "a", "client_secret": "a", "mxid": "@a:b"})
    assert_refused(reply, 400, "M_MISSING_PARAMS")


@pytest.mark.parametrize(
    "key_id", ["ed25519:1", "ed25519", "ed25519:0%00", "%FF", "..%2F..", "zq8marker", "z" * 4000, "ed25519%3A0%0A"]
)
async def test_key_ids_that_are_unknown(server: Harness, alice: User, key_id: str) -> None:
    answers = await exchange(server, head("GET", f"{V2}/pubkey/{key_id}"))
    assert_refused(answers.only, 404, "M_NOT_FOUND")


@pytest.mark.parametrize("form", [b"", b"token", b"token=", b"token=%FF", b"token=\xff", b"token=a%00", b"&" * 1000])
async def test_forms_that_can_t_be_read(server: Harness, form: bytes) -> None:
    with nothing_stored(server):
        reply = await server.post("/_matrix/identity/confirm", data=form)
    assert reply.status == 400
    assert reply.headers["Content-Type"].startswith("text/html")
    assert_has_cors(reply.headers)
