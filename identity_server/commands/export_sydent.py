"""`identity-server export-sydent`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from identity_server.commands.context import conf_option, set_up, told_in_words
from identity_server.config import Config
from identity_server.key_files import find_signing_key
from identity_server.sydent.exporting import CannotExport, Exporter, ExportReport
from identity_server.wiring.desks import open_storage
from identity_server.wiring.settings import key_sources


@click.command("export-sydent")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path, dir_okay=False))
@conf_option
def export_sydent(out: Path, conf: Path | None) -> None:
    """Write a database that Sydent opens to the new file OUT.

    OUT holds every address in clear text, as Sydent needs it: keep it as you would keep the addresses.
    """
    config = set_up(conf)
    with told_in_words():
        try:
            report = asyncio.run(_export(out, config))
        except CannotExport as problem:
            click.echo(f"error: {problem}", err=True)
            raise SystemExit(1) from None
    click.echo(f"{out}: {report.bindings} bindings, {report.accounts} accounts, {report.accepted_urls} accepted")
    click.echo(f"documents, {report.invites} waiting invites, {report.ephemeral_keys} keys of invites.")
    click.echo()
    click.echo("Left out, because only digests of them are kept here: access tokens (apps register anew by")
    click.echo("themselves) and validations that are under way (people ask for another mail).")
    if report.hidden:
        click.echo(
            f"Left out, too: {report.hidden} bindings that not everyone may know of. Sydent would tell everyone."
        )


async def _export(out: Path, config: Config) -> ExportReport:
    async with open_storage(config) as storage:
        signing_key = find_signing_key(key_sources(config))
        assert signing_key is not None, "opening the database has made sure that there is one"
        exporter = Exporter(
            database=storage.database,
            clock=storage.clock,
            randomness=storage.randomness,
            signing_key=signing_key,
        )
        return await exporter.run(out)
