"""`identity-server account`: what is stored about a Matrix ID."""

from __future__ import annotations

import click

from identity_server.commands.account_erase import erase
from identity_server.commands.account_export import export


@click.group()
def account() -> None:
    """Look after what is stored about a Matrix ID."""


account.add_command(export)
account.add_command(erase)
