"""The server under fire: the real command in processes of its own, on either engine, among neighbours on loopback."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Literal

from aiohttp import ClientError, ClientSession, ClientTimeout

from tests.e2e.processes import Program, reserve_port
from tests.fire.launcher import ARMED, FIRED, FOLDER, POINTS, PRAGMA
from tests.fire.outside import Homeserver, Relay
from tests.processes.conftest import REPOSITORY, children_of, is_alive
from tests.support.postgresql import PostgresqlServer

Engine = Literal["sqlite", "postgresql"]
Victim = Literal["worker", "server"]
Fate = Literal["worker", "server", "paused"]

_PATIENCE_SECONDS = 240.0
_POLL_SECONDS = 0.02
_ANSWERS_SECONDS = 2.0
_NOTICED_SECONDS = 0.1


class Server:
    """One server with two workers.

    Attributes:
        postgresql: what its database is on; None for SQLite.
        settings: its environment, beside the configuration; counts from the next start.
    """

    def __init__(
        self,
        folder: Path,
        *,
        postgresql: PostgresqlServer | None,
        workers: int,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.postgresql = postgresql
        self.workers = workers
        self.base = f"http://127.0.0.1:{reserve_port()}"
        self.internal = f"http://127.0.0.1:{reserve_port()}"
        self.database = folder / "db" / "identity.db"
        self.conf = folder / "sydent.conf"
        env = {"PYTHONPATH": str(REPOSITORY), FOLDER: str(folder), **(env or {})}
        if postgresql is not None:
            url = postgresql.url("postgres")
            env["IDENTITY_SERVER__DB__DB_URL"] = url.render_as_string(hide_password=False)
            env["IDENTITY_SERVER__DB__DB_AUTO_UPGRADE"] = "true"
        self.env = env
        self.program = Program(
            "identity server",
            [sys.executable, "-m", "tests.fire.launcher", "serve", "-c", self.conf],
            log=folder / "server.log",
            home=folder,
            env=env,
        )

    def configure(self, *, ca_file: Path, relay: Relay, general: str = "", http: str = "") -> None:
        """Write the configuration; `general` and `http` are more lines of these sections."""
        self.conf.write_text(f"""
[general]
server.name = localhost
pidfile.path = {self.folder}/identity.pid
terms.path = {REPOSITORY}/terms
ip.whitelist = 127.77.0.0/16
{general}
[db]
db.file = {self.database}
[crypto]
key_dir = {self.folder}/keys
[http]
clientapi.http.bind_address = 127.0.0.1
clientapi.http.port = {self.base.rpartition(":")[2]}
internalapi.http.bind_address = 127.0.0.1
internalapi.http.port = {self.internal.rpartition(":")[2]}
client_http_base = {self.base}
workers = {self.workers}
federation.ca_file = {ca_file}
# Every story comes from a network of its own, as it says.
trusted_proxies = 127.0.0.1
{http}
[email]
email.from = Identity <noreply@example.org>
email.smtphost = 127.0.0.1
email.smtpport = {relay.port}
email.tlsmode = 0
email.notices = false
""")

    # --- its life ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Start it, and wait until all workers take requests."""
        before = self._ready_lines()
        self.program.start()
        await self.wait_until(lambda: self._ready_lines() >= before + self.workers)

    def kill(self, victim: Victim) -> None:
        """Kill one of its workers, or all its processes at once."""
        if victim == "server":
            self.program.kill()
            return
        worker = min(children_of(self.program.pid))
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it, and wait until the neighbours have noticed; else their ends of its connections would stay open."""
        before = self._workers()
        self.program.kill()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while any(map(is_alive, before)):
                await asyncio.sleep(_POLL_SECONDS)
        await asyncio.sleep(_NOTICED_SECONDS)

    def _workers(self) -> set[int]:
        return children_of(self.program.pid) if self.program.is_running else set()

    def arm(self, point: str, fate: Fate) -> None:
        """Have whoever reaches a point next be killed, alone or with all processes, or be stopped until told to go on."""
        (self.folder / FIRED).unlink(missing_ok=True)
        written = self.folder / "arming"
        written.write_text(f"{point} {fate}")
        written.rename(self.folder / ARMED)

    def disarm(self) -> None:
        """Have nobody killed."""
        (self.folder / ARMED).unlink(missing_ok=True)

    def has_fired(self) -> bool:
        """Whether somebody has reached the point that was armed."""
        return (self.folder / FIRED).exists()

    def set_pragma(self, pragma: str) -> None:
        """Set something on every connection to SQLite, before its next transaction."""
        written = self.folder / "setting"
        written.write_text(pragma)
        written.rename(self.folder / PRAGMA)

    def use_cases(self) -> list[str]:
        """Whose commits were ever seen."""
        points = self.folder / POINTS
        return sorted(set(points.read_text().split())) if points.exists() else []

    async def wait_until(self, is_so: Callable[[], bool], *, seconds: float = _PATIENCE_SECONDS) -> None:
        """Wait until something is so; the server must go on meanwhile."""
        await asyncio.to_thread(self.program.wait_until, is_so, seconds=seconds)

    async def stands_again(self, victim: Victim, *, ready_before: int) -> None:
        """Wait until it is as before a kill, started anew if all of it was killed."""
        if victim == "server":
            self.program.kill()
            await self.start()
        else:
            await self.wait_until(lambda: self._ready_lines() > ready_before)

    def _ready_lines(self) -> int:
        log = self.program.log
        return log.read_bytes().count(b"worker.ready") if log.exists() else 0

    @property
    def ready_count(self) -> int:
        """How many workers have ever been ready."""
        return self._ready_lines()

    def log_lines(self, text: str) -> list[str]:
        """The lines of its log that hold a text."""
        return [line for line in self.program.log.read_text().splitlines() if text in line]

    async def answers_within(self, seconds: float) -> float:
        """Wait until it says that it is ready, and return how long that took.

        Raises:
            AssertionError: it took longer.
        """
        begun = time.monotonic()
        async with ClientSession(timeout=ClientTimeout(total=_ANSWERS_SECONDS)) as session:
            while True:
                with suppress(ClientError, TimeoutError):
                    async with session.get(f"{self.base}/ready") as response:
                        if response.status == 200:
                            return time.monotonic() - begun
                assert time.monotonic() - begun < seconds, f"not ready after {seconds} s\n{self.program.tail()}"
                await asyncio.sleep(_POLL_SECONDS)


class Stage:
    """A server and its neighbours."""

    def __init__(self, server: Server, homeserver: Homeserver, relay: Relay) -> None:
        self.server = server
        self.homeserver = homeserver
        self.relay = relay


@contextmanager
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server that keeps what it says it has committed even if it is stopped at once."""
    server = PostgresqlServer(synchronous_commit="on")
    try:
        yield server
    finally:
        server.remove()


@asynccontextmanager
async def set_up(
    folder: Path,
    engine: Engine,
    *,
    workers: int = 2,
    ca_file: Path | None = None,
    general: str = "",
    http: str = "",
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Stage]:
    """A running server among its neighbours, for as long as the block runs.

    Args:
        folder: where everything of it is.
        engine: of its database.
        workers: how many.
        ca_file: vouches for homeservers, instead of the one that stands beside the server.
        general, http: more lines of these sections.
        env: more of its environment, which counts before the configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        postgresql = stack.enter_context(postgresql_server()) if engine == "postgresql" else None
        homeserver = await stack.enter_async_context(Homeserver(folder).listening())
        relay = await stack.enter_async_context(Relay().listening())
        server = Server(folder, postgresql=postgresql, workers=workers, env=env)
        server.configure(ca_file=ca_file or homeserver.ca_file, relay=relay, general=general, http=http)
        stack.push_async_callback(server.end)
        await server.start()
        yield Stage(server, homeserver, relay)
