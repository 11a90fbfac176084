"""`identity-server pepper`: the pepper of hashed lookups."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from identity_server.commands.context import conf_option, set_up, time_of, told_in_words
from identity_server.config import Config
from identity_server.domain.hashing import Pepper
from identity_server.wiring.desks import open_peppers


@click.group()
def pepper() -> None:
    """Look after the pepper of hashed lookups."""


@pepper.command()
@conf_option
def rotate(conf: Path | None) -> None:
    """Make a new pepper; a running server takes it into use once it has an index for it, without a gap."""
    config = set_up(conf)
    with told_in_words():
        asyncio.run(_rotate(config))
    click.echo("A new pepper is made. A running server builds its index and then gives it out;")
    click.echo("lookups with the old one are honoured for the grace time after that.")


@pepper.command("list")
@conf_option
def list_(conf: Path | None) -> None:
    """Show the ages of the peppers, not the peppers."""
    config = set_up(conf)
    with told_in_words():
        found = asyncio.run(_list(config))
    for each in found:
        state = "in use, or about to be" if each.retired_at_ms is None else f"replaced {time_of(each.retired_at_ms)}"
        click.echo(f"pepper {each.id}: made {time_of(each.created_at_ms)}, {state}")


async def _rotate(config: Config) -> None:
    async with open_peppers(config) as peppers:
        await peppers.rotate()


async def _list(config: Config) -> list[Pepper]:
    async with open_peppers(config) as peppers:
        return await peppers.list()
