"""The server as an operator runs it: a parent with workers, spoken to over sockets and by signals."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from sqlite3 import connect
from typing import Any

import pytest

from identity_server.config import load
from identity_server.domain.identifiers import parse_user_id
from identity_server.storage.database import Transaction
from identity_server.storage.sealing.sealer import token_digest
from identity_server.wiring.desks import open_storage
from tests.e2e.processes import PATIENCE_SECONDS, Program, ProgramFailed, reserve_port
from tests.support.leaks import Ledger, everything_in
from tests.support.postgresql import PostgresqlServer

REPOSITORY = Path(__file__).parents[2]
TOKEN = "a-token-of-alice"


class Server:
    """One server on loopback, with as many workers as it is told.

    Attributes:
        ledger: what it is trusted with; nothing of it may be found in its files or its log when the test is over.
        postgresql: what its database is on; None for SQLite. Counts from the next `configure`.
        killed: how many of its workers were killed by `kill_worker`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger()
        self.postgresql: PostgresqlServer | None = None
        self.killed = 0
        self.port = reserve_port()
        self.metrics_port = reserve_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.conf = folder / "sydent.conf"
        self.program = Program(
            "identity server",
            [sys.executable, "-m", "identity_server", "serve", "-c", self.conf],
            log=folder / "server.log",
            home=folder,
            env={"PYTHONPATH": str(REPOSITORY), "NOTIFY_SOCKET": str(folder / "notify")},
        )

    def configure(
        self,
        *,
        workers: int = 2,
        general: str = "",
        http: str = "",
        lookup: str = "",
        port: int | None = None,
        level: str = "DEBUG",
    ) -> None:
        """Write the configuration; `general`, `http` and `lookup` are more lines of these sections."""
        url = self.postgresql.url("postgres").render_as_string(hide_password=False) if self.postgresql else ""
        self.conf.write_text(f"""
[general]
server.name = localhost
log.level = {level}
pidfile.path = {self.folder}/identity.pid
prometheus_addr = 127.0.0.1
prometheus_port = {self.metrics_port}
{general}
[db]
db.file = {self.folder}/db/identity.db
db.url = {url.replace("%", "%%")}
db.auto_upgrade = true
[crypto]
key_dir = {self.folder}/keys
[http]
clientapi.http.bind_address = 127.0.0.1
clientapi.http.port = {port or self.port}
client_http_base = http://localhost
workers = {workers}
{http}
[email]
email.from = Identity <noreply@example.org>
email.notices = false
[lookup]
{lookup}
""")

    def start(self, *, workers: int = 2, http: str = "", lookup: str = "") -> None:
        """Start it, and wait until all workers take requests."""
        self.configure(workers=workers, http=http, lookup=lookup)
        self.program.start()
        self.wait_for(lambda: self.log_holds("serving "))
        self.wait_for(lambda: len(self.ready_workers()) == workers)

    def start_again(self, *, workers: int) -> None:
        """Start it once more, as it was, and wait until all workers take requests."""
        serving = self.log.count("serving ")
        self.program.start()
        self.wait_for(lambda: self.log.count("serving ") > serving)
        self.wait_for(lambda: len(self.ready_workers()) == workers)

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so; the server must go on meanwhile."""
        self.program.wait_until(is_so)

    def stop(self) -> int:
        """End it as an operator does; its exit status."""
        return self.program.stop()

    def signal(self, number: signal.Signals) -> None:
        """Send the parent a signal."""
        os.kill(self.parent, number)

    def kill_worker(self, number: int = 0) -> None:
        """Kill one of the workers that take requests: the oldest, or the one so many after it."""
        ready = sorted(self.ready_workers())
        os.kill(ready[number % len(ready)], signal.SIGKILL)
        self.killed += 1

    def wait_until_replaced(self, *, workers: int) -> None:
        """Wait until the parent has noticed every kill, and so many workers take requests again."""
        # A process that was just killed is still among those that run, for a moment.
        self.wait_for(lambda: self.workers_lost() >= self.killed and len(self.ready_workers()) == workers)

    def workers_lost(self) -> int:
        """How many workers' unexpected ends the log tells of."""
        return self.log.count("worker.lost")

    @property
    def parent(self) -> int:
        return int((self.folder / "identity.pid").read_text())

    @property
    def log(self) -> str:
        """Its lines. Of the one that is just being written, there may be a part in the file."""
        whole, end, _ = self.program.log.read_bytes().rpartition(b"\n")
        return (whole + end).decode()

    def log_holds(self, text: str) -> bool:
        """Whether the log has a line with this text."""
        return self.program.log.exists() and text in self.log

    def workers(self) -> set[int]:
        """The processes that the parent has now."""
        return children_of(self.parent)

    def ready_workers(self) -> set[int]:
        """Those of them that take requests."""
        ready = {int(pid) for pid in re.findall(r"worker\.ready.*?pid=(\d+)", self.log)}
        return ready & self.workers()

    async def add_account(self) -> None:
        """Give Alice an account, whose token is TOKEN."""

        async def use_case(tx: Transaction) -> None:
            alice = parse_user_id("@alice:example.org")
            await tx.accounts.add_if_new(alice, now_ms=_now_ms())
            await tx.access_tokens.add(token_digest(TOKEN), alice, now_ms=_now_ms())

        self.ledger.note("access token", TOKEN)
        async with open_storage(load(self.conf, environ={})) as storage:
            await storage.database.transaction(use_case)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What its database holds, read from outside."""
        if self.postgresql is not None:
            return self.postgresql.fetch(query, database="postgres")
        with closing(connect(self.folder / "db" / "identity.db")) as connection:
            return connection.execute(query).fetchall()

    def leaks(self) -> set[str]:
        """What can be found in its files and its log, keys aside, that must not be."""
        kept = [self.folder / "db", self.program.log, *self.folder.glob("*.log")]
        found = b"\n".join(
            everything_in(path) if path.is_dir() else path.read_bytes() for path in kept if path.exists()
        )
        return self.ledger.find_in(found)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def children_of(pid: int) -> set[int]:
    """The processes that one has started and that have not ended."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text() if entry.name.isdigit() else ""
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        state, parent = stat.rpartition(")")[2].split()[:2] if stat else ("", "0")
        if int(parent) == pid and state != "Z":
            found.add(int(entry.name))
    return found


def opened_by(pid: int) -> list[str]:
    """What the descriptors of a process are open on."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it has been closed meanwhile
            found.append(str(descriptor.readlink()))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(is_so: Callable[[], bool], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for something that is no longer any program's."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise ProgramFailed(f"not so after {seconds} s")
        time.sleep(0.05)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that isn't started yet."""
    server = Server(tmp_path)
    server.configure()
    try:
        yield server
    finally:
        server.program.kill()
    assert server.leaks() == set()
