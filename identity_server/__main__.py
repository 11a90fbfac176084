"""The command line: `identity-server`, or `python -m identity_server`."""

from __future__ import annotations

import gc
import importlib

import click

from identity_server import __version__

# Loaded when asked for: `serve` should not wait for what only the demo needs.
_COMMANDS = {
    "serve": "identity_server.commands.serve:serve",
    "health": "identity_server.commands.health:health",
    "doctor": "identity_server.commands.doctor:doctor",
    "account": "identity_server.commands.account:account",
    "association": "identity_server.commands.association:association",
    "homeserver": "identity_server.commands.homeserver:homeserver",
    "audit": "identity_server.commands.audit:audit",
    "check-config": "identity_server.commands.check_config:check_config",
    "db": "identity_server.commands.database:db",
    "retention": "identity_server.commands.retention:retention",
    "invites": "identity_server.commands.invites:invites",
    "keys": "identity_server.commands.keys:keys",
    "jobs": "identity_server.commands.jobs:jobs",
    "pepper": "identity_server.commands.pepper:pepper",
    "import-sydent": "identity_server.commands.import_sydent:import_sydent",
    "export-sydent": "identity_server.commands.export_sydent:export_sydent",
    "demo": "identity_server.commands.demo:demo",
}


_OBJECTS_BETWEEN_COLLECTIONS = 20_000


class _Commands(click.Group):
    """Commands by name, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        # Modules are made of hundreds of thousands of objects and hardly any garbage: it is looked for less often.
        usual = gc.get_threshold()
        gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
        command = getattr(importlib.import_module(module), name)
        gc.set_threshold(*usual)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="identity-server")
def main() -> None:
    """A Matrix identity server that keeps personal data to itself."""


if __name__ == "__main__":
    main(prog_name="identity-server")
