"""`identity-server account erase`: everything about a Matrix ID is removed."""

from __future__ import annotations

from typing import Any

import click

from identity_server.commands.erasing import Manner, carry_out, manner_options
from identity_server.commands.subjects import read_user_id
from identity_server.config import Config
from identity_server.services.erasure.removal import Erased, Erasure


@click.command()
@click.argument("user_id", metavar="@USER:SERVER|-", type=str)
@manner_options
def erase(user_id: str, **manner: Any) -> None:
    """Erase everything about a Matrix ID and the addresses that are bound to it; `-` reads it from standard input.

    Its account with tokens and accepted terms, bindings, validations, the invites that it sent or that its addresses
    got, visits to the privacy page, what waits to be delivered, limits. A running server knows nothing of it from then
    on. Nobody is told.
    """
    whom = read_user_id(user_id)

    async def task(erasure: Erasure, _: Config, *, dry_run: bool) -> Erased:
        return await erasure.erase_account(whom, dry_run=dry_run)

    carry_out(task, Manner(**manner))
