"""What an upgrade of a SQLite file needs besides its migrations: to be the only one, and a copy of what was there before.

The rule: whatever is called a copy is whole, on the disk, and of the schema that it is named after, whenever the process or
the machine ends. What isn't yet has another name.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from identity_server.storage.engines.opening import make_private_file
from identity_server.storage.engines.outside import outside_transactions
from identity_server.storage.engines.sqlite import BUSY_SECONDS, is_busy, is_damaged, is_out_of_order

_PATIENCE_SECONDS: Final = 1800.0
_POLL_SECONDS: Final = 0.1
_UNFINISHED: Final = ".unfinished"


class StillUpgrading(Exception):
    """Another process has been upgrading a file for so long that nobody waits for it any more."""


@asynccontextmanager
async def alone_with(file: Path) -> AsyncIterator[None]:
    """Be the only process that upgrades a file, for as long as the block runs; whoever comes later waits.

    SQLite's own lock isn't enough: it can't be held while the file is copied, and is waited for for some seconds only.

    Raises:
        StillUpgrading: another one took longer than half an hour.
    """
    # The folder's lock, because a file for it would lie about for ever, and to close the database itself would give back
    # the locks that SQLite has on it.
    folder = _open_folder_of(file)
    try:
        await _lock(folder)
        yield
    finally:
        os.close(folder)


async def _lock(descriptor: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StillUpgrading from None
            await asyncio.sleep(_POLL_SECONDS)
        except OSError:
            # A file system without such locks. SQLite's own still lets only one of them migrate.
            return
        else:
            return


async def copy_aside(engine: AsyncEngine, *, revision: str, now_ms: int) -> Path:
    """Copy a file, which nobody else may be upgrading, to a name beside it; returns that.

    Raises:
        CannotWrite: the copy can't be made there.
        DBAPIError: the file is in use, or the disk is full or fails. There is no copy then.
    """
    file = Path(engine.url.database or "")
    # Not longer in one piece, or the log would take the name for a secret.
    copy = file.with_name(f"{file.name}.before-upgrade-{revision}.{now_ms}")
    unfinished = copy.with_name(copy.name + _UNFINISHED)
    await asyncio.to_thread(_remove_unfinished, file)
    # Private before anything is in it; VACUUM takes an empty file for none.
    await asyncio.to_thread(make_private_file, unfinished)
    try:
        async with outside_transactions(engine) as connection:
            await connection.execute(text("VACUUM INTO :copy"), {"copy": str(unfinished)})
    except DBAPIError:
        await asyncio.to_thread(_remove_unfinished, file)
        raise
    await asyncio.to_thread(_finish, unfinished, copy)
    return copy


def what_to_do_about_file(error: DBAPIError) -> str | None:
    """What an operator can do about an error of SQLite's; None if it isn't for them."""
    if is_busy(error.orig):
        return (
            f"somebody else has kept the database locked for {BUSY_SECONDS:.0f} seconds: nothing was changed. Look for a server"
            " that still runs, a backup, or an open sqlite3, and try again"
        )
    if is_damaged(error.orig):
        return (
            f"db.file names no database of SQLite's, or a damaged one ({error.orig}): nothing was changed. Restore a copy, and"
            " keep the damaged file until that is done"
        )
    if is_out_of_order(error.orig):
        name = getattr(error.orig, "sqlite_errorname", "")
        return (
            f"the database, or a copy of it beside it, can't be written ({name}): nothing was changed. Look for room on the disk,"
            " as much as the database has, and for who may write there"
        )
    return None


def _remove_unfinished(file: Path) -> None:
    """Remove what was left by whoever was ended while copying; nobody else is."""
    for left in file.absolute().parent.glob(f"{file.name}.before-upgrade-*{_UNFINISHED}*"):
        left.unlink()


def _open_folder_of(file: Path) -> int:
    return os.open(file.absolute().parent, os.O_RDONLY)


def _finish(unfinished: Path, copy: Path) -> None:
    _sync(os.open(unfinished, os.O_RDONLY))
    unfinished.rename(copy)
    _sync(_open_folder_of(copy))


def _sync(descriptor: int) -> None:
    """Have a file, or the names in a folder, on the disk; closes it."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
