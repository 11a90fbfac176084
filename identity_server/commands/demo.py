"""`identity-server demo`."""

from __future__ import annotations

import importlib
import importlib.util

import click

_EXTRA = ("aiosmtpd", "rich", "trustme")


@click.command()
def demo() -> None:
    """Tell the whole story in the terminal, on a server of its own that leaves nothing behind."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        click.echo(f"error: the demo needs what the server itself does not: {', '.join(missing)}", err=True)
        click.echo("  In a checkout:  make demo", err=True)
        click.echo("  Elsewhere:      pip install 'matrix-identity-server[demo]'", err=True)
        raise SystemExit(1)
    # Loaded only now: it imports what may be missing.
    raise SystemExit(importlib.import_module("identity_server.demo.run").run())
