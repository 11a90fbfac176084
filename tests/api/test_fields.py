"""Bodies that are JSON, with one thing in them that must not be: types, lengths, characters, ranges."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.api.support import (
    GOOD,
    JSON_OPERATIONS,
    MARKER,
    STRINGS,
    assert_refused,
    changed,
    nothing_stored,
    post_raw,
)
from tests.support.harness import Harness, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOT_STRINGS: dict[str, Any] = {
    "null": None,
    "true": True,
    "number": 123,
    "fraction": 1.5,
    "list": [MARKER],
    "empty list": [],
    "object": {MARKER: MARKER},
}
CONTROLS = {"NUL": "\x00", "unit separator": "\x1f", "newline": "\n", "CR LF": "\r\n", "DEL": "\x7f", "C1": "\x85"}
MAY_BE_NULL = {("validate/email/requestToken", "next_link"), ("validate/msisdn/requestToken", "next_link")}
ERRCODES = {"email": "M_INVALID_EMAIL", "address": "M_INVALID_EMAIL", "phone_number": "M_INVALID_ADDRESS"}


def in_its_grammar(place: str, text: str) -> str:
    if place in {"mxid", "sender"}:
        return f"@{text}:example.org"
    return f"{text}@example.org" if place in {"email", "address"} else text


def errcode_for(place: str) -> str:
    return ERRCODES.get(place, "M_INVALID_PARAM")


@pytest.mark.parametrize("operation", JSON_OPERATIONS)
async def test_nothing_given(server: Harness, alice: User, operation: str) -> None:
    with nothing_stored(server):
        reply = await server.post(operation, {}, as_=alice)
    assert_refused(reply, 400, "M_MISSING_PARAMS")


@pytest.mark.parametrize("operation", JSON_OPERATIONS)
async def test_one_thing_missing_is_named(server: Harness, alice: User, operation: str) -> None:
    optional = {"token_type", "expires_in"}
    if operation == "3pid/unbind":
        # Without either, the request is a homeserver's.
        optional = set()
    for name in set(GOOD[operation]) - optional:
        body = {key: value for key, value in GOOD[operation].items() if key != name}
        with nothing_stored(server):
            reply = await server.post(operation, body, as_=alice)
        assert_refused(reply, 400, "M_MISSING_PARAMS")
        assert name in reply.json["error"]


@pytest.mark.parametrize("name", ["medium", "address"])
async def test_one_thing_missing_inside_is_named(server: Harness, name: str) -> None:
    threepid = {"medium": "email", "address": "carol@example.org"}
    del threepid[name]
    reply = await server.post("3pid/unbind", {**GOOD["3pid/unbind"], "threepid": threepid})
    assert_refused(reply, 400, "M_MISSING_PARAMS")
    assert f"threepid.{name}" in reply.json["error"]


@pytest.mark.parametrize(("operation", "place"), [(operation, place) for operation, place, _ in STRINGS])
@pytest.mark.parametrize("kind", NOT_STRINGS)
async def test_no_string(server: Harness, alice: User, operation: str, place: str, kind: str) -> None:
    if NOT_STRINGS[kind] is None and (operation, place) in MAY_BE_NULL:
        pytest.skip("null means that there is none")
    with nothing_stored(server):
        reply = await server.post(operation, changed(operation, place, NOT_STRINGS[kind]), as_=alice)
    if operation == "3pid/unbind" and NOT_STRINGS[kind] is None and place in {"sid", "client_secret"}:
        assert_refused(reply, 400, "M_MISSING_PARAMS")
    else:
        assert_refused(reply, 400, "M_INVALID_PARAM")
    assert place in reply.json["error"]


@pytest.mark.parametrize(
    ("operation", "place"),
    [("terms", "user_accepts"), ("lookup", "addresses"), ("lookup", "addresses.0"), ("3pid/unbind", "threepid")],
)
@pytest.mark.parametrize("value", [None, True, 1, MARKER, {"0": MARKER}, [[MARKER]]])
async def test_no_list_or_object(server: Harness, alice: User, operation: str, place: str, value: Any) -> None:
    if place == "addresses.0" and value == MARKER:
        pytest.skip("any string may be looked up")
    with nothing_stored(server):
        reply = await server.post(operation, changed(operation, place, value), as_=alice)
    assert reply.status == 400
    assert_refused(
        reply, 400, "M_MISSING_PARAMS" if place == "threepid" and value == {"0": MARKER} else "M_INVALID_PARAM"
    )


@pytest.mark.parametrize(("operation", "place"), [(operation, place) for operation, place, _ in STRINGS])
@pytest.mark.parametrize("kind", CONTROLS)
async def test_control_characters(server: Harness, alice: User, operation: str, place: str, kind: str) -> None:
    plain = in_its_grammar(place, MARKER)
    with nothing_stored(server):
        for value in (plain + CONTROLS[kind], CONTROLS[kind] + plain, plain[:3] + CONTROLS[kind] + plain[3:]):
            reply = await server.post(operation, changed(operation, place, value), as_=alice)
            assert_refused(reply, 400, errcode_for(place))
            assert "session" not in reply.json["error"].lower(), "refused for what it is, not for what it finds"


# Without a token, and from homeservers, a body of 50 KB is too large as such.
_SMALL_BODIES = {"account/register", "3pid/unbind"}


@pytest.mark.parametrize(("operation", "place", "longest"), STRINGS)
async def test_lengths(server: Harness, alice: User, operation: str, place: str, longest: int) -> None:
    for length in (longest + 1, longest * 2, 7_000 if operation in _SMALL_BODIES else 50_000):
        filling = "z" * length
        value = in_its_grammar(place, filling)
        with nothing_stored(server):
            reply = await server.post(operation, changed(operation, place, value), as_=alice)
        assert_refused(reply, 400, errcode_for(place), hidden="zzz")
        assert "session" not in reply.json["error"].lower()


@pytest.mark.parametrize(
    ("operation", "place", "longest"),
    [
        row
        for row in STRINGS
        if not row[0].endswith("/requestToken")
        and row[1] not in {"mxid", "sender", "address", "room_id", "matrix_server_name"}
    ],
)
async def test_the_greatest_length_is_looked_at(
    server: Harness, alice: User, operation: str, place: str, longest: int
) -> None:
    reply = await server.post(operation, changed(operation, place, "z" * longest), as_=alice)
    assert "at most" not in reply.json["error"]
    assert "must be 1 to" not in reply.json["error"]


@pytest.mark.parametrize(
    ("operation", "place"),
    [(operation, place) for operation, place, _ in STRINGS if place not in {"pepper", "next_link", "country"}],
)
async def test_empty_strings(server: Harness, alice: User, operation: str, place: str) -> None:
    with nothing_stored(server):
        reply = await server.post(operation, changed(operation, place, ""), as_=alice)
    assert_refused(reply, 400, errcode_for(place))
    assert "session" not in reply.json["error"].lower()


@pytest.mark.parametrize(("operation", "place"), [(operation, place) for operation, place, _ in STRINGS])
async def test_characters_that_are_none(server: Harness, alice: User, operation: str, place: str) -> None:
    for code in (b"\\ud83d", b"\\uDC00", b"\\udc00\\ud800", b"\xed\xb0\x80", b"\xf5\x80\x80\x80", b"\xff"):
        body = orjson.dumps(changed(operation, place, "a@@@")).replace(b"@@@", code)
        with nothing_stored(server):
            reply = await post_raw(server, operation, body, alice)
        assert_refused(reply, 400, "M_NOT_JSON")


@pytest.mark.parametrize(
    "operation",
    [
        "validate/email/requestToken",
        "validate/email/submitToken",
        "validate/msisdn/requestToken",
        "validate/msisdn/submitToken",
        "3pid/bind",
        "3pid/unbind",
    ],
)
@pytest.mark.parametrize(
    "secret", ["with space", "semi;colon", "a/b", "a+b", "ü", "\u017f", "\u0661", "a\n", "{}", "%41"]
)
async def test_client_secrets_outside_their_grammar(
    server: Harness, alice: User, operation: str, secret: str
) -> None:
    with nothing_stored(server):
        reply = await server.post(operation, changed(operation, "client_secret", secret), as_=alice)
    assert_refused(reply, 400, "M_INVALID_PARAM", hidden=secret if len(secret) > 2 else MARKER)
    assert "client_secret" in reply.json["error"]


@pytest.mark.parametrize(
    "mxid",
    [
        "alice:example.org",
        "@alice",
        "@alice:",
        ":example.org",
        "@alice@example.org",
        "@alice:exa mple.org",
        "@al ice:example.org",
        "@alice:EXAMPLE.ORG",
        "@alice:example.org:",
        "@alice:example.org:0",
        "@alice:example.org:65536",
        "@alice:example.org:port",
        "@alice:[::1",
        "@alice:[fe80::1%25lo]",
        "@alice:256.1.1.1",
        "@alice:-example.org",
        "@alice:example..org",
        "@alice:exämple.org",
        "@alice:example.org/path",
        "@ali\u202ece:example.org",
        "@ali\u200bce:example.org",
    ],
)
async def test_matrix_ids_that_are_none(server: Harness, alice: User, mxid: str) -> None:
    for operation in ("3pid/bind", "3pid/unbind"):
        with nothing_stored(server):
            reply = await server.post(operation, changed(operation, "mxid", mxid), as_=alice)
        assert_refused(reply, 400, "M_INVALID_PARAM", hidden=mxid)


@pytest.mark.parametrize(
    "name",
    [
        "example.org/",
        "https://example.org",
        "user@example.org",
        "example.org:",
        "example.org:0",
        "example.org:99999",
        "example.org:8448:8448",
        "example.org?x",
        "example.org#x",
        "exa mple.org",
        "[::1",
        "::1",
        "[::1%25lo]",
        "127.1",
        "0x7f.0.0.1.",
        "1.2.3.4.5",
        "exämple.org",
        ".",
        "..",
        "-a.example",
        "example.org.",
        "\u2488.example.org",
    ],
)
async def test_server_names_that_are_none(server: Harness, name: str) -> None:
    with nothing_stored(server):
        reply = await server.post("account/register", changed("account/register", "matrix_server_name", name))
    assert_refused(reply, 400, "M_INVALID_PARAM", hidden=name if len(name) > 2 else MARKER)


# --- integers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        "-1",
        "-9223372036854775808",
        "9007199254740992",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "1" + "0" * 300,
        "1.0",
        "1.5",
        "1e3",
        "-0.0",
        "true",
        "false",
        "null",
        "[]",
        "[1]",
        "{}",
        '""',
        '" 1"',
        '"1 "',
        '"+1"',
        '"-1"',
        '"1.0"',
        '"1e3"',
        '"0x1"',
        '"1_0"',
        '"\u0661"',
        '"\u00b2"',
        '"\uff19"',
        '"one"',
        '"9007199254740992"',
        '"9223372036854775808"',
        '"' + "9" * 5000 + '"',
        '"1\\u0000"',
    ],
)
async def test_send_attempts_that_are_no_number(server: Harness, alice: User, written: str) -> None:
    operation = "validate/email/requestToken"
    body = orjson.dumps({**GOOD[operation], "send_attempt": MARKER}).replace(f'"{MARKER}"'.encode(), written.encode())
    with nothing_stored(server):
        reply = await post_raw(server, operation, body, alice)
    assert_refused(reply, 400, "M_INVALID_PARAM")
    assert "send_attempt" in reply.json["error"]


@pytest.mark.parametrize("attempt", [0, 1, 2**53 - 1, "0", "1", "001", str(2**53 - 1)])
async def test_send_attempts_that_are_numbers(server: Harness, attempt: int | str) -> None:
    user = await server.register(f"@attempts-{type(attempt).__name__}-{attempt}:example.org")
    reply = await server.request_token(user, f"{attempt}@attempts.example", attempt=attempt)
    assert reply.status == 200, reply.json


# --- lists --------------------------------------------------------------------------------


async def test_too_many_terms_accepted_at_once(server: Harness, alice: User) -> None:
    with nothing_stored(server):
        reply = await server.post("terms", {"user_accepts": ["https://example.org/"] * 201}, as_=alice)
    assert_refused(reply, 400, "M_INVALID_PARAM")


async def test_terms_that_are_not_in_force(server: Harness, alice: User) -> None:
    with nothing_stored(server):
        reply = await server.post("terms", {"user_accepts": [f"https://example.org/{MARKER}"]}, as_=alice)
    assert_refused(reply, 400, "M_INVALID_PARAM")


async def test_too_many_addresses_at_once(server: Harness, alice: User) -> None:
    pepper = await server.pepper(alice)
    body = {"algorithm": "sha256", "pepper": pepper, "addresses": ["x"] * 10_001}
    assert_refused(await server.post("lookup", body, as_=alice), 400, "M_TOO_LARGE")
    body["addresses"] = ["x"] * 10_000
    reply = await server.post("lookup", body, as_=alice)
    assert (reply.status, reply.json) == (200, {"mappings": {}})


async def test_queries_that_are_no_hash_match_nothing(server: Harness, alice: User) -> None:
    queries = [
        "",
        "\x00",
        "=" * 44,
        "a" * 43,
        "a" * 44,
        "é",
        "/" * 43,
        "carol@example.org email",
        "💥",
        "z" * 100_000,
    ]
    body = {"algorithm": "sha256", "pepper": await server.pepper(alice), "addresses": queries}
    reply = await server.post("lookup", body, as_=alice)
    assert (reply.status, reply.json) == (200, {"mappings": {}})


async def test_algorithms_that_are_not_offered(server: Harness, alice: User) -> None:
    for algorithm in ("none", "md5", "SHA256", "sha256 ", MARKER):
        body = {"algorithm": algorithm, "pepper": await server.pepper(alice), "addresses": []}
        assert_refused(await server.post("lookup", body, as_=alice), 400, "M_INVALID_PARAM")


async def test_a_pepper_that_is_unknown_is_answered_with_the_one_to_use(server: Harness, alice: User) -> None:
    for pepper in ("", MARKER, "é"):
        reply = await server.post("lookup", {"algorithm": "sha256", "pepper": pepper, "addresses": []}, as_=alice)
        assert_refused(reply, 400, "M_INVALID_PEPPER")
        assert (reply.json["algorithm"], reply.json["lookup_pepper"]) == ("sha256", await server.pepper(alice))


# --- what has a meaning of its own -----------------------------------------------------------


@pytest.mark.parametrize("medium", ["Email", "EMAIL", "phone", "e-mail", "org.example.custom"])
async def test_media_that_are_none(server: Harness, medium: str) -> None:
    with nothing_stored(server):
        reply = await server.post("3pid/unbind", changed("3pid/unbind", "threepid.medium", medium))
    assert_refused(reply, 400, "M_INVALID_PARAM", hidden=medium)


@pytest.mark.parametrize(
    "link",
    [
        "",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "http://[",
        "http://a:99999/",
        "http://user@example.org/",
        "//example.org/",
        "element://open",
        "http:///",
    ],
)
async def test_links_that_lead_nowhere_on_the_web_are_left_out(server: Harness, link: str) -> None:
    user = await server.register(f"@link-{len(link)}-{link[:4].strip(':/')}:example.org".lower())
    requested = await server.request_token(
        user, f"link{ord(link[-1:] or 'x')}-{len(link)}@links.example", next_link=link
    )
    assert requested.status == 200
    query = {"sid": requested.json["sid"], "client_secret": "monkeys_are_GREAT", "token": server.mail.last_token}
    followed = await server.get("validate/email/submitToken", params=query)
    assert followed.status == 200, "a page, as there is nowhere to go"
    assert "Location" not in followed.headers
