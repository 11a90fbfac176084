"""`identity-server audit`: the journal of what was done to bindings and by operators."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import canonicaljson
import click

from identity_server.commands.context import at_the_desk, conf_option, time_of
from identity_server.commands.subjects import read_subject
from identity_server.domain.audit import AuditEvent
from identity_server.domain.audit_chain import HASH_BYTES
from identity_server.services.audit.check import AuditCheck, Findings, KeptHead
from identity_server.services.audit.desk import AuditDesk, Numbered
from identity_server.wiring.desks import open_audit

_HASH = re.compile(rf"[0-9a-fA-F]{{{2 * HASH_BYTES}}}")


@click.group()
def audit() -> None:
    """Read and verify the journal of bindings, erasures and what operators did. It names no one."""


@audit.command("list")
@conf_option
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000), help="The newest so many.")
@click.option("--event", type=click.Choice([event.value for event in AuditEvent]), help="Only those of this kind.")
def list_(conf: Path | None, limit: int, event: str | None) -> None:
    """List entries, the newest last: number, time, event, how many, and a homeserver where one is named."""
    kind = None if event is None else AuditEvent(event)
    _tell(at_the_desk(conf, open_audit, lambda tools: tools.desk.list_newest(event=kind, limit=limit)))


@audit.command()
@conf_option
@click.argument("subject", type=str)
def find(conf: Path | None, subject: str) -> None:
    """List the entries about SUBJECT: an e-mail address, a phone number as +4912345, a Matrix ID or a homeserver.

    Only the root key can tell, entry by entry: this takes some seconds for a million.
    """
    whom = read_subject(subject)
    _tell(at_the_desk(conf, open_audit, lambda tools: tools.desk.find(whom)))


@audit.command()
@conf_option
def head(conf: Path | None) -> None:
    """Print the signed head of the journal. Keep it elsewhere: `audit verify --head` compares with it."""
    found = at_the_desk(conf, open_audit, lambda tools: tools.desk.head())
    if found is None:
        raise click.ClickException("nothing is linked yet: a running server does that within seconds")
    click.echo(json.dumps(found))


@audit.command()
@conf_option
def dump(conf: Path | None) -> None:
    """Print every linked entry as JSON, one a line, the oldest first: to be kept, or verified by others.

    The hash is the SHA-256 of the rest of the line, and the next line's `previous`.
    """
    at_the_desk(conf, open_audit, lambda tools: _dump(tools.desk))


@audit.command()
@conf_option
@click.option(
    "--head",
    "kept",
    metavar="FILE|HASH",
    help="A head that was kept elsewhere, as `audit head` or a line of the log has it.",
)
def verify(conf: Path | None, kept: str | None) -> None:
    """Find out whether any entry was altered, removed, added or moved since it was linked.

    Without --head, what is missing at the end can't be told from what never was.
    """
    findings = at_the_desk(conf, open_audit, lambda tools: tools.check.run(kept=_kept(tools.check, kept)))
    for sentence in findings.faults:
        click.echo(f"error: {sentence}", err=True)
    if findings.fault_count > len(findings.faults):
        click.echo(f"error: And {findings.fault_count - len(findings.faults)} more.", err=True)
    for line in _summary(findings):
        click.echo(line)
    if findings.fault_count:
        raise SystemExit(1)


@audit.command()
@conf_option
@click.option("--yes", is_flag=True, help="Don't ask.")
def restart(conf: Path | None, *, yes: bool) -> None:
    """Remove all linked entries and go on after them, when `audit verify` has found something and you know why.

    Until then nothing is linked if the head isn't in order. Keep what `audit dump` prints.
    """
    if not yes:
        click.confirm("This removes all linked entries. Go on?", abort=True)
    removed = at_the_desk(conf, open_audit, lambda tools: tools.journal.restart())
    click.echo(f"Removed: {removed} {'entry' if removed == 1 else 'entries'}. The journal begins anew, and says so.")


def _kept(check: AuditCheck, text: str | None) -> KeptHead | None:
    if text is None:
        return None
    digits = text.replace(":", "")
    if _HASH.fullmatch(digits):
        return KeptHead(bytes.fromhex(digits))
    try:
        message = json.loads(Path(text).read_text())
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{text} is no hash, and no file with JSON in it ({type(error).__name__})") from None
    found = check.kept(message) if isinstance(message, dict) else None
    if found is None:
        raise click.BadParameter(f"what is in {text} was not signed by this server")
    return found


def _summary(findings: Findings) -> list[str]:
    lines = []
    head = findings.head
    if head is None:
        lines.append("No head: nothing is linked yet." if not findings.fault_count else "No head that counts.")
    else:
        lines.append(
            f"Entries {findings.first_seq} to {head.seq}, {findings.checked} in all; signed {time_of(findings.signed_at_ms)}"
            f" with the hash {head.hash_in_groups}."
        )
    if findings.of_other_keys:
        lines.append(f"Keyed by another root key, so that only the chain vouches for them: {findings.of_other_keys}.")
    waiting = findings.waiting
    if waiting.oldest_at_ms is not None:
        since = time_of(waiting.oldest_at_ms)
        lines.append(f"Not linked yet, as a running server does within seconds: {waiting.count}, since {since}.")
    return lines


def _tell(entries: Sequence[Numbered]) -> None:
    for seq, entry in entries:
        words = [str(seq or "-").rjust(8), time_of(entry.at_ms), entry.event]
        words += [] if entry.count is None else [str(entry.count)]
        words += [] if entry.server_name is None else [entry.server_name]
        click.echo("  ".join(words))
    if not entries:
        click.echo("There are no such entries.")


async def _dump(desk: AuditDesk) -> None:
    async for line in desk.everything():
        click.echo(canonicaljson.encode_canonical_json(line).decode())
