"""`identity-server homeserver`: what is stored about the users of a homeserver."""

from __future__ import annotations

from typing import Any

import click

from identity_server.commands.erasing import Manner, carry_out, manner_options
from identity_server.commands.subjects import read_server_name
from identity_server.config import Config
from identity_server.services.erasure.removal import Erased, Erasure
from identity_server.wiring.settings import homeserver_policy


@click.group()
def homeserver() -> None:
    """Look after what is stored about the users of a homeserver."""


@homeserver.command()
@click.argument("name", type=str, required=False)
@click.option(
    "--not-allowed",
    is_flag=True,
    help="Everything about the users of all homeservers that `homeserver_allow_list` and `homeserver_deny_list` don't "
    "let use this server, and the bindings of those that the lists for binding leave out.",
)
@manner_options
def erase(name: str | None, *, not_allowed: bool, **manner: Any) -> None:
    """Erase everything about the users of the homeserver NAME, as `account erase` does for one.

    It is done some users at a time, each in one transaction with all that is theirs. Broken off, it is finished by
    running it again.
    """
    if (name is None) is not not_allowed:
        raise click.UsageError("Say which: NAME, or --not-allowed.")
    server_name = None if name is None else read_server_name(name)

    async def task(erasure: Erasure, config: Config, *, dry_run: bool) -> Erased:
        if server_name is None:
            return await erasure.erase_not_allowed(homeserver_policy(config), dry_run=dry_run)
        return await erasure.erase_homeserver(server_name, dry_run=dry_run)

    carry_out(task, Manner(**manner))
