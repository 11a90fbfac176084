from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity_server.domain.errors import InvalidEmail, InvalidParameter
from identity_server.domain.identifiers import (
    Medium,
    Threepid,
    UserId,
    ascii_domain,
    canonical_email,
    parse_client_secret,
    parse_server_name,
    parse_session_id,
    parse_user_id,
    server_of,
    split_server_name,
)


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("Alice@Example.ORG", "alice@example.org"),
        ("Straße@Example.org", "strasse@example.org"),
        ("ﬁsh@example.org", "fish@example.org"),
        ("x@straße.example", "x@strasse.example"),
        ("re\u0301ne\u0301@example.org", "réné@example.org"),
        ("user+tag@example.org", "user+tag@example.org"),
        ("a@localhost", "a@localhost"),
        ("a@nowhere.test", "a@nowhere.test"),
        ("a@XN--mnchen-3ya.de", "a@xn--mnchen-3ya.de"),
        ("ü@exämple.org", "ü@exämple.org"),
    ],
)
def test_canonical_email(typed: str, canonical: str) -> None:
    assert canonical_email(typed) == canonical
    assert canonical_email(canonical) == canonical


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "a",
        "@example.org",
        "a@",
        "a@b@c",
        "a b@example.org",
        '"a b"@example.org',
        "Alice <a@example.org>",
        "a@example.org,b@example.org",
        "a@[127.0.0.1]",
        "a@example.org\r\nBcc: b@example.org",
        "a\0@example.org",
        "a\u200b@example.org",
        "a\u202eb@example.org",
        "a\u00a0b@example.org",
        "a@exam\u00adple.org",
        "\ud800@example.org",
        "a" * 65 + "@example.org",
        "a@" + "b" * 64 + ".org",
        "a@" + "b." * 130 + "org",
        ".a@example.org",
        "a..b@example.org",
        "a@-b.org",
        "a@b..org",
    ],
)
def test_no_email(typed: str) -> None:
    with pytest.raises(InvalidEmail):
        canonical_email(typed)


@given(st.text(max_size=20), st.text(max_size=20))
def test_canonical_form_is_stable_and_plain(local: str, domain: str) -> None:
    try:
        canonical = canonical_email(f"{local}@{domain}")
    except InvalidEmail:
        return
    assert canonical_email(canonical) == canonical
    assert canonical == unicodedata.normalize("NFC", canonical.casefold())
    assert len(canonical.encode()) <= 254
    assert not any(unicodedata.category(character)[0] in "CZ" for character in canonical)


@pytest.mark.parametrize(
    "name", ["example.org", "example.org:8448", "localhost:1", "127.0.0.1", "[::1]:80", "a_b.c", "x"]
)
def test_server_names(name: str) -> None:
    assert parse_server_name(name) == name
    assert parse_server_name(name.upper()) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ":80", "a:", "a:0", "a:08", "a:65536", "a:123456", "a b", "a/b", "a@b", "a..b", ".a", "-a.b", "1.2.3"),
        *("256.1.1.1", "[::1", "::1", "[fe80::1%25eth0]", "é.org", "a\n", "a:8448:1", "a" * 64, "a." * 120),
        *("\u212a.org", "[::1]:", "a?b", "a#b", "%61.org"),
    ],
)
def test_no_server_names(name: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_server_name(name)


def test_server_names_are_split() -> None:
    assert split_server_name("example.org") == ("example.org", None)
    assert split_server_name("example.org:80") == ("example.org", 80)
    assert split_server_name("[::1]") == ("[::1]", None)


@pytest.mark.parametrize(
    ("domain", "ascii_form"),
    [
        ("example.org", "example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("büro.test", "xn--bro-hoa.test"),
        ("bücher example", None),
        ("bücher.example@evil.example", None),
        ("\ud800.example", None),
        ("", None),
    ],
)
def test_ascii_form_of_a_domain(domain: str, ascii_form: str | None) -> None:
    assert ascii_domain(domain) == ascii_form


@pytest.mark.parametrize("user_id", ["@a:b.c", "@A/+=_-.:b.c", "@:b.c", "@é:b.c", "@a:b.c:80", "@a:[::1]:80"])
def test_user_ids(user_id: str) -> None:
    assert parse_user_id(user_id) == user_id
    assert server_of(UserId(user_id)) == user_id.partition(":")[2]


@pytest.mark.parametrize(
    "user_id",
    ["", "a:b.c", "@a", "@a b:c", "@a:B.c", "@a\0:b.c", "@a\n:b.c", "@\ud800:b.c", "@" + "a" * 255 + ":b.c", "@a:"],
)
def test_no_user_ids(user_id: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_user_id(user_id)


@pytest.mark.parametrize("parse", [parse_client_secret, parse_session_id])
def test_opaque_identifiers(parse: object) -> None:
    assert callable(parse)
    assert parse("aZ09.=_-") == "aZ09.=_-"
    assert parse("a" * 255) == "a" * 255
    for bad in ("", "a" * 256, "a b", "a\n", "é", "a/b"):
        with pytest.raises(InvalidParameter):
            parse(bad)


def test_threepid_does_not_show_its_address() -> None:
    assert "alice" not in repr(Threepid(Medium.EMAIL, "alice@example.com"))
