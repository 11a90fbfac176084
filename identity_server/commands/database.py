"""`identity-server db`: the schema of the database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from identity_server.commands.context import conf_option, set_up, told_in_words
from identity_server.config import Config
from identity_server.outbound.system import SystemClock
from identity_server.storage.schema import Schema, SchemaStatus
from identity_server.wiring.storage import engine_for


@click.group()
def db() -> None:
    """Look after the schema of the database."""


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


async def _status(config: Config) -> SchemaStatus:
    engine = engine_for(config)
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
