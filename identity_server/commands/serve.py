"""`identity-server serve`."""

from __future__ import annotations

from pathlib import Path

import click
import uvloop

from identity_server.app import key_sources
from identity_server.commands.context import conf_option, set_up, told_in_words
from identity_server.config import Config
from identity_server.server import serve as run_server


@click.command()
@conf_option
def serve(conf: Path | None) -> None:
    """Run the server until it is told to stop."""
    config = set_up(conf)
    if config.email.transport == "console":
        click.echo(_welcome(config))
    with told_in_words():
        uvloop.run(run_server(config))


def _welcome(config: Config) -> str:
    """For someone who is trying the server out: where everything is, and what to do next."""
    sources = key_sources(config)
    base = config.public_base_url
    database = config.db.url or config.db.file.resolve()
    return f"""
  Matrix identity server {config.general.server_name}

    API        {base}/_matrix/identity/v2
    database   {database}
    keys       {sources.directory.resolve()}  (keep a copy apart from the database's)
    mails      are printed here, in this terminal; nothing is sent

  Try in another terminal:
    curl {base}/_matrix/identity/versions
    curl {base}/_matrix/identity/v2/terms
    make demo      tells the whole story, with a sample homeserver

  Next: docs/configuration.md, and a sydent.conf from sydent.conf.example.
  Stop with Ctrl-C.
"""
