"""`identity-server invites`: invites that wait for their address to be bound."""

from __future__ import annotations

from pathlib import Path

import click

from identity_server.commands.context import at_the_desk, conf_option
from identity_server.domain.durations import DAY_MS
from identity_server.domain.invite import Obfuscation
from identity_server.services.invites.desk import KeyNotKept
from identity_server.wiring.desks import open_invite_desk

_HINT = Obfuscation(local_letters=1, domain_letters=3)


@click.group()
def invites() -> None:
    """Look after invites that wait for their address to be bound."""


@invites.command("list")
@conf_option
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="The newest so many.")
def list_(conf: Path | None, limit: int) -> None:
    """List live invites, the newest first; addresses are only hinted at."""
    found = at_the_desk(conf, open_invite_desk, lambda desk: desk.list(limit=limit))
    for invite, taken in found:
        days = (invite.expires_at_ms - invite.created_at_ms) // DAY_MS
        state = "taken along by a binding" if taken else "waiting"
        hint = _HINT.display_name(invite.threepid.address)
        click.echo(f"{invite.id}  {hint}  by {invite.sender}  to {invite.room_id}  {state}, {days} days in all")
    if not found:
        click.echo("No invites are waiting.")


@invites.command()
@conf_option
@click.argument("invite_id", type=int)
def resend(conf: Path | None, invite_id: int) -> None:
    """Mail an invite again; the running server sends it within a minute."""
    try:
        found = at_the_desk(conf, open_invite_desk, lambda desk: desk.resend(invite_id))
    except KeyNotKept:
        raise click.ClickException(
            "this invite was imported from Sydent, which kept no copy of its key: revoke it, and have it made anew"
        ) from None
    if not found:
        raise click.ClickException("there is no such invite")
    click.echo("The mail is in the outbox.")


@invites.command()
@conf_option
@click.argument("invite_id", type=int)
def revoke(conf: Path | None, invite_id: int) -> None:
    """End an invite: its key is no longer valid, and nobody can take it up."""
    if not at_the_desk(conf, open_invite_desk, lambda desk: desk.revoke(invite_id)):
        raise click.ClickException("there is no such invite")
    click.echo("The invite is revoked.")
