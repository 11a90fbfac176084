"""A homeserver that signs: it publishes its keys and signs requests as real ones do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import signedjson.key
import signedjson.sign
from unpaddedbase64 import encode_base64

UNBIND = "/_matrix/identity/v2/3pid/unbind"
FAR_OFF_MS = 2_000_000_000_000


class SigningHomeserver:
    """A homeserver with one signing key at a time.

    Attributes:
        name: its server name.
        extra: fields that replace or join those of its published keys, before they are signed.
    """

    def __init__(self, name: str, *, version: str = "a_test") -> None:
        self.name = name
        self.extra: dict[str, Any] = {}
        self.key = _key(name, version)

    @property
    def key_id(self) -> str:
        return f"ed25519:{self.key.version}"

    @property
    def public_key(self) -> bytes:
        return bytes(self.key.verify_key)

    def rotate(self, version: str) -> None:
        """Sign with a new key from now on."""
        self.key = _key(self.name, version)

    def published_keys(self) -> dict[str, Any]:
        """The answer to `/_matrix/key/v2/server`."""
        content = {
            "server_name": self.name,
            "valid_until_ts": FAR_OFF_MS,
            "verify_keys": {self.key_id: {"key": encode_base64(self.public_key)}},
            "old_verify_keys": {},
            **self.extra,
        }
        return self.signed(content)

    def signed(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of an object with this homeserver's signature."""
        signed: dict[str, Any] = signedjson.sign.sign_json(dict(content), self.name, self.key)
        return signed

    def signature(
        self,
        content: Mapping[str, Any],
        *,
        destination: str = "id.example.org",
        field: str = "destination_is",
        uri: str = UNBIND,
        method: str = "POST",
    ) -> str:
        """The signature of a request in base64."""
        request = {"method": method, "uri": uri, "origin": self.name, field: destination, "content": content}
        signature: str = self.signed(request)["signatures"][self.name][self.key_id]
        return signature

    def authorization(self, content: Mapping[str, Any], *, destination: str = "id.example.org", **how: str) -> str:
        """The Authorization header of a request, as Synapse writes it."""
        signature = self.signature(content, destination=destination, **how)
        return f'X-Matrix origin="{self.name}",key="{self.key_id}",sig="{signature}",destination="{destination}"'


def _key(name: str, version: str) -> Any:
    seed = hashlib.sha256(f"{name} {version}".encode()).digest()
    return signedjson.key.decode_signing_key_base64("ed25519", version, encode_base64(seed))
