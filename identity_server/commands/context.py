"""What commands share: the configuration, logging, and errors told in words instead of tracebacks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, TypeVar

import click

from identity_server.config import Config, ConfigError, load
from identity_server.observability import set_up_logging
from identity_server.server import CannotListen, StartFailed

Desk = TypeVar("Desk")
T = TypeVar("T")

conf_option = click.option(
    "-c",
    "--conf",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration file. Default: $SYDENT_CONF, else ./sydent.conf, else defaults with data in ./data.",
)


def load_config(conf: Path | None, *, strict: bool = False) -> Config:
    """Read the configuration, or end the program with everything that is wrong."""
    try:
        return load(conf, environ=os.environ, strict=strict)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        raise SystemExit(2) from None


def set_up(conf: Path | None, *, rotates_log: bool = False, makes_database: bool = False) -> Config:
    """Read the configuration and start logging as it says; its warnings are the first thing logged.

    Args:
        conf: the file that was named.
        rotates_log: whether this process begins a new log file each midnight; only one may do that.
        makes_database: whether there needn't be a database yet. To the other commands a missing one means that this isn't
            the server's configuration: what they would say of a new one ("nothing is held") would be untrue.
    """
    config = load_config(conf)
    if not makes_database and config.db.url is None and not config.db.file.exists():
        missing = f"there is no database {config.db.file.absolute()}"
        _end((f"{missing}: name the server's configuration by -c FILE, or start the server once",))
    # Logs, copies, pid file: nothing of it is anybody else's business.
    os.umask(0o077)
    general = config.general
    set_up_logging(level=general.log_level, form=general.log_format, path=general.log_path, rotates=rotates_log)
    for warning in config.warnings:
        click.echo(f"warning: {warning}", err=True)
    return config


def at_the_desk(
    conf: Path | None,
    open_desk: Callable[[Config], AbstractAsyncContextManager[Desk]],
    task: Callable[[Desk], Awaitable[T]],
) -> T:
    """Have something done by what a function of wiring/desks.py opens, and end the program in words if that can't be.

    Args:
        conf: the file that was named.
        open_desk: opens it.
        task: does what is wanted.
    """
    config = set_up(conf)

    async def work() -> T:
        async with open_desk(config) as desk:
            return await task(desk)

    with told_in_words():
        return asyncio.run(work())


@contextmanager
def told_in_words() -> Iterator[None]:
    """End the program with a sentence where the operator can put things right.

    Everything else is a fault of ours and shows its traceback.
    """
    try:
        yield
    except StartFailed as error:
        _end(error.problems)
    except CannotListen as error:
        _end((str(error),))
    except Exception as error:
        # It knows every part's errors, and with them all the parts: `health` and the parent of `serve` do without.
        from identity_server.wiring.problems import problems_of  # noqa: PLC0415

        problems = problems_of(error)
        if not problems:
            raise
        _end(problems)


def _end(problems: tuple[str, ...]) -> NoReturn:
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    raise SystemExit(1) from None


def time_of(ms: int) -> str:
    """A moment (milliseconds since 1970) for people and programs, in UTC."""
    try:
        return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        # Not a time that this server has written.
        return f"{ms} ms"
