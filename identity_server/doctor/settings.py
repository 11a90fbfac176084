"""What can be told from the configuration and its files alone: warnings, terms, templates, the v1 switches."""

from __future__ import annotations

from urllib.parse import urlsplit

from identity_server.config import Config
from identity_server.doctor.findings import Finding, fault, fine, note, skipped, warning
from identity_server.doctor.patient import Patient
from identity_server.rendering.faults import BrandingProblems
from identity_server.rendering.policies import PolicyProblems
from identity_server.wiring.settings import configured_policies, load_templates

_V1 = "v1"
_TOLERATED_MS = 30_000
_PLACEHOLDERS = ("[OPERATOR", "[OPÉRATEUR", "[OPERADOR")
"""How the examples in `terms/` begin what is to be filled in, in their languages."""


async def examine_settings(patient: Patient) -> list[Finding]:
    """The configuration as it was read."""
    config = patient.config
    findings = [warning("configuration", str(each)) for each in config.warnings]
    if not findings:
        findings = [fine("configuration", str(config.path or "no file: built-in defaults"))]
    findings += _terms(config)
    try:
        load_templates(config)
    except BrandingProblems as error:
        findings += [fault("templates", str(each), fix="correct the file that is named") for each in error.problems]
    return findings + _v1(config)


def _terms(config: Config) -> list[Finding]:
    try:
        documents = configured_policies(config).documents
    except PolicyProblems as error:
        return [fault("terms", str(each), fix="correct the file that is named") for each in error.problems]
    unfinished = [f"{each.id} ({each.language})" for each in documents if any(map(each.html.count, _PLACEHOLDERS))]
    if not unfinished:
        return []
    return [
        warning(
            "terms",
            f"not filled in yet: {', '.join(unfinished)}",
            cause="these are examples with gaps, [OPERATOR: …], and everybody is asked to accept them as they are",
            fix="fill the gaps in the files of `terms.path`, and remove the languages that you don't want",
        )
    ]


def _v1(config: Config) -> list[Finding]:
    general, lookup = config.general, config.lookup
    if not general.enable_v1_access:
        return [
            note(
                _V1,
                "off, but for what old mails and rooms point at",
                cause="a Synapse whose `account_threepid_delegates.msisdn` names this server, and apps older than 2020, need it",
            )
        ]
    findings = [
        note(
            _V1,
            "validation and invites are open (`enable_v1_access`)",
            cause="v1 has no accounts and no consent: whoever reaches it has mails and texts sent, and invites people in"
            " anybody's name, within limits by network",
            fix="if only your Synapse needs it, have the proxy pass it from there alone; docs/operating.md names the paths",
        )
    ]
    if general.enable_v1_associations:
        findings.append(
            warning(
                _V1,
                "binding is open (`enable_v1_associations`)",
                cause="whoever has validated an address on v1 can bind it to any Matrix ID, without an account and without"
                " that Matrix ID's consent",
                fix="set it to false, unless apps older than 2020 have to bind here",
            )
        )
    if lookup.enable_v1:
        findings.append(
            warning(
                _V1,
                "lookups are open (`enable_v1` in [lookup])",
                cause="without an account, each network may ask for the Matrix IDs behind"
                f" {lookup.budget_per_network_and_day} addresses a day, and addresses aren't hashed, so they stand in the logs"
                " of proxies",
                fix="set it to false, unless apps or bridges that know no hashed lookups are used here",
            )
        )
    return findings


async def examine_clock(patient: Patient) -> list[Finding]:
    """This machine's clock beside those of the servers that were asked; comes last for that reason."""
    own = {patient.config.general.server_name, urlsplit(patient.config.public_base_url).hostname}
    others = {host: ahead_ms for host, ahead_ms in patient.clocks.items() if host not in own}
    if not others:
        return [
            skipped("clock", "a server named by --homeserver or --client-domain has to answer to compare with it")
        ]
    host, ahead_ms = min(others.items(), key=lambda each: abs(each[1]))
    if abs(ahead_ms) <= _TOLERATED_MS:
        return [fine("clock", f"agrees with that of {host}")]
    return [
        fault(
            "clock",
            f"{abs(ahead_ms) / 1000:.0f} s {'behind' if ahead_ms > 0 else 'ahead of'} that of {host}",
            cause="signatures, links and codes are judged by the time",
            fix="run a time service (chrony, systemd-timesyncd)",
        )
    ]
