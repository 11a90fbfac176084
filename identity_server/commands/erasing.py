"""How the commands that erase ask, carry it out, and tell what was done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from identity_server.commands.context import conf_option, set_up, told_in_words
from identity_server.config import Config
from identity_server.services.erasure.removal import Erased, Erasure
from identity_server.storage.erasure.remains import Cleared
from identity_server.wiring.desks import open_erasure

F = TypeVar("F", bound=Callable[..., Any])
_COPIES = "{}.before-upgrade-*"


class Erase(Protocol):
    """What is to be erased."""

    def __call__(self, erasure: Erasure, config: Config, /, *, dry_run: bool) -> Awaitable[Erased]:
        """Erase it, or only count."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How the operator wants it done.

    Attributes:
        yes: without asking.
        dry_run: without doing it.
        as_json: telling programs rather than people.
    """

    conf: Path | None
    yes: bool
    dry_run: bool
    as_json: bool


def manner_options(command: F) -> F:
    """The options that every command that erases has; they come as one `Manner`, by `Manner(**options)`."""
    for option in (
        click.option(
            "--json", "as_json", is_flag=True, help="Print what was done as JSON. Needs --yes or --dry-run."
        ),
        click.option("--dry-run", is_flag=True, help="Erase nothing; only count what there is, by table."),
        click.option("--yes", is_flag=True, help="Don't ask."),
        conf_option,
    ):
        command = option(command)
    return command


def carry_out(erase: Erase, manner: Manner) -> None:
    """Count, ask, erase, leave nothing in the files, and tell.

    Raises:
        SystemExit: something is left that couldn't be cleared away.
    """
    if manner.as_json and not (manner.yes or manner.dry_run):
        raise click.UsageError("--json asks nothing: say --yes or --dry-run as well")
    config = set_up(manner.conf)
    with told_in_words():
        if manner.dry_run or not manner.yes:
            found = asyncio.run(_count(config, erase))
            if manner.dry_run:
                _tell_count(found, manner)
                return
            _show(found)
            # Also where nothing is found: something may be left in the files of an erasing that was broken off.
            click.confirm("Erase this for good?" if found.total else "Clear the files all the same?", abort=True)
        erased, cleared = asyncio.run(_erase(config, erase))
    _tell(erased, cleared, _copies(config), manner)
    if not cleared.is_complete:
        raise SystemExit(1)


async def _count(config: Config, erase: Erase) -> Erased:
    async with open_erasure(config) as erasure:
        return await erase(erasure, config, dry_run=True)


async def _erase(config: Config, erase: Erase) -> tuple[Erased, Cleared]:
    async with open_erasure(config) as erasure:
        erased = await erase(erasure, config, dry_run=False)
        return erased, await erasure.leave_nothing(erased.traces)


def _copies(config: Config) -> list[Path]:
    """What upgrades have put aside, and nobody erases from."""
    file = config.db.file
    return [] if config.db.url is not None else sorted(file.parent.glob(_COPIES.format(file.name)))


def _tell_count(found: Erased, manner: Manner) -> None:
    if manner.as_json:
        click.echo(json.dumps({"dry_run": True, **_counts(found)}))
    else:
        _show(found)


def _counts(erased: Erased) -> dict[str, Any]:
    return {"rows": dict(erased.rows), "homeservers": dict(erased.homeservers)}


def _show(found: Erased) -> None:
    for server_name, count in sorted(found.homeservers.items()):
        click.echo(f"{count:>8}  {'user' if count == 1 else 'users'} of {server_name}")
    for table, count in sorted(found.rows.items()):
        click.echo(f"{count:>8}  {table}")
    if not found.total:
        click.echo("Nothing is stored about that.")


def _tell(erased: Erased, cleared: Cleared, copies: list[Path], manner: Manner) -> None:
    if manner.as_json:
        report = {
            "dry_run": False,
            **_counts(erased),
            "files_cleared": cleared.is_complete,
            "file_rewritten": cleared.rewrote_file,
            "copies": [str(copy) for copy in copies],
        }
        click.echo(json.dumps(report))
        return
    click.echo(f"Erased: {erased.total} {'row' if erased.total == 1 else 'rows'}.")
    if cleared.is_complete:
        click.echo("The files of the database and of the lookup index are cleared.")
    else:
        click.echo("error: the database was in use all the time, so its log still holds it: run this again", err=True)
    for copy in copies:
        click.echo(f"This copy was made by an upgrade and still holds it: {copy}")
