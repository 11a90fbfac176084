"""The servers that are compared: each in a process of its own, on a copy of the data, with everything on.

The rule: what one has to do the other has to do: accounts, terms, metrics, a log at INFO in a file, a relay for mails,
homeservers to tell. Where a limit would be measured instead of the server, the configuration lifts it in both.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Protocol

from bench import world
from bench.databases import REPOSITORY, SYDENT_PYTHON, help_planner
from bench.requests import V2
from bench.results import BARE, HELPED, INSTALLED, OURS, TWO_WORKERS
from tests.e2e.processes import Program, ProgramFailed, reserve_port

_READY_SECONDS = 900
_STOP_SECONDS = 30
_MANY = 1_000_000
_MANY_ADDRESSES = 10**9


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, in bytes; PSS divides what several share among them, USS leaves it out."""

    pid: int
    rss: int
    pss: int
    uss: int


@dataclass(slots=True)
class Server:
    """One of those compared.

    Attributes:
        name: in tables.
        folder: its copy of the data, its configuration and its log.
        ready_path: answers 200 once requests are taken.
        database: its database; None if it has none.
        workers: how many processes are to take requests.
    """

    name: str
    folder: Path
    port: int
    ready_path: str
    command: Sequence[str | Path]
    env: Mapping[str, str]
    database: Path | None = None
    workers: int = 1
    _program: Program | None = field(default=None, init=False)

    async def start(self) -> float:
        """Start it; returns the seconds until it was ready."""
        program = Program(
            self.name, self.command, log=self.folder / "output.log", home=self.folder, env=dict(self.env)
        )
        self._program = program
        started = time.monotonic()
        program.start()
        await asyncio.to_thread(program.wait_until, self._is_ready, seconds=_READY_SECONDS)
        return time.monotonic() - started

    def _is_ready(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=_READY_SECONDS)
        try:
            connection.request("GET", self.ready_path)
            return connection.getresponse().status == HTTPStatus.OK and self._are_all_there()
        except OSError:
            return False
        finally:
            connection.close()

    def _are_all_there(self) -> bool:
        # The first worker takes requests before the others are started, and only the log tells of these.
        return self.workers == 1 or (self.folder / "server.log").read_text().count("worker.ready") >= self.workers

    def stop(self) -> bool:
        """Ask it to end, and wait; whether it did so in time. It is gone in any case."""
        try:
            if self._program is not None:
                self._program.stop(seconds=_STOP_SECONDS)
        except ProgramFailed:
            return False
        finally:
            self._program = None
        return True

    def kill(self) -> None:
        """End it now."""
        if self._program is not None:
            self._program.kill()
            self._program = None

    @property
    def pids(self) -> list[int]:
        """Its processes, the first of them first."""
        assert self._program is not None, f"{self.name} is not running"
        return _session(self._program.pid)

    def cpu_seconds(self) -> float:
        """The processor time that its processes have taken so far."""
        ticks = 0
        for pid in self.pids:
            fields = _stat(pid)
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> list[Memory]:
        """What each of its processes takes."""
        return [_memory(pid) for pid in self.pids]


class Make(Protocol):
    """Makes a server of one kind, on a copy of the data."""

    def __call__(self, data: Path, folder: Path, *, smtp_port: int) -> Server: ...


def ours(data: Path, folder: Path, *, smtp_port: int, workers: int = 1) -> Server:
    """This server, as its operator would run it on SQLite."""
    folder.mkdir(parents=True)
    shutil.copy(data / "identity.db", folder / "identity.db")
    shutil.copytree(data / "keys", folder / "keys")
    port = reserve_port()
    conf = _conf(folder, port, smtp_port, database="identity.db", templates="")
    return Server(
        OURS if workers == 1 else TWO_WORKERS,
        folder,
        port,
        "/ready",
        [sys.executable, "-m", "identity_server", "serve", "-c", conf],
        {
            "PYTHONPATH": str(REPOSITORY),
            "IDENTITY_SERVER__CRYPTO__KEY_DIR": str(folder / "keys"),
            "IDENTITY_SERVER__EMAIL__EMAIL_RATELIMIT_ADDRESS_PER_DAY": str(_MANY),
            "IDENTITY_SERVER__EMAIL__EMAIL_RATELIMIT_ADDRESS_PER_ACCOUNT_AND_DAY": str(_MANY),
            **({} if workers == 1 else {"IDENTITY_SERVER__HTTP__WORKERS": str(workers)}),
        },
        database=folder / "identity.db",
        workers=workers,
    )


def sydent(data: Path, folder: Path, *, smtp_port: int, helped: bool = True, keep_pepper: bool = True) -> Server:
    """The real Sydent 2.6.1.

    Args:
        data: of one size, as `databases.prepared` makes it.
        folder: where it is to live.
        smtp_port: of the relay.
        helped: whether its query planner is made to use the index of hashes.
        keep_pepper: without one it makes one at the start, and hashes everything anew.
    """
    folder.mkdir(parents=True)
    shutil.copy(data / "sydent.db", folder / "sydent.db")
    if helped:
        help_planner(folder / "sydent.db")
    if not keep_pepper:
        _forget_pepper(folder / "sydent.db")
    _write_templates(folder / "res" / "matrix-org")
    port = reserve_port()
    conf = _conf(folder, port, smtp_port, database="sydent.db", templates=str(folder / "res"))
    return Server(
        HELPED if helped else INSTALLED,
        folder,
        port,
        V2,
        [SYDENT_PYTHON, "-m", "sydent.sydent"],
        {"SYDENT_CONF": str(conf)},
        database=folder / "sydent.db",
    )


def bare(data: Path, folder: Path, *, smtp_port: int) -> Server:  # noqa: ARG001 - it has no data and sends no mail
    """An aiohttp handler that only parses and answers."""
    folder.mkdir(parents=True)
    port = reserve_port()
    command = [sys.executable, "-m", "bench.bare", str(port)]
    return Server(BARE, folder, port, V2, command, {"PYTHONPATH": str(REPOSITORY)})


def _conf(folder: Path, port: int, smtp_port: int, *, database: str, templates: str) -> Path:
    """What both are given.

    Budgets are kept as always, and are large enough for load generators.

    The rate of the limit on mails stays small and only its burst is raised: Sydent wakes up as often as that rate.
    """
    (folder / "terms.yaml").write_text(world.TERMS)
    conf = folder / "sydent.conf"
    conf.write_text(f"""[general]
server.name = {world.SERVER_NAME}
log.path = {folder}/server.log
log.level = INFO
pidfile.path =
terms.path = {folder}/terms.yaml
templates.path = {templates}
prometheus_addr = 127.0.0.1
prometheus_port = {reserve_port()}
enable_v1_access = false
enable_v1_associations = false
ip.whitelist = 127.0.0.0/8
[db]
db.file = {folder / database}
[http]
clientapi.http.bind_address = 127.0.0.1
clientapi.http.port = {port}
client_http_base = http://127.0.0.1:{port}
federation.verifycerts = False
[email]
email.from = Identity server <noreply@{world.SERVER_NAME}>
email.smtphost = 127.0.0.1
email.smtpport = {smtp_port}
email.hostname = {world.SERVER_NAME}
email.ratelimit_sender.burst = {_MANY}
email.ratelimit_sender.rate_hz = 0.01
[crypto]
ed25519.signingkey = {world.SIGNING_KEY}
[lookup]
budget.account = {_MANY_ADDRESSES}
budget.homeserver_per_day = {_MANY_ADDRESSES}
budget.network_per_day = {_MANY_ADDRESSES}
""")
    return conf


def _forget_pepper(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM hashing_metadata")


def _write_templates(brand: Path) -> None:
    """Short ones: the package on PyPI comes without Sydent's own."""
    head = "Message-ID: {{ messageid }}\nDate: {{ date }}\nFrom: {{ from }}\nTo: {{ to }}\nMIME-Version: 1.0\n"
    plain = "Content-Type: text/plain; charset=UTF-8\n\n"
    brand.mkdir(parents=True)
    (brand / "verification_template.eml.j2").write_text(
        f"{head}Subject: Confirm your address\n{plain}To confirm it, follow {{{{ link }}}}\n"
    )
    (brand / "invite_template.eml.j2").write_text(
        f"{head}Subject: {{{{ subject_header_value|safe }}}}\n{plain}{{{{ sender }}}} invites you: {{{{ web_client_location }}}}"
        "/#/room/{{ room_id }}?token={{ token }}&private_key={{ ephemeral_private_key }}\n"
    )
    (brand / "verify_response_template.html").write_text("<p>%(message)s</p>\n")


# --- what the system says about processes, and all of them ---------------------------------------------------


def busy_seconds() -> float:
    """The processor time that the machine has spent on anybody so far, or that its host took away."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _session(leader: int) -> list[int]:
    """The processes of a session; each server has one of its own."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                if int(_stat(int(each.name))[3]) == leader:
                    found.append(int(each.name))
            except OSError:
                continue
    return sorted(found)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _memory(pid: int) -> Memory:
    sizes = {"Rss": 0, "Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        if name in sizes:
            sizes[name] = int(rest.split()[0]) * 1024
    return Memory(pid, sizes["Rss"], sizes["Pss"], sizes["Private_Clean"] + sizes["Private_Dirty"])
