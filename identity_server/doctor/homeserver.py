"""Whether the users of a homeserver can register: it is found, reached, trusted, answers, and is let in."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from identity_server.doctor.advice import advice_for
from identity_server.doctor.findings import Finding, fault, fine, skipped, warning
from identity_server.doctor.patient import Patient
from identity_server.domain.errors import HomeserverFailed, OpenIdTokenRefused
from identity_server.domain.identifiers import ServerName
from identity_server.outbound.discovery import Route
from identity_server.outbound.names import NameLookupFailed
from identity_server.wiring.settings import homeserver_policy

_ABOUT = "homeserver"
_NO_TOKEN = "asked-by-identity-server-doctor"  # noqa: S105 - the token of nobody, on purpose
_DISCOVERY_SECONDS = 15.0
_VERSION = "/_matrix/federation/v1/version"
_MAX_BYTES = 64 * 1024


async def examine_homeserver(patient: Patient) -> list[Finding]:
    """Go the way of a registration: find the homeserver, and ask it about a token that it can't know."""
    name = patient.questions.homeserver
    if name is None:
        return [skipped(_ABOUT, "--homeserver NAME goes the way of a registration there")]
    steps: tuple[str, ...] = ()
    findings = _admitted(patient, name)
    try:
        async with asyncio.timeout(_DISCOVERY_SECONDS):
            steps = _told(name, await patient.federation.find(name))
        await patient.federation.openid_user_id(name, _NO_TOKEN)
    except OpenIdTokenRefused:
        await _look_at_its_clock(patient, name)
        return [*findings, fine(_ABOUT, f"{name} answers, and refuses a token that isn't its own", steps=steps)]
    except (NameLookupFailed, TimeoutError) as error:
        cause = str(error) or "DNS doesn't answer"
        return [*findings, fault(_ABOUT, f"{name} can't be found", cause=cause, fix=advice_for(cause))]
    except HomeserverFailed as error:
        fix = advice_for(error.detail) or _fix_of_answer(error.detail)
        return [*findings, fault(_ABOUT, f"{name} can't be asked", cause=error.detail, fix=fix, steps=steps)]
    return [*findings, fault(_ABOUT, f"{name} takes any token for good", fix="use another homeserver", steps=steps)]


async def _look_at_its_clock(patient: Patient, name: ServerName) -> None:
    with suppress(HomeserverFailed):
        patient.compare_clocks(name, await patient.federation.request(name, "GET", _VERSION, max_bytes=_MAX_BYTES))


def _told(name: ServerName, route: Route) -> tuple[str, ...]:
    """The steps of its discovery."""
    by = route.note or f"{name} leads to {route.host_header}"
    places = ", ".join(f"{target.host} port {target.port}" for target in route.targets)
    return (by, f"connect to {places}", f"the certificate must be for {route.tls_name}")


def _fix_of_answer(message: str) -> str:
    if "does not offer OpenID" in message:
        return "have its proxy forward /_matrix/federation/ (Synapse: the `openid` or `federation` listener resource)"
    return "look at its log, and at the proxy in front of it"


def _admitted(patient: Patient, name: ServerName) -> list[Finding]:
    policy = homeserver_policy(patient.config)
    if not policy.using.admits(name):
        return [
            warning(
                _ABOUT,
                f"users of {name} are not let in",
                cause="`homeserver_allow_list` or `homeserver_deny_list`",
                fix="change the lists, if they should be",
            )
        ]
    if not policy.binding.admits(name) or not policy.looking_up.admits(name):
        return [warning(_ABOUT, f"users of {name} may not do everything", cause="the lists for binding and lookups")]
    return []
