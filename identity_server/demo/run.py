"""Runs the demo from its first line to its exit code.

The one rule: whatever happens ends in words and an exit code, and leaves nothing on the disk.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from rich.console import Console

from identity_server.demo.client import Unexpected
from identity_server.demo.narrator import Narrator
from identity_server.demo.stage import Place, Stage, set_stage
from identity_server.demo.story import Story
from identity_server.observability import redact_text, set_up_logging

_log = structlog.get_logger(__name__)

_LOG_LINES = 20
_FAILED = 1
_INTERRUPTED = 130


def run() -> int:
    """Tell the story on standard output; returns the exit code: 0 if all of it came out as told."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that can't show a character gets a question mark instead of the end of the story.
        sys.stdout.reconfigure(errors="replace")
    narrator = Narrator(Console(highlight=False, emoji=False))
    try:
        with tempfile.TemporaryDirectory(prefix="identity-server-demo-") as directory:
            place = Place(Path(directory))
            set_up_logging(level="DEBUG", form="console", path=place.log)
            return perform(place, narrator, tell=_tell_story)
    except KeyboardInterrupt:
        return _INTERRUPTED


def perform(place: Place, narrator: Narrator, *, tell: Callable[[Stage, Narrator], Awaitable[None]]) -> int:
    """Set the stage, tell a story on it, and say how it ended; returns the exit code."""
    try:
        asyncio.run(_perform(place, narrator, tell))
    except Unexpected as error:
        narrator.stopped(str(error), log=_end_of(place.log))
        return _FAILED
    except Exception as error:  # noqa: BLE001 - a newcomer gets a sentence; the traceback is in the log shown below it
        _log.exception("demo.failed")
        reason = f"{type(error).__name__}: {redact_text(str(error))}".splitlines()[0]
        narrator.stopped(f"Something went wrong that has no place in the story. {reason}", log=_end_of(place.log))
        return _FAILED
    return 0


async def _perform(place: Place, narrator: Narrator, tell: Callable[[Stage, Narrator], Awaitable[None]]) -> None:
    started = time.monotonic()
    async with set_stage(place) as stage:
        await tell(stage, narrator)
    narrator.end(seconds=time.monotonic() - started)


async def _tell_story(stage: Stage, narrator: Narrator) -> None:
    await Story(stage, narrator).tell()


def _end_of(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    except OSError:
        return []
