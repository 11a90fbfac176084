"""`identity-server db`: the schema of the database, and the database in another place."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from identity_server.commands.context import conf_option, load_config, set_up, told_in_words
from identity_server.config import Config
from identity_server.key_files import KeyProblem, load_keys
from identity_server.outbound.system import SystemClock, SystemRandomness
from identity_server.storage.moving.copying import CopyRefused, copy_database
from identity_server.storage.schema.upgrade import Schema, SchemaStatus
from identity_server.storage.sealing.server_keys import read_key_state
from identity_server.wiring.settings import key_sources
from identity_server.wiring.storage import engine_for


@click.group()
def db() -> None:
    """Look after the schema of the database, or move all of it."""


@db.command()
@conf_option
def status(conf: Path | None) -> None:
    """Compare the schema of the database with what this version expects."""
    config = set_up(conf, makes_database=True)
    with told_in_words():
        found = asyncio.run(_status(config))
    click.echo(f"schema {found.current or 'none yet'}, expected {found.expected}")
    if not found.up_to_date:
        raise SystemExit(1)


@db.command()
@conf_option
def upgrade(conf: Path | None) -> None:
    """Bring the database to the schema that this version expects."""
    config = set_up(conf, makes_database=True)
    with told_in_words():
        found = asyncio.run(_upgrade(config))
    click.echo(f"schema {found.current}")


@db.command()
@conf_option
@click.option(
    "--to",
    "target_conf",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A configuration file, whose [db] section names an empty database.",
)
def copy(conf: Path | None, target_conf: Path) -> None:
    """Copy everything into an empty database: from SQLite to PostgreSQL, or back.

    Stop the servers first. What is sealed stays sealed by the same keys, which the other configuration needs as well.
    """
    config, target = set_up(conf), load_config(target_conf)
    with told_in_words():
        problem = asyncio.run(_copy(config, target))
    if problem is not None:
        click.echo(f"warning: with {target_conf}, a server wouldn't start yet: {problem}", err=True)
    click.echo(f"everything is copied: start the servers with -c {target_conf}")


async def _copy(config: Config, target: Config) -> KeyProblem | None:
    """Copy; returns what is amiss with the keys of the target."""
    source_engine, target_engine = engine_for(config), engine_for(target)
    try:
        if source_engine.url == target_engine.url:
            raise CopyRefused(
                "both configurations name the same database: is db.url or db.file set by a variable of the environment?"
            )
        now_ms = SystemClock().now_ms()
        await copy_database(source_engine, target_engine, now_ms=now_ms, told=_tell)
        state = await read_key_state(target_engine)
        if state.known:
            await asyncio.to_thread(load_keys, key_sources(target), state, randomness=SystemRandomness())
    except KeyProblem as problem:
        return problem
    finally:
        await source_engine.dispose()
        await target_engine.dispose()
    return None


def _tell(table: str, rows: int) -> None:
    click.echo(f"{rows:>10}  {table}")


async def _status(config: Config) -> SchemaStatus:
    engine = engine_for(config, makes_file=False)
    try:
        return await Schema(engine, conf=config.path).status()
    finally:
        await engine.dispose()


async def _upgrade(config: Config) -> SchemaStatus:
    engine = engine_for(config)
    try:
        return await Schema(engine, conf=config.path).upgrade(now_ms=SystemClock().now_ms())
    finally:
        await engine.dispose()
