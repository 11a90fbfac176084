"""`identity-server serve`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from identity_server.commands.context import conf_option, set_up, told_in_words
from identity_server.config import Config, load
from identity_server.server import serve as run_server


@click.command()
@conf_option
def serve(conf: Path | None) -> None:
    """Run the server until it is told to stop."""
    config = set_up(conf, rotates_log=True, makes_database=True)
    is_first_look = config.email.transport == "console"
    with told_in_words():
        run_server(
            config,
            read_again=lambda: load(conf, environ=os.environ),
            ready=lambda: click.echo(_welcome(config)) if is_first_look else None,
        )


def _welcome(config: Config) -> str:
    """For someone who is trying the server out: where everything is, and what to do next."""
    base = config.public_base_url
    # The URL of a database holds its password.
    database = config.db.file.resolve() if config.db.url is None else "PostgreSQL, as db.url says"
    listens = f"{config.http.clientapi_http_bind_address} port {config.http.clientapi_http_port}"
    terms = config.general.terms_path
    return f"""
  Matrix identity server {config.general.server_name}

    API        {base}/_matrix/identity/v2
    listens    on {listens}, for this machine only
    database   {database}
    keys       {config.crypto.key_dir.resolve()}
               (without them the data can't be read: keep a copy of them,
               apart from the copies of the database)
    terms      {"none" if terms is None else f"{terms.resolve()}  (everyone must accept these)"}
    mails      are shown in this terminal; none is sent

  Try in another terminal:
    curl -w '\\n' {base}/_matrix/identity/versions
    curl -w '\\n' {base}/_matrix/identity/v2/terms
    make demo
               tells the whole story, from registering to being found by e-mail,
               with a server and a sample homeserver of its own

  For a server of your own: docs/operating.md.
  Stop this one with Ctrl-C.
"""
