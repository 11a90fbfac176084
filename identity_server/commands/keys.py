"""`identity-server keys`: the root key, which everything at rest hangs on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from identity_server.commands.context import at_the_desk, conf_option, time_of
from identity_server.storage.sealing.key_ring import key_id_of
from identity_server.wiring.desks import open_rotation

_open_without_next = partial(open_rotation, next_may_be_missing=True)


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
    if cancel:
        at_the_desk(conf, _open_without_next, lambda rotation: rotation.cancel())
        click.echo("The next root key is given up; nothing was sealed by it. Its file may be removed.")
    else:
        at_the_desk(conf, open_rotation, lambda rotation: rotation.run(click.echo))


@keys.command()
@conf_option
def status(conf: Path | None) -> None:
    """Show which root key is in use, and whether another one is taking its place."""
    standing = at_the_desk(conf, _open_without_next, lambda rotation: rotation.standing())
    click.echo(f"Sealed by root key {key_id_of(standing.root.fingerprint)}.")
    if standing.next_root is not None:
        click.echo(f"Next: {key_id_of(standing.next_root.fingerprint)}, as soon as every server knows it.")
    if standing.former_root is not None:
        key_id = key_id_of(standing.former_root.fingerprint)
        rows = ", ".join(f"{table} {count}" for table, count in standing.left.items()) or "none"
        click.echo(f"Former: {key_id}, still needed. Rows left to be sealed anew: {rows}.")
    for key_id, retired_at_ms in standing.retired:
        click.echo(f"Replaced: {key_id}, {time_of(retired_at_ms)}. It opens backups from before that time.")
