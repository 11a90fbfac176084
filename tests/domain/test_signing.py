from __future__ import annotations

import base64

import pytest
import signedjson.key
import signedjson.sign

from identity_server.domain.signing import SigningKey, decode_public_key

SEED = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


def test_signature_is_the_one_of_the_reference_library() -> None:
    key = SigningKey.parse(f"ed25519 a_b {SEED}", server_name="id.example.org")
    assert key.key_id == "ed25519:a_b"
    message = {"b": 1, "a": "é"}
    signed = key.sign(message)
    reference = signedjson.key.decode_signing_key_base64("ed25519", "a_b", SEED)
    assert signed == signedjson.sign.sign_json(dict(message), "id.example.org", reference)
    assert "signatures" not in message


def test_old_hex_key_is_the_same_key() -> None:
    by_hex = SigningKey.parse("00" * 32, server_name="x")
    assert by_hex.key_id == "ed25519:0"
    assert by_hex.public_key == SigningKey.parse(f"ed25519 0 {SEED}", server_name="x").public_key


@pytest.mark.parametrize(
    "text", ["", "ed25519", f"rsa 0 {SEED}", f"ed25519 0 {SEED}A", "ed25519 0 secretsecret", "zz"]
)
def test_text_that_is_no_key_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="signing key") as error:
        SigningKey.parse(text, server_name="x")
    assert len(text) < 10 or text not in str(error.value)


def test_new_key_is_written_as_it_is_read() -> None:
    text = SigningKey.text_from_seed(bytes(range(32)))
    assert SigningKey.parse(text, server_name="x").key_id == "ed25519:0"
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey.text_from_seed(b"short")


def test_public_keys_in_either_alphabet() -> None:
    raw = b"\xfb\xff" * 16
    for spelling in _spellings(raw):
        assert decode_public_key(spelling) == raw
    for bad in ("", "A", "A" * 42, "A" * 44, "é" * 43):
        assert decode_public_key(bad) is None


def _spellings(raw: bytes) -> list[str]:
    standard = base64.b64encode(raw).decode()
    urlsafe = base64.urlsafe_b64encode(raw).decode()
    return [standard, standard.rstrip("="), urlsafe, urlsafe.rstrip("="), standard.replace("+", " ")]
