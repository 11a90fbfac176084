from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity_server.domain.errors import Forbidden
from identity_server.domain.identifiers import ServerName
from identity_server.domain.x_matrix import Claim, Request, parse_claims, plain_destination, signed_objects

CLAIM = Claim(origin=ServerName("hs.test"), destination="id.test", key_id="ed25519:1", signature="c2ln/+==")
FULL = 'X-Matrix origin="hs.test",key="ed25519:1",sig="c2ln/+==",destination="id.test"'

SPACE = st.text(" \t", max_size=3)
QUOTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=60)
BARE = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='",\\'), min_size=1, max_size=60
)


def capitals(draw: st.DrawFn, name: str) -> str:
    return "".join(draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in name)


def quoted(draw: st.DrawFn, value: str) -> str:
    """A value in quotes; what needs no backslash may have one all the same."""
    pairs = [f"\\{letter}" if letter in '"\\' or draw(st.booleans()) else letter for letter in value]
    return f'"{"".join(pairs)}"'


@st.composite
def headers(draw: st.DrawFn) -> tuple[str, Claim]:
    """A header in any form that RFC 9110 allows, or that senders use, and what it says."""
    bare = draw(st.booleans())
    value = BARE if bare else QUOTABLE
    claim = Claim(
        origin=ServerName(draw(st.sampled_from(["hs.test", "hs.test:8448", "[2001:db8::1]:1", "1.2.3.4"]))),
        destination=draw(st.none() | value),
        key_id="ed25519:" + draw(value),
        signature=draw(value),
    )
    parameters = {"origin": claim.origin, "key": claim.key_id, "sig": claim.signature, "other": draw(value)}
    if claim.destination is not None:
        parameters["destination"] = claim.destination
    parts = [
        f"{capitals(draw, name)}{draw(SPACE)}={draw(SPACE)}{parameters[name] if bare else quoted(draw, parameters[name])}"
        for name in draw(st.permutations(list(parameters)))
    ]
    text = "".join(f"{part}{draw(SPACE)},{draw(SPACE)}" + draw(st.sampled_from(["", ", ,"])) for part in parts)
    text = text if draw(st.booleans()) else text.rstrip(" \t,")
    return f"{capitals(draw, 'x-matrix')} {draw(SPACE)}{text}", claim


@given(headers())
def test_reads_every_allowed_form(case: tuple[str, Claim]) -> None:
    header, claim = case
    assert parse_claims([header]) == [claim]


@given(st.text() | st.text('x-matrixorgnkeysd=,"\\ \t:', max_size=80).map("X-Matrix ".__add__))
def test_any_text_is_read_or_refused(header: str) -> None:
    try:
        claims = parse_claims([header])
    except Forbidden as error:
        assert len(error.message) < 200  # noqa: PT017 - either outcome is right
    else:
        assert len(claims) <= 1


def test_as_synapse_writes_it() -> None:
    assert parse_claims([FULL]) == [CLAIM]


def test_other_schemes_are_left_out() -> None:
    assert parse_claims([]) == []
    assert parse_claims(["Bearer abc", "X-MatrixX a=b", "", "x", FULL, "Basic YTpi"]) == [CLAIM]


def test_several_headers_of_one_homeserver() -> None:
    other = FULL.replace("ed25519:1", "ed25519:2")
    assert [claim.key_id for claim in parse_claims([FULL, other])] == ["ed25519:1", "ed25519:2"]


def test_headers_of_two_homeservers() -> None:
    with pytest.raises(Forbidden, match="more than one homeserver"):
        parse_claims([FULL, FULL.replace("hs.test", "evil.test")])


def test_more_headers_than_anyone_has_keys() -> None:
    assert len(parse_claims([FULL] * 8)) == 8
    with pytest.raises(Forbidden, match="too many"):
        parse_claims([FULL] * 9)


@pytest.mark.parametrize(
    "text",
    [
        "origin",
        "origin=",
        'origin="hs.test',
        'origin="hs.test\\"',
        'origin="hs.test" key="ed25519:1"',
        'origin="hs.test"key="ed25519:1"',
        'origin=hs.test key="ed25519:1"',
        "origin=hs.test;key=ed25519:1,sig=x",
        FULL.removeprefix("X-Matrix ") + ',origin="hs.test"',
        FULL.removeprefix("X-Matrix ") + ',ORIGIN="evil.test"',
        FULL.removeprefix("X-Matrix ") + ", X-Matrix",
        FULL.removeprefix("X-Matrix ") + ',x="\x00"',
        FULL.removeprefix("X-Matrix ") + ',x="\u00fc"',
        FULL.removeprefix("X-Matrix ") + ',x="\udcff"',
        FULL.removeprefix("X-Matrix ") + f',x="{"y" * 4096}"',
    ],
)
def test_what_cannot_be_read(text: str) -> None:
    with pytest.raises(Forbidden):
        parse_claims([f"X-Matrix {text}"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('origin="hs.test"', 'orig="hs.test"', "no origin"),
        ('key="ed25519:1"', 'key=""', "no key"),
        ("sig=", "signature=", "no sig"),
        ("hs.test", "HS.test", "origin"),
        ("hs.test", "hs.test:99999", "origin"),
        ("hs.test", "@alice:hs.test", "origin"),
        ("ed25519:1", "rsa:1", "not an ed25519 key"),
        ("ed25519:1", "ed25519:" + "1" * 121, "not an ed25519 key"),
        ('"id.test"', '""', "destination"),
        ("id.test", "x" * 513, "destination"),
    ],
)
def test_what_cannot_be_right(old: str, new: str, said: str) -> None:
    with pytest.raises(Forbidden, match=said):
        parse_claims([FULL.replace(old, new)])


@pytest.mark.parametrize("part", ["a=", "\\", '"', 'a="\\', ", ", " ,", "a=b,", "a"])
def test_long_nonsense_is_refused_at_once(part: str) -> None:
    header = "X-Matrix " + (part * 4096)[:4000]
    with pytest.raises(Forbidden):
        parse_claims([header])


def test_both_dialects_for_each_destination() -> None:
    request = Request(method="POST", uri="/p?q", content={"a": 1})
    common = {
        "method": "POST",
        "uri": "/p?q",
        "origin": "hs.test",
        "content": {"a": 1},
        "signatures": {"hs.test": {"ed25519:1": "c2ln/+=="}},
    }
    assert list(signed_objects(request, CLAIM, destinations=["a", "b"])) == [
        {**common, "destination_is": "a"},
        {**common, "destination": "a"},
        {**common, "destination_is": "b"},
        {**common, "destination": "b"},
    ]


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("id.test", "id.test"),
        ("ID.test:443", "id.test"),
        ("id.test/", "id.test"),
        ("id.test:443/Path/", "id.test/Path"),
        ("id.test:8443", "id.test:8443"),
        ("id.test:1443", "id.test:1443"),
        ("[::1]:443", "[::1]"),
    ],
)
def test_a_destination_without_what_makes_no_difference(written: str, plain: str) -> None:
    assert plain_destination(written) == plain
