"""One POST to a provider of text messages, and what its answer means.

Two rules. A request that found no connection has sent nothing and may be tried elsewhere; once there was a
connection, silence means that the message may be on its way. And nothing of a request or an answer gets into an
exception but the provider's name, the status and the code: both quote numbers, texts and passwords. So aiohttp's
exceptions end here; what is raised instead has no cause and no context.

Answers that are about us (a wrong password, no credit, a wrong URL) postpone: the number may be good, another
provider may take the message, and the operator can mend the account while it waits.
"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp

from identity_server.domain.ports import Clock, DeliveryPostponed, DeliveryRefused, DeliveryUnknown
from identity_server.outbound.https import json_object

_MAX_BYTES = 65_536
_CONNECTIONS = 16
_MAX_RETRY_AFTER_SECONDS = 3600
_USER_AGENT = "matrix-identity-server"
_LATER = frozenset({408, 425, 429, 503})
# No login, no credit, not allowed, no such place, not this way: about our account or the URL, not the message.
_ABOUT_US = frozenset({401, 402, 403, 404, 405, 406, 407, 411, 415, 421, 426, 431})


class AccountProblem(DeliveryPostponed):
    """The provider finds fault with us, not with the message: the operator has to see to the account or the URL."""


@dataclass(frozen=True, slots=True)
class PostLimits:
    """How long to wait, in seconds.

    Attributes:
        connect_seconds: for a connection, name lookup and TLS included; less than `total_seconds`, so that a
            time-out always tells whether there was one.
        total_seconds: for everything.
    """

    connect_seconds: float = 4.0
    total_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.connect_seconds < self.total_seconds:
            raise ValueError("connect_seconds must be more than nothing and less than total_seconds")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a provider answered.

    Attributes:
        retry_after_seconds: from `Retry-After`, from 1 second to an hour; None if it isn't there or makes no sense.
        body: empty where it was over 64 KiB, or cut off: the status says what became of the message.
    """

    status: int
    retry_after_seconds: int | None = None
    body: bytes = field(default=b"", repr=False)

    def json(self) -> dict[str, Any]:
        """The JSON object in the body; empty if there is none."""
        return json_object(self.body)


class Poster:
    """Sends POST requests to places that the operator chose.

    Those may be private, so addresses aren't screened. No redirects are followed, no cookies kept, no proxy of the
    environment used. Every request has a connection of its own: one kept alive may be closed by the other side at
    the very moment of its reuse, and then nobody knows whether the message was sent.
    """

    def __init__(self, *, clock: Clock, ca_file: Path | None = None, limits: PostLimits | None = None) -> None:
        """Take the parts and read the trusted authorities.

        Args:
            clock: dates in `Retry-After` are compared with it.
            ca_file: PEM file of authorities to trust besides the system's, or None.
            limits: how long to wait.

        Raises:
            OSError: `ca_file` can't be read (`ssl.SSLError` where it holds no certificate).
        """
        self._clock = clock
        self._tls = ssl.create_default_context()
        if ca_file is not None:
            self._tls.load_verify_locations(ca_file)
        limits = limits or PostLimits()
        self._timeout = aiohttp.ClientTimeout(total=limits.total_seconds, connect=limits.connect_seconds)
        self._opened: aiohttp.ClientSession | None = None

    async def post(
        self, url: str, *, provider: str, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send one request.

        Args:
            url: where to; `https`, or `http` if the operator wrote so.
            provider: what to call the other side in errors.
            body: as it goes over the wire.
            content_type: of the body.
            headers: further ones.

        Raises:
            DeliveryPostponed: there was no connection.
            DeliveryUnknown: there was one, and no answer.
        """
        failure: DeliveryPostponed | DeliveryUnknown
        try:
            async with self._session().post(
                url,
                data=body,
                headers={**(headers or {}), "Content-Type": content_type},
                allow_redirects=False,
            ) as response:
                return Reply(
                    status=response.status,
                    retry_after_seconds=self._retry_after(response.headers.get("Retry-After")),
                    body=await _read(response),
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            failure = DeliveryPostponed(f"{provider}: {_why_not_connected(error)}")
        except TimeoutError:
            failure = DeliveryUnknown(f"{provider}: no answer in time")
        except aiohttp.ClientResponseError:
            failure = DeliveryUnknown(f"{provider}: the answer is not HTTP")
        except (aiohttp.ClientError, OSError):
            failure = DeliveryUnknown(f"{provider}: the connection was lost before the answer")
        raise failure

    async def close(self) -> None:
        """Close all connections."""
        if self._opened is not None:
            await self._opened.close()

    def _session(self) -> aiohttp.ClientSession:
        # Opened at the first request: a connector wants a running loop, the composition root may have none yet.
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS, force_close=True, ssl=self._tls),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": _USER_AGENT},
                timeout=self._timeout,
            )
        return self._opened

    def _retry_after(self, text: str | None) -> int | None:
        seconds = _seconds_of(text, now_ms=self._clock.now_ms())
        return None if seconds is None else min(max(seconds, 1), _MAX_RETRY_AFTER_SECONDS)


def require_accepted(
    provider: str,
    reply: Reply,
    *,
    code: str = "",
    about_us: bool = False,
    later: bool = False,
    accepted: frozenset[int] | None = None,
) -> None:
    """Return if the provider took the message; otherwise raise what its status means.

    Args:
        provider: what to call the other side in errors.
        reply: its answer.
        code: the provider's own code of the fault, for the error's text; never its words.
        about_us: the provider's code blames our account or its settings rather than the message.
        later: the provider's code asks to try again.
        accepted: the statuses that mean "taken"; None for every 2xx.

    Raises:
        DeliveryPostponed, AccountProblem, DeliveryRefused, DeliveryUnknown: see the module.
    """
    status = reply.status
    text = f"{provider}: {status} ({code})" if code else f"{provider}: {status}"
    if status in accepted if accepted is not None else _is_success(status):
        return
    if later or status in _LATER:
        raise DeliveryPostponed(text, retry_after_seconds=reply.retry_after_seconds)
    # A redirect isn't followed, so nothing has happened: the URL is another one now.
    if about_us or status in _ABOUT_US or 300 <= status < 400:  # noqa: PLR2004 - the class of redirects
        raise AccountProblem(text)
    if 400 <= status < 500:  # noqa: PLR2004 - the class of requests at fault
        raise DeliveryRefused(text)
    raise DeliveryUnknown(text)


def basic_authorization(username: str, password: str) -> str:
    """The `Authorization` header of HTTP Basic, in UTF-8 (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _is_success(status: int) -> bool:
    return 200 <= status < 300  # noqa: PLR2004 - the class of success


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, or nothing if it is too long or doesn't come whole: by then the status is known."""
    body = bytearray()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > _MAX_BYTES:
                response.close()
                return b""
    except (aiohttp.ClientError, OSError):
        return b""
    return bytes(body)


def _seconds_of(text: str | None, *, now_ms: int) -> int | None:
    """What `Retry-After` says: seconds, or a date (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return int(text[:9])
    try:
        return int(parsedate_to_datetime(text).timestamp()) - now_ms // 1000
    except ValueError:
        return None


def _why_not_connected(error: Exception) -> str:
    """The reason in words that can't hold a URL."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "no connection in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        refused = error.certificate_error
        detail = f" ({refused.verify_message})" if isinstance(refused, ssl.SSLCertVerificationError) else ""
        return f"certificate not trusted{detail}"
    if isinstance(error, aiohttp.ClientConnectorDNSError | aiohttp.InvalidURL):
        return "no such host"
    number = error.os_error.errno if isinstance(error, aiohttp.ClientConnectorError) else None
    return f"no connection: {os.strerror(number).lower()}" if number and number > 0 else "no connection"
