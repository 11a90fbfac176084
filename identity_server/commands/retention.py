"""`identity-server retention`: what is kept, why, how and for how long, as this server is configured."""

from __future__ import annotations

import json
from pathlib import Path

import click

from identity_server.commands.context import conf_option, load_config
from identity_server.domain.retention import retention_schedule
from identity_server.rendering.languages import Languages
from identity_server.rendering.retention import markdown, to_json
from identity_server.wiring.settings import retention_lifetimes


@click.command()
@conf_option
@click.option("--language", default="en", show_default=True, help="en, fr, de or es.")
@click.option("--json", "as_json", is_flag=True, help="For programs, with tables, columns and sweeps.")
def retention(conf: Path | None, language: str, *, as_json: bool) -> None:
    """Print the schedule of retention as a Markdown table, for your records and your privacy policy.

    It is what the page /_matrix/identity/privacy/retention shows, and what says nothing about anybody besides.
    """
    found = Languages.load().find(language)
    if found is None:
        raise click.BadParameter("there is no such language", param_hint="--language")
    schedule = retention_schedule(retention_lifetimes(load_config(conf)))
    if as_json:
        click.echo(json.dumps([to_json(row, found) for row in schedule], ensure_ascii=False, indent=2))
    else:
        click.echo(markdown(schedule, found), nl=False)
