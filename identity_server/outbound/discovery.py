"""From a homeserver's name to where it answers and what it must prove (server-server API, "Server discovery").

The rule: whatever a .well-known file, a redirect or DNS claims only says where to connect. Which name the
certificate must be for follows from the server name, or from a .well-known file that was itself fetched
over verified HTTPS; never from DNS.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from ipaddress import ip_address

import orjson
from multidict import CIMultiDictProxy
from yarl import URL

from identity_server.domain.durations import HOUR_MS, MINUTE_MS
from identity_server.domain.errors import InvalidParameter
from identity_server.domain.identifiers import ServerName, parse_server_name, split_server_name
from identity_server.domain.ports import Clock, Randomness
from identity_server.outbound.https import Answer, AnswerUnusable, HttpsClient, HttpsFailure, Request
from identity_server.outbound.names import Names, order_services
from identity_server.outbound.single_flight import Fetched, SingleFlightCache

_FOUND_MS = 24 * HOUR_MS
_FOUND_MIN_MS = 5 * MINUTE_MS
_FOUND_MAX_MS = 48 * HOUR_MS
_INVALID_MS = HOUR_MS
_DOWN_MS = 2 * MINUTE_MS
_JITTER_PERCENT = 10

_WELL_KNOWN_PATH = "/.well-known/matrix/server"
_WELL_KNOWN_BYTES = 50 * 1024
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_AGE = re.compile(r"max-age\s*=\s*\"?([0-9]{1,9})", re.IGNORECASE)
_NOT_KEPT = re.compile(r"\bno-(?:store|cache)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Target:
    """A host (a name, or an IP address without brackets) and a port to connect to."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach a homeserver.

    Attributes:
        host_header: what `Host` must say.
        tls_name: the name or IP address that the certificate must be for.
        targets: where to connect; later ones only if there is no connection to the earlier.
        note: why no delegation was followed, for the person who wonders where we looked; may be empty.
        told_note: the same for callers, who may know less.
    """

    host_header: str
    tls_name: str
    targets: tuple[Target, ...]
    note: str = ""
    told_note: str = ""


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that the specification gives; others are for networks without them, such as a test's."""

    https: int = 443
    federation: int = 8448


SPECIFIED_PORTS = Ports()


@dataclass(frozen=True, slots=True)
class _WellKnown:
    """What a host's .well-known file says.

    Attributes:
        delegated_to: the name that answers in its stead, or None.
        problem: why there is none.
        told: the same for callers.
    """

    delegated_to: ServerName | None
    problem: str = ""
    told: str = ""


class _Down(Exception):
    """The file can't be had at the moment."""


class _Invalid(Exception):
    """There is no such file, or not one that can be used."""


class Discovery:
    """Finds homeservers. What .well-known files say is cached, found or not; DNS keeps its own time."""

    def __init__(
        self,
        *,
        https: HttpsClient,
        names: Names,
        clock: Clock,
        randomness: Randomness,
        well_known_seconds: float,
        ports: Ports,
    ) -> None:
        self._https = https
        self._names = names
        self._clock = clock
        self._randomness = randomness
        self._well_known_seconds = well_known_seconds
        self._ports = ports
        self._well_known = SingleFlightCache(self._fetch_well_known, clock=clock)

    async def find(self, server_name: ServerName) -> Route:
        """Where a homeserver answers.

        Raises:
            NameLookupFailed: DNS couldn't say whether it has SRV records.
            FetchAbandoned: the server is stopping.
        """
        host, port = split_server_name(server_name)
        if port is not None or _is_ip(host):
            return self._direct(server_name)
        well_known = await self._well_known.get(host)
        if well_known.delegated_to is None:
            return replace(await self._by_dns(host), note=well_known.problem, told_note=well_known.told)
        delegated_host, delegated_port = split_server_name(well_known.delegated_to)
        if delegated_port is not None or _is_ip(delegated_host):
            return self._direct(well_known.delegated_to)
        return await self._by_dns(delegated_host)

    async def close(self) -> None:
        """End what is under way."""
        await self._well_known.close()

    def _direct(self, name: ServerName) -> Route:
        host, port = split_server_name(name)
        bare = host.strip("[]")
        return Route(name, bare, (Target(bare, port or self._ports.federation),))

    async def _by_dns(self, host: str) -> Route:
        """By SRV record, the current before the deprecated one, else the federation port."""
        for service in ("_matrix-fed._tcp", "_matrix._tcp"):
            services = await self._names.services(f"{service}.{host}")
            if services:
                ordered = order_services(services, self._randomness)
                return Route(host, host, tuple(Target(each.host, each.port) for each in ordered))
        return Route(host, host, (Target(host, self._ports.federation),))

    # --- .well-known ----------------------------------------------------------------------

    async def _fetch_well_known(self, host: str) -> Fetched[_WellKnown]:
        try:
            async with asyncio.timeout(self._well_known_seconds):
                answer = await self._get_well_known(host)
            delegated_to = _parse_well_known(answer)
        except TimeoutError:
            return _no_delegation("it did not answer in time", _DOWN_MS)
        except (_Invalid, AnswerUnusable) as error:
            return _no_delegation(str(error), _INVALID_MS)
        except _Down as error:
            return _no_delegation(str(error), _DOWN_MS)
        except HttpsFailure as error:
            return _no_delegation(str(error), _DOWN_MS, told=error.told)
        return Fetched(_WellKnown(delegated_to), self._lifetime_ms(answer.headers))

    async def _get_well_known(self, host: str) -> Answer:
        url = URL.build(scheme="https", host=host, port=self._ports.https, path=_WELL_KNOWN_PATH)
        for _ in range(_MAX_REDIRECTS + 1):
            answer = await self._https.send(Request(method="GET", url=url, max_bytes=_WELL_KNOWN_BYTES))
            if answer.status not in _REDIRECTS:
                return answer
            url = _redirect_target(url, answer.headers)
        raise _Invalid(f"it redirects more than {_MAX_REDIRECTS} times")

    def _lifetime_ms(self, headers: Mapping[str, str]) -> int:
        """How long to keep a delegation: a bit less than the headers say, so that not all expire at once."""
        wanted_ms = _wanted_lifetime_ms(headers, now_ms=self._clock.now_ms())
        limited_ms = min(wanted_ms, _FOUND_MAX_MS)
        spread_ms = limited_ms * _JITTER_PERCENT // 100
        jitter_ms = spread_ms * int.from_bytes(self._randomness.token_bytes(2)) // 0xFFFF
        return max(limited_ms - jitter_ms, _FOUND_MIN_MS)


def _is_ip(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _no_delegation(problem: str, lifetime_ms: int, *, told: str | None = None) -> Fetched[_WellKnown]:
    notes = (f"no delegation by .well-known: {why}" for why in (problem, told or problem))
    return Fetched(_WellKnown(None, *notes), lifetime_ms)


def _redirect_target(url: URL, headers: CIMultiDictProxy[str]) -> URL:
    """Where a redirect leads; https only, and without credentials of its own.

    Raises:
        _Invalid: it leads nowhere, or away from HTTPS.
    """
    location = headers.get("Location")
    if location is None:
        raise _Invalid("it redirects to nowhere")
    try:
        target = url.join(URL(location))
        if target.scheme != "https":
            raise _Invalid("it redirects to something that is not https")
        return target.with_user(None).with_fragment(None)
    except ValueError:
        raise _Invalid("it redirects to no valid URL") from None


def _parse_well_known(answer: Answer) -> ServerName:
    """The server name in an answer.

    Raises:
        _Down: the answer is a passing failure.
        _Invalid: it holds none.
    """
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        raise _Down(f"HTTP status {answer.status}")
    if answer.status != HTTPStatus.OK:
        raise _Invalid(f"HTTP status {answer.status}")
    try:
        content = orjson.loads(answer.body)
    except ValueError:
        raise _Invalid("it is not JSON") from None
    delegated_to = content.get("m.server") if isinstance(content, dict) else None
    if not isinstance(delegated_to, str):
        raise _Invalid("it names no m.server")
    try:
        return parse_server_name(delegated_to)
    except InvalidParameter:
        raise _Invalid("its m.server is not a server name") from None


def _wanted_lifetime_ms(headers: Mapping[str, str], *, now_ms: int) -> int:
    """What `Cache-Control`, else `Expires`, asks for; 24 h if neither says anything."""
    cache_control = ",".join(value for name, value in headers.items() if name.lower() == "cache-control")
    if _NOT_KEPT.search(cache_control):
        return 0
    if max_age := _MAX_AGE.search(cache_control):
        return int(max_age[1]) * 1000
    expires = headers.get("Expires")
    if expires is None:
        return _FOUND_MS
    try:
        return int(parsedate_to_datetime(expires).timestamp() * 1000) - now_ms
    except (ValueError, OverflowError):
        return 0  # RFC 9111: an invalid date, "0" above all, means that it has expired.
