"""Thousands of connections that want nothing but to be there, and somebody among them who has a request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.fire.load import Load
from tests.fire.stage import Stage
from tests.processes.conftest import children_of

_STEP_SECONDS = 0.1
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Attack:
    """What each connection of a crowd does.

    Attributes:
        name: for people.
        begins: what it sends at once.
        drips: what it sends then, again and again; nothing if that is empty.
        reads: whether it takes what it is answered.
        may_take: how many bytes of the server's memory each may take. Half as much is what was measured.
    """

    name: str
    begins: bytes = b""
    drips: bytes = b""
    reads: bool = True
    may_take: int = 64 * 1024


class Crowd:
    """Connections of one attack. Whoever is thrown out comes again, if `stays`.

    Attributes:
        lost: how many were thrown out, or given an answer and let go.
        stays: whether they come again.
    """

    def __init__(self, stage: Stage, attack: Attack, size: int) -> None:
        self._address = ("127.0.0.1", int(stage.server.base.rpartition(":")[2]))
        self._attack = attack
        self._size = size
        self._sockets: set[socket.socket] = set()
        self._over = threading.Event()
        self.lost = 0
        self.stays = True

    @contextlib.asynccontextmanager
    async def gathered(self) -> AsyncIterator[Crowd]:
        """Be there for as long as the block runs; in a thread, as others in this process have to be served."""
        going_on = asyncio.create_task(asyncio.to_thread(self._go_on))
        try:
            yield self
        finally:
            self._over.set()
            await going_on
            for each in self._sockets:
                each.close()

    @property
    def here(self) -> int:
        """How many have a connection, for all they know."""
        return len(self._sockets)

    def _go_on(self) -> None:
        while not self._over.is_set():
            missing = self._size - self.here if self.stays else 0
            for _ in range(min(missing, _AT_ONCE)):
                self._come()
            for each in tuple(self._sockets):
                if not self._goes_on(each):
                    each.close()
                    self._sockets.discard(each)
                    self.lost += 1
            self._over.wait(_STEP_SECONDS)

    def _come(self) -> None:
        each = socket.socket()
        if not self._attack.reads:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        each.settimeout(1)
        try:
            each.connect(self._address)
            each.setblocking(False)
            each.send(self._attack.begins)
        except OSError:
            each.close()
            self.lost += 1
            return
        self._sockets.add(each)

    def _goes_on(self, each: socket.socket) -> bool:
        """Send the next drip; False if the connection has come to its end."""
        try:
            if self._attack.reads:
                # Whatever is answered is the end of it: nobody keeps a connection for what was no request.
                return self._is_open(each) and (not self._attack.drips or each.send(self._attack.drips) > 0)
            return not _is_reset(each)
        except BlockingIOError:
            return True
        except OSError:
            return False

    @staticmethod
    def _is_open(each: socket.socket) -> bool:
        with contextlib.suppress(BlockingIOError):
            while data := each.recv(4096):
                del data
            return False
        return True


def _is_reset(each: socket.socket) -> bool:
    """Whether the other side has given it up, of a connection that reads nothing."""
    return each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0 or each.getsockopt(
        socket.IPPROTO_TCP, socket.TCP_INFO, 1
    ) not in {b"\x01", b"\x08"}


@dataclass
class Bystander:
    """Somebody with honest requests, one after the other, each on a connection of its own.

    Attributes:
        seconds: what each took.
    """

    load: Load
    stage: Stage
    seconds: list[float] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[Bystander]:
        """Ask for as long as the block runs; every answer has to be the right one."""
        task = asyncio.create_task(self._ask())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _ask(self) -> None:
        number = 0
        while True:
            number += 1
            begun = time.monotonic()
            # Its homeserver has to be asked, and the database written to.
            openid = self.stage.homeserver.openid(f"bystander{number}")
            status, content = await self.load.ask("POST", "account/register", network=number << 8, json=openid)
            assert status == 200, content
            self.seconds.append(time.monotonic() - begun)
            await asyncio.sleep(0.05)

    @property
    def p99(self) -> float:
        """What one in a hundred took longer than, in seconds."""
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


@dataclass(frozen=True, slots=True)
class Used:
    """What the workers of a server have of the machine.

    Attributes:
        files: how many each has open, the most of any.
        memory: of all of them, in bytes.
    """

    files: int
    memory: int

    @classmethod
    def by(cls, stage: Stage) -> Used:
        """What they have now."""
        workers = list(_workers(stage))
        return cls(max(map(_files, workers)), sum(map(_resident, workers)))


def _workers(stage: Stage) -> Iterator[int]:
    yield from children_of(stage.server.program.pid)


def _files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
