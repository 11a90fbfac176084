"""`identity-server check-config`."""

from __future__ import annotations

from pathlib import Path

import click

from identity_server.commands.context import conf_option, load_config
from identity_server.config import Config, differences


@click.command()
@conf_option
@click.option("--strict", is_flag=True, help="Unknown keys are errors.")
def check_config(conf: Path | None, strict: bool) -> None:  # noqa: FBT001 - click passes flags so
    """Check the configuration, and name what differs from Sydent and whom it concerns."""
    config = load_config(conf, strict=strict)
    for warning in config.warnings:
        click.echo(f"warning: {warning}")
    tell_differences(config)
    click.echo(f"The configuration is in order ({config.path or 'no file: built-in defaults'}).")


def tell_differences(config: Config) -> None:
    """Name what means something else here than it did to Sydent."""
    concerned = [row for row in differences(config) if row.applies]
    if concerned:
        click.echo("Where this configuration means something else than it did to Sydent:")
    for row in concerned:
        click.echo(f"  [{row.section}] {row.key}")
        if row.kind == "default":
            click.echo(f"      here {row.ours or '(empty)'}; Sydent {row.sydent}")
        click.echo(f"      {row.breaks}")
