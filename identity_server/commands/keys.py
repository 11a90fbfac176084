"""`identity-server keys`: the root key, which everything at rest hangs on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from identity_server.commands.context import conf_option, set_up, time_of, told_in_words
from identity_server.config import Config
from identity_server.services.root_key import Standing
from identity_server.storage.key_ring import key_id_of
from identity_server.wiring.desks import open_rotation


@click.group()
def keys() -> None:
    """Look after the root key, which everything at rest hangs on."""


@keys.command("rotate-root")
@click.option("--cancel", is_flag=True, help="Give up the next root key; possible until it is in use.")
@conf_option
def rotate_root(conf: Path | None, *, cancel: bool) -> None:
    """Replace the root key, while servers go on; if it was interrupted, go on where it was left.

    The next root key is `at_rest_next_key` or `at_rest_next_passphrase` of the configuration, or else a new one in a file
    of its own in `key_dir`. With several machines, copy that file to the others when told to.
    """
    config = set_up(conf)
    with told_in_words():
        asyncio.run(_cancel(config) if cancel else _rotate(config))


@keys.command()
@conf_option
def status(conf: Path | None) -> None:
    """Show which root key is in use, and whether another one is taking its place."""
    config = set_up(conf)
    with told_in_words():
        standing = asyncio.run(_standing(config))
    click.echo(f"Sealed by root key {key_id_of(standing.root.fingerprint)}.")
    if standing.next_root is not None:
        click.echo(f"Next: {key_id_of(standing.next_root.fingerprint)}, as soon as every server knows it.")
    if standing.former_root is not None:
        key_id = key_id_of(standing.former_root.fingerprint)
        rows = ", ".join(f"{table} {count}" for table, count in standing.left.items()) or "none"
        click.echo(f"Former: {key_id}, still needed. Rows left to be sealed anew: {rows}.")
    for key_id, retired_at_ms in standing.retired:
        click.echo(f"Replaced: {key_id}, {time_of(retired_at_ms)}. It opens backups from before that time.")


async def _rotate(config: Config) -> None:
    async with open_rotation(config) as rotation:
        await rotation.run(click.echo)


async def _cancel(config: Config) -> None:
    async with open_rotation(config, next_may_be_missing=True) as rotation:
        await rotation.cancel()
    click.echo("The next root key is given up; nothing was sealed by it. Its file may be removed.")


async def _standing(config: Config) -> Standing:
    async with open_rotation(config, next_may_be_missing=True) as rotation:
        return await rotation.standing()
