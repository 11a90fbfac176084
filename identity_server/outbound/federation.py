"""What this server asks of homeservers (`domain.ports.Homeservers`), over the federation API.

The rule: a homeserver's answer is a stranger's. It has a size and a time limit, it is checked before it is
used, and what goes wrong is said with the homeserver's name and the step that failed, never with a token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson
from yarl import URL

from identity_server.domain.errors import (
    HomeserverFailed,
    HomeserverMisbehaved,
    HomeserverStep,
    HomeserverUnreachable,
    InvalidParameter,
    OpenIdTokenRefused,
)
from identity_server.domain.identifiers import ServerName, UserId, parse_user_id, server_of
from identity_server.domain.ports import Clock, DeliveryPostponed, DeliveryRefused, Randomness
from identity_server.outbound.addresses import AddressScreen
from identity_server.outbound.discovery import SPECIFIED_PORTS, Discovery, Ports, Route, Target
from identity_server.outbound.https import (
    Answer,
    AnswerUnusable,
    HttpsClient,
    HttpsFailure,
    NotConnected,
    Request,
    json_object,
    make_tls_context,
)
from identity_server.outbound.names import NameLookupFailed, Names
from identity_server.outbound.single_flight import FetchAbandoned

_USERINFO_PATH = "/_matrix/federation/v1/openid/userinfo"
_USERINFO_BYTES = 64 * 1024
_ONBIND_PATH = "/_matrix/federation/v1/3pid/onbind"
_ONBIND_BYTES = 64 * 1024

# So that who waits for a connection is known from who waits for an answer.
_SHARE_OF_CONNECTING = 0.8

# Words about this one notice; everything else may be a proxy's, or pass.
_FINAL_REFUSALS = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_ENTITY_TOO_LARGE})

# A 401 has only one thing to object to. A 403 may as well come from something in front of the homeserver.
_TOKEN_ERRCODES = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_FORBIDDEN", "M_UNAUTHORIZED"})


@dataclass(frozen=True, slots=True)
class FederationLimits:
    """How long and how much at once.

    Attributes:
        total_seconds: for one call with everything it takes: discovery, connecting, answer. A second less than the
            ten within which whoever waits for it is promised an answer.
        well_known_seconds: for a .well-known file, with its redirects. Less than the total, so that a host
            that drops packets to port 443 can still be reached by other ways.
        connections_per_host: how many connections one homeserver can take up.
    """

    total_seconds: float = 9.0
    well_known_seconds: float = 5.0
    connections_per_host: int = 4


DEFAULT_LIMITS = FederationLimits()


class Federation:
    """Calls homeservers.

    Args:
        screen: which addresses may be connected to.
        verify_certs: whether certificates must be valid, in chain and name; without, a warning is logged.
        ca_file: certificates (PEM) of authorities to trust beside the system's.
        nameservers: (address, port) of the name servers to ask instead of the system's.
        hosts_file: names known without asking DNS.

    Raises:
        OSError: `ca_file` can't be used.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        randomness: Randomness,
        screen: AddressScreen,
        verify_certs: bool = True,
        ca_file: Path | None = None,
        nameservers: Sequence[tuple[str, int]] = (),
        hosts_file: Path | None = Path("/etc/hosts"),
        limits: FederationLimits = DEFAULT_LIMITS,
        ports: Ports = SPECIFIED_PORTS,
    ) -> None:
        names = Names(nameservers=nameservers, hosts_file=hosts_file)
        self._limits = limits
        self._https = HttpsClient(
            names=names,
            screen=screen,
            tls=make_tls_context(verify=verify_certs, ca_file=ca_file),
            connections_per_host=limits.connections_per_host,
        )
        self._discovery = Discovery(
            https=self._https,
            names=names,
            clock=clock,
            randomness=randomness,
            well_known_seconds=limits.well_known_seconds,
            ports=ports,
        )

    async def close(self) -> None:
        """End what is under way and close all connections."""
        await self._discovery.close()
        await self._https.close()

    async def find(self, server_name: ServerName) -> Route:
        """Where a homeserver answers.

        Raises:
            NameLookupFailed: DNS couldn't say.
        """
        return await self._discovery.find(server_name)

    async def openid_user_id(self, server_name: ServerName, openid_token: str) -> UserId:
        """Ask a homeserver whose OpenID token this is (server-server API, "OpenID").

        Raises:
            OpenIdTokenRefused: the homeserver doesn't know the token (401, or 403 with a matching errcode).
            HomeserverUnreachable: it could not be found, reached or trusted within the time limit, or it
                says that it can't answer now (429, 5xx).
            HomeserverMisbehaved: it answered with something else than the specification says, or with a
                user of another server.
        """
        if not _is_text(openid_token):
            raise OpenIdTokenRefused
        answer = await self.request(
            server_name, "GET", _USERINFO_PATH, query={"access_token": openid_token}, max_bytes=_USERINFO_BYTES
        )
        if answer.status == HTTPStatus.OK:
            return _parse_userinfo(server_name, answer.body)
        if answer.status == HTTPStatus.UNAUTHORIZED or _refuses_token(answer):
            raise OpenIdTokenRefused(
                f"The homeserver {server_name} does not know this OpenID token; it may have expired."
            )
        at, status = HomeserverStep.STATUS, answer.status
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _unreachable(server_name, at, f"it answered with HTTP status {status}")
        if status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
            raise _misbehaved(server_name, at, f"it does not offer OpenID user info (HTTP status {status})")
        raise _misbehaved(server_name, at, f"HTTP status {status}")

    async def notify_bind(self, server_name: ServerName, association: Mapping[str, Any]) -> None:
        """Tell a homeserver of a binding: by POST, as homeservers take it, and by PUT where it wants that.

        Raises:
            DeliveryRefused: it refuses this notice for good.
            DeliveryPostponed: not found, reached or trusted, or not able to take it now.
        """
        answer = await self._send_notice("POST", server_name, association)
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
            answer = await self._send_notice("PUT", server_name, association)
        if answer.status in _FINAL_REFUSALS:
            raise DeliveryRefused(f"{server_name}: HTTP status {answer.status}")
        if answer.status != HTTPStatus.OK:
            raise DeliveryPostponed(f"{server_name}: HTTP status {answer.status}")

    async def _send_notice(self, method: str, server_name: ServerName, body: Mapping[str, Any]) -> Answer:
        try:
            return await self.request(server_name, method, _ONBIND_PATH, body=body, max_bytes=_ONBIND_BYTES)
        except HomeserverFailed as error:
            raise DeliveryPostponed(error.detail) from None

    async def request(
        self,
        server_name: ServerName,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        max_bytes: int,
    ) -> Answer:
        """Send one request of the federation API; the answer may have any status and any body.

        Targets after the first are tried only while nothing has been sent.

        `path` starts with `/_matrix/` and has no query, `body` is sent as JSON, `max_bytes` is the longest
        answer to take.

        Raises:
            HomeserverUnreachable: not found, reached or trusted within the time limit.
            HomeserverMisbehaved: the answer is over the limit or not HTTP.
        """
        ask = _Ask(method, path, query or {}, None if body is None else orjson.dumps(dict(body)), max_bytes)
        problem: HomeserverFailed
        step = _Step(server_name, "looking for it by .well-known and DNS")
        deadline = _loop_time() + self._limits.total_seconds
        # Raised only after the except clauses, so that no context with a URL in it hangs on to the error.
        try:
            async with asyncio.timeout_at(deadline):
                route = await self._discovery.find(server_name)
                return await self._try_targets(route, ask, step=step, deadline=deadline)
        except TimeoutError:
            problem = step.failed(f"not done within {self._limits.total_seconds:g} s")
        except AnswerUnusable as error:
            problem = _misbehaved(server_name, error.step, str(error))
        except HttpsFailure as error:
            problem = step.failed(str(error), told=error.told, at=error.step)
        except NameLookupFailed as error:
            problem = step.failed(str(error), told=error.told)
        except FetchAbandoned:
            problem = _unreachable(server_name, HomeserverStep.FIND, "this server is stopping")
        raise problem

    async def _try_targets(self, route: Route, ask: _Ask, *, step: _Step, deadline: float) -> Answer:
        """Send to the first target that there is a connection to.

        Raises:
            HttpsFailure: as `HttpsClient.send`; `NotConnected` is that of the last target.
        """
        step.route, step.at = route, HomeserverStep.ANSWER
        for index, target in enumerate(route.targets):
            step.now = f"asking {target.host} port {target.port}"
            remaining = len(route.targets) - index
            left_seconds = (deadline - _loop_time()) * _SHARE_OF_CONNECTING
            request = ask.to(target, route, connect_seconds=left_seconds / remaining)
            try:
                return await self._https.send(request)
            except NotConnected:
                if remaining == 1:
                    raise
        raise AssertionError("a route has at least one target")


@dataclass(slots=True)
class _Step:
    """What is being done now, and what came before, for the one who reads that it failed."""

    server_name: ServerName
    now: str
    at: HomeserverStep = HomeserverStep.FIND
    route: Route | None = None

    def failed(self, why: str, *, told: str | None = None, at: HomeserverStep | None = None) -> HomeserverUnreachable:
        """The error that says so; callers who may not know why don't learn either where that was."""
        note, told_note = ("", "") if self.route is None else (self.route.note, self.route.told_note)
        detail = f"{self.now}: {why}{_in_brackets(note)}"
        said = told or f"{self.now}: {why}{_in_brackets(told_note)}"
        return _unreachable(self.server_name, at or self.at, said, detail=detail)


@dataclass(frozen=True, slots=True)
class _Ask:
    """A request before it is known where it goes."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes | None
    max_bytes: int

    def to(self, target: Target, route: Route, *, connect_seconds: float) -> Request:
        return Request(
            method=self.method,
            url=URL.build(scheme="https", host=target.host, port=target.port, path=self.path, query=self.query),
            host_header=route.host_header,
            tls_name=route.tls_name,
            body=self.body,
            max_bytes=self.max_bytes,
            connect_seconds=connect_seconds,
        )

    def __repr__(self) -> str:
        return f"_Ask({self.method} {self.path}, query=<hidden>)"


def _is_text(value: str) -> bool:
    """Whether this can be sent at all: JSON can smuggle in half a character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _in_brackets(note: str) -> str:
    return f" ({note})" if note else ""


def _unreachable(
    server_name: ServerName, step: HomeserverStep, why: str, *, detail: str | None = None
) -> HomeserverUnreachable:
    said, known = (f"The homeserver {server_name} could not be reached: {each}." for each in (why, detail or why))
    return HomeserverUnreachable(said, step=step, detail=known)


def _misbehaved(server_name: ServerName, step: HomeserverStep, why: str) -> HomeserverMisbehaved:
    return HomeserverMisbehaved(f"The homeserver {server_name} gave an answer that cannot be used: {why}.", step=step)


def _refuses_token(answer: Answer) -> bool:
    if answer.status != HTTPStatus.FORBIDDEN:
        return False
    errcode = json_object(answer.body).get("errcode")
    return isinstance(errcode, str) and errcode in _TOKEN_ERRCODES


def _parse_userinfo(server_name: ServerName, body: bytes) -> UserId:
    """The user that a homeserver vouches for.

    Raises:
        HomeserverMisbehaved: the answer names no user, or one that isn't the homeserver's own.
    """
    subject = json_object(body).get("sub")
    if not isinstance(subject, str):
        raise _misbehaved(server_name, HomeserverStep.CONTENT, "it is not JSON with a user in it")
    try:
        user_id = parse_user_id(subject)
    except InvalidParameter:
        raise _misbehaved(server_name, HomeserverStep.CONTENT, "what it calls a user is not a Matrix ID") from None
    if server_of(user_id) != server_name:
        raise _misbehaved(server_name, HomeserverStep.USER, "it vouches for a user of another homeserver")
    return user_id
