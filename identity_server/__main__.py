"""The command line: `identity-server`, or `python -m identity_server`."""

from __future__ import annotations

import gc
import importlib

import click

from identity_server import __version__

# Loaded when asked for: `serve` should not wait for what only the demo needs, nor a list of commands for any of them.
_COMMANDS = {
    "serve": ("serve:serve", "Run the server until it is told to stop."),
    "health": ("health:health", "Ask the server that this configuration describes whether it is well."),
    "doctor": ("doctor:doctor", "Look a set-up over: what is wrong, why, and what to do."),
    "account": ("account:account", "Look after what is stored about a Matrix ID."),
    "association": (
        "association:association",
        "Look after what is stored about an e-mail address or a phone number.",
    ),
    "homeserver": ("homeserver:homeserver", "Look after what is stored about the users of a homeserver."),
    "audit": ("audit:audit", "Read and verify the journal of bindings, erasures and what operators did."),
    "check-config": (
        "check_config:check_config",
        "Check the configuration, and name what differs from Sydent and whom it concerns.",
    ),
    "db": ("database:db", "Look after the schema of the database."),
    "retention": ("retention:retention", "Print the schedule of retention as a Markdown table."),
    "invites": ("invites:invites", "Look after invites that wait for their address to be bound."),
    "keys": ("keys:keys", "Look after the root key, which everything at rest hangs on."),
    "jobs": ("jobs:jobs", "Look after what waits to be delivered: mails, and notices to homeservers."),
    "pepper": ("pepper:pepper", "Look after the pepper of hashed lookups."),
    "import-sydent": ("import_sydent:import_sydent", "Move the data of Sydent's database DB into this server's."),
    "export-sydent": ("export_sydent:export_sydent", "Write a database that Sydent opens to the new file OUT."),
    "demo": ("demo:demo", "Tell the whole story in the terminal, on a server of its own."),
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
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        # Modules are made of hundreds of thousands of objects and hardly any garbage: it is looked for less often.
        usual = gc.get_threshold()
        gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
        command = getattr(importlib.import_module(f"identity_server.commands.{module}"), name)
        gc.set_threshold(*usual)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in _COMMANDS.items()])


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="identity-server")
def main() -> None:
    """A Matrix identity server that keeps personal data to itself."""


if __name__ == "__main__":
    main(prog_name="identity-server")
