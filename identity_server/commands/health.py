"""`identity-server health`: for containers and scripts, which want an exit status and no other program for it."""

from __future__ import annotations

import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

import click

from identity_server.commands.context import conf_option, load_config
from identity_server.config import Config

_SECONDS = 4.0
"""Less than what a container's health check waits by itself."""
_OK = 200
_EVERY_ADDRESS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, not bound to
"""What takes IPv4 on every address of the machine, loopback included."""


@click.command()
@conf_option
@click.option("--ready", is_flag=True, help="Ask whether it can serve now: database and index as well.")
def health(conf: Path | None, ready: bool) -> None:  # noqa: FBT001 - click passes flags so
    """Ask the server that this configuration describes whether it is well; the exit status is 0 if it is."""
    connection = _connection(load_config(conf))
    try:
        connection.request("GET", "/ready" if ready else "/health")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        raise click.ClickException(f"no answer: {type(error).__name__}") from None
    finally:
        connection.close()
    if status != _OK:
        raise click.ClickException(f"not well: it answers {status}")
    click.echo("well")


def _connection(config: Config) -> HTTPConnection:
    http = config.http
    address = http.clientapi_http_bind_address
    if address in _EVERY_ADDRESS:
        address = "127.0.0.1"
    if http.clientapi_https_certfile is None:
        return HTTPConnection(address, http.clientapi_http_port, timeout=_SECONDS)
    # The certificate is for the server's public name, and this asks by address.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return HTTPSConnection(address, http.clientapi_http_port, timeout=_SECONDS, context=context)
