"""Typed reading of bodies and queries.

The rule: what a handler gets is complete, of the right types, within its lengths and inside its grammar.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import orjson
from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import ValidationError

from identity_server.api.app_keys import SETTINGS
from identity_server.api.route import ROUTE, Reads
from identity_server.api.wire import WireModel
from identity_server.domain.errors import (
    BadJson,
    BodyIncomplete,
    BodyTooLarge,
    BodyTooSlow,
    InvalidParameter,
    MissingParameters,
    NotJson,
)

CONTENT: web.RequestKey[dict[str, Any]] = web.RequestKey("content", dict)
"""The JSON object in the body as it came, for whoever needs all of it to check a signature."""

_MAX_FORM_FIELDS = 20
_MOST_UNFINISHED: Final = 64 * 1024 * 1024
_NOTHING = frozenset({b"", b"null"})
_ZLIB_ENCODINGS = frozenset({"gzip", "x-gzip", "deflate"})
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
"""Tells zlib to find out by itself which of the two forms it has."""
Wire = TypeVar("Wire", bound="WireModel")


class UnfinishedBodies:
    """What is there of bodies that aren't there as a whole, on all connections of a worker.

    If all of it is too much, time is up for those that have taken the longest: so somebody with a thousand large ones gets no
    more memory than somebody with a few, and keeps nobody out.
    """

    def __init__(self) -> None:
        # The first ones have begun first.
        self._sizes: dict[asyncio.Timeout, int] = {}
        self._sum = 0

    def add(self, time: asyncio.Timeout, size: int) -> None:
        """More has come of the body that has this time."""
        self._sizes[time] = self._sizes.get(time, 0) + size
        self._sum += size
        while self._sum > _MOST_UNFINISHED and len(self._sizes) > 1:
            first = next(iter(self._sizes))
            self.forget(first)
            if not first.expired():
                first.reschedule(0)

    def forget(self, time: asyncio.Timeout) -> None:
        """It is there as a whole, or never will be."""
        self._sum -= self._sizes.pop(time, 0)


UNFINISHED: web.AppKey[UnfinishedBodies] = web.AppKey("unfinished", UnfinishedBodies)


async def read_json(request: web.Request, model: type[Wire], *, max_body: int) -> Wire:
    """The JSON object in the body, of so many bytes at most, whatever its Content-Type says.

    Raises:
        BodyTooLarge, BodyTooSlow, BodyIncomplete, NotJson, BadJson, MissingParameters, InvalidParameter: as they say.
    """
    request[CONTENT] = content = await _read_json_object(request, model, max_body)
    return _validate(model, content)


async def _read_json_object(request: web.Request, model: type[WireModel], max_body: int) -> dict[str, Any]:
    """The object in the body, or what stands for it on v1; of a name that stands twice the last counts."""
    body = await _read_body(request, max_body)
    if request[ROUTE].reads is Reads.ANYTHING and not _says_json(request, body):
        return _loose_parameters(request, body)
    try:
        value = model.parse(body)
    except orjson.JSONDecodeError:
        raise NotJson from None
    if not isinstance(value, dict):
        raise BadJson
    return value


def _says_json(request: web.Request, body: bytes) -> bool:
    """Whether a v1 body is meant as JSON; `null` is how clients say that all is in the query."""
    text = body.strip()
    return text not in _NOTHING and (request.content_type == "application/json" or text.startswith(b"{"))


def _loose_parameters(request: web.Request, body: bytes) -> dict[str, Any]:
    """The query's parameters, and over them the fields of a form."""
    form = {} if body.strip() in _NOTHING else _form_fields(body)
    return {**request.query, **form}


async def read_form(request: web.Request, model: type[Wire], *, max_body: int) -> Wire:
    """The fields of a form that a page of ours has posted, of so many bytes at most.

    Raises:
        BodyTooLarge, BodyTooSlow, BodyIncomplete, MissingParameters, InvalidParameter: as they say.
    """
    return _validate(model, _form_fields(await _read_body(request, max_body)))


def read_query(request: web.Request, model: type[Wire]) -> Wire:
    """The parameters in the query string.

    Raises:
        MissingParameters, InvalidParameter: as they say.
    """
    twice = [name for name in model.model_fields if len(request.query.getall(name, [])) > 1]
    if twice:
        raise InvalidParameter(f"Given more than once: {', '.join(twice)}")
    return _validate(model, dict(request.query))


def _validate(model: type[Wire], value: dict[str, Any]) -> Wire:
    """Check an object; the errors of pydantic become ours, without the offending values."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
    missing = [_place(problem["loc"]) for problem in problems if problem["type"] == "missing"]
    if missing:
        raise MissingParameters(missing)
    first = problems[0]
    raise InvalidParameter(f"{_place(first['loc'])}: {first['msg']}")


def _place(location: tuple[int | str, ...]) -> str:
    # Only names of our own models: a key of the caller's could be an address.
    return ".".join(map(str, location))


def _form_fields(body: bytes) -> dict[str, str]:
    """The first value of each field of an `application/x-www-form-urlencoded` body."""
    try:
        text = body.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FORM_FIELDS)
    except ValueError:
        raise InvalidParameter("The form cannot be read.") from None
    return dict(reversed(pairs))


async def _read_body(request: web.Request, limit: int) -> bytes:
    if (request.content_length or 0) > limit:
        raise BodyTooLarge
    content = request.content
    if content.is_eof() and content.exception() is None:
        # It came with the head, as most do: there is nothing to wait for.
        body = content.read_nowait()
        if len(body) > limit:
            raise BodyTooLarge
    else:
        body = await _wait_for_body(request, limit)
    encoding = request.headers.get("Content-Encoding")
    return body if encoding is None else _decoded(body, encoding, limit)


async def _wait_for_body(request: web.Request, limit: int) -> bytes:
    body, unfinished = bytearray(), request.app[UNFINISHED]
    try:
        async with asyncio.timeout(request.app[SETTINGS].body_timeout_seconds) as time:
            try:
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        raise BodyTooLarge
                    unfinished.add(time, len(chunk))
            finally:
                unfinished.forget(time)
    except TimeoutError:
        raise BodyTooSlow from None
    except (ClientPayloadError, HttpProcessingError, web.RequestPayloadError, ConnectionError):
        raise BodyIncomplete from None
    return bytes(body)


def _decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo the body's Content-Encoding, but never into more than the limit: a small gzip can be a large body."""
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return body
    if name not in _ZLIB_ENCODINGS:
        raise NotJson("The body has a Content-Encoding that is not taken here.")
    inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise NotJson("The body cannot be decompressed.") from None
    if len(plain) > limit:
        raise BodyTooLarge
    if not inflater.eof or inflater.unused_data:
        raise NotJson("The body cannot be decompressed.")
    return plain
