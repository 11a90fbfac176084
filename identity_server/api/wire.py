"""What requests and answers are made of: models with lengths and grammars for the one, plain typed objects for the other.

The rule: a field that stands in several of them is described once, here; api/openapi.py reads all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

import orjson
from annotated_types import GroupedMetadata
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from typing_extensions import TypedDict

from identity_server.domain.identifiers import parse_client_secret, parse_server_name, parse_session_id, parse_user_id

LARGEST_INTEGER: Final = 2**53 - 1
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class WireModel(BaseModel):
    """What a request carries; unknown fields are ignored, types are not bent."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    @classmethod
    def parse(cls, body: bytes) -> Any:
        """What is in a body, not checked yet.

        Raises:
            orjson.JSONDecodeError: it isn't JSON.
        """
        return orjson.loads(body)


def _no_controls(value: str) -> str:
    if _CONTROLS.search(value):
        raise ValueError("control characters are not allowed")
    return value


def _decimal(value: Any) -> Any:
    """Clients send some integers as strings of digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(LARGEST_INTEGER)):
        return int(value)
    return value


@dataclass(frozen=True, slots=True)
class Text(GroupedMetadata):
    """A string without control characters, of a bounded length: `Annotated[str, Text(255)]`."""

    max_length: int
    min_length: int = 1

    def __iter__(self) -> Iterator[object]:
        yield StringConstraints(min_length=self.min_length, max_length=self.max_length)
        yield AfterValidator(_no_controls)


def _described(description: str, **schema: Any) -> Any:
    """What api/openapi.py says of a field, beyond what pydantic knows; it checks nothing."""
    return Field(description=description, json_schema_extra=schema)


# --- what requests are made of ------------------------------------------------------------

_OPAQUE = {"pattern": "^[0-9a-zA-Z.=_-]{1,255}$"}

Integer = Annotated[int, Field(ge=0, le=LARGEST_INTEGER), BeforeValidator(_decimal)]
ClientSecretField = Annotated[
    str,
    AfterValidator(parse_client_secret),
    _described("The secret that the client made for this session.", **_OPAQUE, examples=["monkeys_are_GREAT"]),
]
SessionIdField = Annotated[
    str, AfterValidator(parse_session_id), _described("The id of the session, from requestToken.", **_OPAQUE)
]
UserIdField = Annotated[
    str, AfterValidator(parse_user_id), _described("A Matrix ID.", maxLength=255, examples=["@alice:example.org"])
]
ServerNameField = Annotated[
    str,
    AfterValidator(parse_server_name),
    _described("The name of a homeserver.", maxLength=230, examples=["example.org"]),
]
TokenField = Annotated[str, Text(255), _described("The token of the mail, or the code of the text message.")]
LanguageField = Annotated[str, Text(64, min_length=0)]
"""A language tag, where a form or link has one."""
MediumField = Annotated[
    str, Text(32), _described("What kind of address it is: `email` or `msisdn`.", examples=["email"])
]
AddressField = Annotated[
    str,
    Text(512),
    _described("The address: an e-mail address, or a phone number in digits, country code first."),
]

# --- what answers are made of -------------------------------------------------------------

Milliseconds = Annotated[int, Field(description="Milliseconds since 1970.")]


class Empty(TypedDict):
    """Nothing more is to be said than that it is done."""
