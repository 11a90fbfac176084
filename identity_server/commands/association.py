"""`identity-server association`: what is stored about an address."""

from __future__ import annotations

from typing import Any

import click

from identity_server.commands.erasing import Manner, carry_out, manner_options
from identity_server.commands.subjects import read_threepid
from identity_server.config import Config
from identity_server.services.erasure.removal import Erased, Erasure


@click.group()
def association() -> None:
    """Look after what is stored about an e-mail address or a phone number."""


@association.command()
@click.argument("address", metavar="ADDRESS|-", type=str)
@click.option(
    "--forget-refusal", is_flag=True, help="Also that its owner wants it never to be bound or invited here."
)
@manner_options
def erase(address: str, *, forget_refusal: bool, **manner: Any) -> None:
    """Erase everything about ADDRESS, an e-mail address or a phone number as +4912345; `-` reads it from standard input.

    Its binding, validations, invites, visits to the privacy page, what waits to be delivered, limits. The account that
    it is bound to stays. Lookups find nobody from then on. Nobody is told.
    """
    threepid = read_threepid(address)

    async def task(erasure: Erasure, _: Config, *, dry_run: bool) -> Erased:
        return await erasure.erase_address(threepid, forgets_refusal=forget_refusal, dry_run=dry_run)

    carry_out(task, Manner(**manner))
