"""`identity-server doctor`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from identity_server.commands.context import conf_option, load_config
from identity_server.config import Config
from identity_server.doctor.examination import examine
from identity_server.doctor.findings import Finding, Verdict
from identity_server.doctor.patient import Questions
from identity_server.domain.errors import IdentityServerError
from identity_server.domain.identifiers import canonical_email, parse_server_name
from identity_server.domain.phone import parse_phone_number
from identity_server.observability import set_up_logging


@click.command()
@conf_option
@click.option("--homeserver", metavar="NAME", help="Whether users of this homeserver can register.")
@click.option("--client-domain", metavar="DOMAIN", help="Whether .well-known/matrix/client there leads here.")
@click.option("--mail-to", metavar="ADDRESS", help="Send a mail there.")
@click.option("--sms-to", metavar="NUMBER", help="Send a text there (E.164), which costs what a text costs.")
@click.option("--json", "as_json", is_flag=True, help="For programs: a list of findings.")
def doctor(
    conf: Path | None,
    homeserver: str | None,
    client_domain: str | None,
    mail_to: str | None,
    sms_to: str | None,
    as_json: bool,  # noqa: FBT001 - click passes flags so
) -> None:
    """Look a set-up over: what is wrong, why, and what to do. Changes nothing; the exit status is 1 if there is a fault.

    Run it as the user that the server runs as, beside the running server.
    """
    config = load_config(conf)
    # What the parts log about themselves is in the findings.
    set_up_logging(level="CRITICAL", form="console", path=None, rotates=False)
    try:
        questions = Questions(
            homeserver=None if homeserver is None else parse_server_name(homeserver.lower()),
            client_domain=None if client_domain is None else parse_server_name(client_domain.lower()),
            mail_to=None if mail_to is None else canonical_email(mail_to),
            sms_to=None if sms_to is None else parse_phone_number(sms_to),
        )
    except IdentityServerError as error:
        raise click.UsageError(error.message) from None
    findings = asyncio.run(_examine(config, questions, shows=not as_json))
    faults = sum(finding.verdict is Verdict.FAULT for finding in findings)
    if as_json:
        click.echo(json.dumps([finding.to_json() for finding in findings], indent=1))
    else:
        click.echo(f"\n{faults or 'no'} fault{'' if faults == 1 else 's'}")
    raise SystemExit(bool(faults))


async def _examine(config: Config, questions: Questions, *, shows: bool) -> list[Finding]:
    findings = []
    async for finding in examine(config, questions):
        findings.append(finding)
        if shows:
            click.echo(finding.to_text())
    return findings
