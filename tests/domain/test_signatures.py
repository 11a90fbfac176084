from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity_server.domain.signatures import NotCanonical, is_signed, require_canonical
from tests.support.homeserver import SigningHomeserver

SIGNER = SigningHomeserver("example.org")
LARGEST = 2**53 - 1
PLAIN = st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | st.text(st.characters(exclude_categories=["Cs"]))


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@given(
    st.dictionaries(
        st.text(max_size=9),
        st.recursive(
            PLAIN,
            lambda children: (
                st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=9), children, max_size=3)
            ),
        ),
        max_size=3,
    )
)
def test_what_json_has_but_fractions_is_canonical(value: dict[str, Any]) -> None:
    require_canonical(value)


@pytest.mark.parametrize("bad", [0.0, 1.5, 1e300, LARGEST + 1, -LARGEST - 1, 2**64, nested(64), nested(5000)])
def test_what_has_no_canonical_form(bad: Any) -> None:
    for value in (bad, [1, bad], {"a": {"b": [bad]}}):
        with pytest.raises(NotCanonical):
            require_canonical(value)


def test_a_refusal_shows_nothing_of_the_value() -> None:
    with pytest.raises(NotCanonical) as caught:
        require_canonical({"alice@example.com": 31337.5})
    assert "alice" not in str(caught.value)
    assert "31337" not in str(caught.value)


def test_depth_in_reach_of_no_limit() -> None:
    require_canonical(nested(50))


def check(message: dict[str, Any], *, name: str = SIGNER.name, key_id: str = SIGNER.key_id) -> bool:
    return is_signed(message, name=name, key_id=key_id, public_key=SIGNER.public_key)


def test_a_signature_fits_its_message_name_and_key() -> None:
    signed = SIGNER.signed({"a": 1})
    assert check(signed)
    assert check({**signed, "unsigned": {"age": 1}})
    assert not check({**signed, "a": 2})
    assert not check(signed, name="other.org")
    assert not check(signed, key_id="ed25519:other")
    assert not check({"a": 1})
    assert "signatures" in signed, "the message itself is left as it was"


@pytest.mark.parametrize("text", ["", "=", "x", "!!!!", "\u00fc", "A" * 86, "A" * 88, "A" * 100_000])
def test_what_is_no_signature(text: str) -> None:
    assert not check({"a": 1, "signatures": {SIGNER.name: {SIGNER.key_id: text}}})


def test_half_a_character_is_signed_by_nobody() -> None:
    signatures = SIGNER.signed({"uri": "/"})["signatures"]
    assert not check({"uri": "/\udcff", "signatures": signatures})
