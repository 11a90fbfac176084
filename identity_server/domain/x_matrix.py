"""Requests signed by a homeserver: the X-Matrix scheme (server-server API, "Request Authentication").

The rule: this module reads what a header claims and says what would have been signed; it believes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from identity_server.domain.errors import Forbidden, InvalidParameter
from identity_server.domain.identifiers import ServerName, parse_server_name
from identity_server.domain.signatures import ALGORITHM_PREFIX

_SCHEME = "x-matrix"
_MAX_SIGNATURES = 8
_MAX_HEADER = 4096
_MAX_KEY_ID = 128
_MAX_DESTINATION = 512

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's word for a bare word
# Senders leave out the quotes around server names and base64, too, though these are no tokens of RFC 9110.
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^ \t",\\]+))')
_SEPARATOR = re.compile(r"[ \t]*(?:,[ \t]*)+")
_QUOTED_PAIR = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Claim:
    """What one header claims: that `origin` signed the request.

    Attributes:
        destination: whom the request is for, as written; None where an old homeserver leaves it out.
        key_id: `ed25519:VERSION`.
        signature: in base64, not looked at yet.
    """

    origin: ServerName
    destination: str | None
    key_id: str
    signature: str


@dataclass(frozen=True, slots=True)
class Request:
    """What of a request is signed.

    Attributes:
        uri: the path as received, with the query.
        content: the whole body.
    """

    method: str
    uri: str
    content: Mapping[str, Any]


def parse_claims(authorization: Sequence[str]) -> list[Claim]:
    """The claims in all Authorization headers of a request; those of other schemes are left out.

    >>> parse_claims(['X-Matrix origin="hs.test",key="ed25519:1",sig="c2ln",destination="id.test"'])
    [Claim(origin='hs.test', destination='id.test', key_id='ed25519:1', signature='c2ln')]

    Raises:
        Forbidden: a header of this scheme can't be read, there are too many, or not all are of one homeserver.
    """
    claims = [_parse(rest) for scheme, rest in map(_split, authorization) if scheme == _SCHEME]
    if len(claims) > _MAX_SIGNATURES:
        raise Forbidden("The request carries too many X-Matrix headers.")
    if len({claim.origin for claim in claims}) > 1:
        raise Forbidden("The X-Matrix headers are of more than one homeserver.")
    return claims


def signed_objects(request: Request, claim: Claim, *, destinations: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Everything that the homeserver may have signed, with the claimed signature in its place.

    For each destination there are two forms: the specification has it under `destination`, and Synapse signs
    requests to identity servers with `destination_is`.
    """
    for destination in destinations:
        for field in ("destination_is", "destination"):
            yield {
                "method": request.method,
                "uri": request.uri,
                "origin": claim.origin,
                field: destination,
                "content": request.content,
                "signatures": {claim.origin: {claim.key_id: claim.signature}},
            }


def plain_destination(name: str) -> str:
    """A destination without what makes no difference: capitals, the port that https has anyway, a last slash.

    >>> plain_destination("ID.example.org:443/")
    'id.example.org'
    """
    host, slash, path = name.rstrip("/").partition("/")
    return host.lower().removesuffix(":443") + slash + path


def _split(header: str) -> tuple[str, str]:
    scheme, _, rest = header.strip(" \t").partition(" ")
    return scheme.lower(), rest


def _parse(text: str) -> Claim:
    parameters = _parameters(text)
    missing = [name for name in ("origin", "key", "sig") if not parameters.get(name)]
    if missing:
        raise Forbidden(f"The X-Matrix header has no {' and no '.join(missing)}.")
    destination = parameters.get("destination")
    if destination is not None and not 0 < len(destination) <= _MAX_DESTINATION:
        raise Forbidden("The destination in the X-Matrix header is not a server's name.")
    key_id = parameters["key"]
    if not key_id.startswith(ALGORITHM_PREFIX) or len(key_id) > _MAX_KEY_ID:
        raise Forbidden("The key in the X-Matrix header is not an ed25519 key.")
    return Claim(
        origin=_origin(parameters["origin"]), destination=destination, key_id=key_id, signature=parameters["sig"]
    )


def _origin(text: str) -> ServerName:
    try:
        origin = parse_server_name(text)
    except InvalidParameter:
        origin = None
    # What is signed is the name as it was written, and homeservers write theirs in lower case.
    if origin is None or origin != text:
        raise Forbidden("The origin in the X-Matrix header is not a server name in lower case.")
    return origin


def _parameters(text: str) -> dict[str, str]:
    """The parameters by name in lower case.

    Raises:
        Forbidden: the text is too long, has an unreadable part, or a name twice.
    """
    if len(text) > _MAX_HEADER or not text.isascii() or not text.replace("\t", " ").isprintable():
        raise _unreadable()
    # Empty elements are allowed in a list, at its ends as well.
    rest = text.strip(" \t,")
    found: dict[str, str] = {}
    position = 0
    while position < len(rest):
        match = _PARAMETER.match(rest, position)
        if match is None or match[1].lower() in found:
            raise _unreadable()
        quoted, bare = match[2], match[3]
        found[match[1].lower()] = bare if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
        position = match.end()
        separator = _SEPARATOR.match(rest, position)
        if separator is None and position < len(rest):
            raise _unreadable()
        position = separator.end() if separator else position
    return found


def _unreadable() -> Forbidden:
    return Forbidden("The X-Matrix header cannot be read.")
