"""`identity-server jobs`: mails and notices that wait to be delivered."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from identity_server.commands.context import at_the_desk, conf_option
from identity_server.services.outbox.backlog import Backlog
from identity_server.storage.repositories.jobs import Waiting
from identity_server.wiring.desks import open_backlog

_HEADINGS = ("KIND", "FOR", "JOBS", "CLAIMED", "TRIES", "SINCE", "NEXT TRY")


@click.group()
def jobs() -> None:
    """Look after what waits to be delivered: mails, and notices to homeservers."""


@jobs.command("list")
@conf_option
def list_(conf: Path | None) -> None:
    """Count what waits, by kind and by the homeserver that it is for."""
    found, now_ms = at_the_desk(conf, open_backlog, _list)
    if not found:
        click.echo("Nothing waits.")
        return
    rows = [_HEADINGS, *(_row(each, now_ms) for each in found)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@jobs.command()
@conf_option
@click.option(
    "--claimed",
    is_flag=True,
    help="Also what a server seems to be trying right now. Only while no server runs: what it left behind is then "
    "tried at its next start, instead of a minute later.",
)
def retry(conf: Path | None, *, claimed: bool) -> None:
    """Have everything tried now that waits for a later try, for instance after a relay or homeserver was down.

    A running server begins within a second.
    """
    count = at_the_desk(conf, open_backlog, lambda backlog: backlog.retry(claimed_too=claimed))
    click.echo(f"Due now: {count} {'job' if count == 1 else 'jobs'}.")


def _row(waiting: Waiting, now_ms: int) -> tuple[str, ...]:
    due_in_ms = waiting.next_run_at_ms - now_ms
    return (
        waiting.kind,
        waiting.queue or "-",
        str(waiting.total),
        str(waiting.claimed),
        str(waiting.attempts),
        _span(now_ms - waiting.oldest_at_ms),
        f"in {_span(due_in_ms)}" if due_in_ms > 0 else "now",
    )


def _span(milliseconds: int) -> str:
    """A length of time for people: days, hours, minutes and seconds."""
    return str(timedelta(seconds=max(milliseconds, 0) // 1000))


async def _list(backlog: Backlog) -> tuple[list[Waiting], int]:
    return await backlog.list(), backlog.now_ms()
