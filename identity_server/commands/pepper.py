"""`identity-server pepper`: the pepper of hashed lookups."""

from __future__ import annotations

from pathlib import Path

import click

from identity_server.commands.context import at_the_desk, conf_option, time_of
from identity_server.wiring.desks import open_peppers


@click.group()
def pepper() -> None:
    """Look after the pepper of hashed lookups."""


@pepper.command()
@conf_option
def rotate(conf: Path | None) -> None:
    """Make a new pepper; a running server takes it into use once it has an index for it, without a gap."""
    at_the_desk(conf, open_peppers, lambda peppers: peppers.rotate())
    click.echo("A new pepper is made. A running server builds its index and then gives it out;")
    click.echo("lookups with the old one are honoured for the grace time after that.")


@pepper.command("list")
@conf_option
def list_(conf: Path | None) -> None:
    """Show the ages of the peppers, not the peppers."""
    for each in at_the_desk(conf, open_peppers, lambda peppers: peppers.list()):
        state = "in use, or about to be" if each.retired_at_ms is None else f"replaced {time_of(each.retired_at_ms)}"
        click.echo(f"pepper {each.id}: made {time_of(each.created_at_ms)}, {state}")
