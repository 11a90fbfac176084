"""Where connections come in. Several workers listen on one socket, and none takes what another has time for.

The rule: a connection that no worker has accepted waits in the socket, which belongs to the parent; so it outlives
any of them. One that was accepted stays for as long as there is room for those who come after it.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from identity_server.api.protocol import FIRST_REQUEST_SECONDS, Runner
from identity_server.server.board import TAKES_NONE, Board

_log = structlog.get_logger(__name__)

_AT_ONCE = 16
_UNEVENNESS: Final = 2
"""How many connections more than another worker one may have before it lets that one go first."""

# Whoever is asked to go first may be busy, or hang.
_COURTESY_SECONDS = 0.002
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_SECONDS = 1.0
_ALL_BUSY_SECONDS = 0.05
_SAYS_FULL_SECONDS = 10.0
_FAREWELL_SECONDS = 5.0
_POLL_SECONDS = 0.05


class Load:
    """How many connections this worker has, whatever door they came in by; the other workers see it.

    Args:
        place: of this worker on the board.
    """

    def __init__(self, board: Board, place: int) -> None:
        self._board = board
        self._place = place
        self._doors: list[Door] = []
        self._takes_any = False

    def add(self, door: Door) -> None:
        """Count a door that is opened."""
        self._doors.append(door)
        self._takes_any = True

    def take_no_more(self) -> None:
        """Nobody need let this worker go first any more."""
        self._takes_any = False
        self.tell()

    def tell(self) -> int:
        """Count, and tell the others."""
        count = sum(door.connections for door in self._doors)
        self._board.set_connections(self._place, count if self._takes_any else TAKES_NONE)
        return count

    def room(self) -> int:
        """How many connections this worker may take before it is another one's turn; 0 or less for none."""
        mine = self.tell()
        return self._board.fewest_connections() + _UNEVENNESS + 1 - mine


class Door:
    """Lets connections of one listener in to an application.

    The loop's own servers accept whatever is there as soon as they wake up, so that of two idle workers one may get
    thirty connections and the other one.

    Args:
        runner: set up; it gets the connections.
        load: of this worker.
        most: how many connections may be here at a time. Whoever comes after them takes the place of the one that has
            been idle for the longest.
    """

    def __init__(
        self, runner: Runner, listener: socket.socket, *, tls: ssl.SSLContext | None, load: Load, most: int
    ) -> None:
        self._runner = runner
        self._listener = listener
        self._tls = tls
        self._load = load
        self._most = most
        self._loop = asyncio.get_running_loop()
        # The first ones have waited for the longest: for what TLS begins with.
        self._entering: dict[asyncio.Task[None], None] = {}
        self._ended = 0
        self._says_full_again_at = 0.0
        self._rest: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """How many have come in by this door and are still here."""
        return self._runner.connections + sum(not task.cancelling() for task in self._entering)

    def open(self) -> None:
        """Take connections."""
        self._load.add(self)
        self._listen()

    def shut(self) -> None:
        """Take no more of them; those that are here stay."""
        self._load.take_no_more()
        if self._rest is not None:
            self._rest.cancel()
        self._loop.remove_reader(self._listener)

    async def say_farewell(self) -> None:
        """Take no more connections, and end each that is here by the answer to its next request.

        Connections that ask for nothing are given up after a while.
        """
        self.shut()
        self._runner.answer_each_once_more()
        for _ in range(round(_FAREWELL_SECONDS / _POLL_SECONDS)):
            if not self.connections:
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def close(self) -> None:
        """Take no more connections; those that are idle end now, the others when they are answered."""
        self.shut()
        for task in self._entering:
            task.cancel()
        await asyncio.gather(*self._entering, return_exceptions=True)
        await self._runner.cleanup()

    def _accept_fairly(self) -> None:
        room = self._load.room()
        if room <= 0:
            # Whoever has less to do was woken by this connection, too.
            self._pause(_COURTESY_SECONDS, then=self._accept_after_all)
            return
        for _ in range(min(room, _AT_ONCE)):
            if not self._accept():
                return

    def _accept_after_all(self) -> None:
        """The other one is busy, or hangs: nobody shall wait for it."""
        self._listen()
        self._accept()

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept_fairly)

    def _pause(self, seconds: float, *, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)
        self._rest = self._loop.call_later(seconds, then)

    def end_unread(self) -> None:
        """End the connections whose answers nobody reads; to be called every few seconds."""
        self._runner.end_unread()

    def _accept(self) -> bool:
        """Accept one connection; False if there was none, or no room for it."""
        # One more than there is room for: else one would be ended for the sake of nobody.
        if self.connections > self._most and not self._make_room():
            self._pause(_ALL_BUSY_SECONDS, then=self._listen)
            return False
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            _log.error("connections.exhausted", reason=error.strerror)
            self._pause(_EXHAUSTED_SECONDS, then=self._listen)
            return False
        connection.setblocking(False)  # noqa: FBT003 - its only form
        task = self._loop.create_task(self._enter(connection))
        self._entering[task] = None
        task.add_done_callback(partial(self._entered, connection))
        return True

    def _entered(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        del self._entering[task]
        if task.cancelled():
            # It may not even have begun.
            connection.close()

    def _make_room(self) -> bool:
        """End a connection that asks for nothing; False if there is none, and everybody waits for an answer."""
        if len(self._entering) > self._most // 2:
            first = next((task for task in self._entering if not task.cancelling()), None)
            made = first is not None and first.cancel()
        else:
            made = self._runner.end_idlest()
        self._ended += made
        if self._loop.time() >= self._says_full_again_at:
            _log.warning("connections.full", most=self._most, ended=self._ended)
            self._says_full_again_at = self._loop.time() + _SAYS_FULL_SECONDS
        return made

    async def _enter(self, connection: socket.socket) -> None:
        server = self._runner.server
        assert server is not None
        try:
            await self._loop.connect_accepted_socket(
                server,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else FIRST_REQUEST_SECONDS,
            )
        except (TimeoutError, OSError):
            # Gone already, or it doesn't speak TLS: nobody to answer.
            connection.close()
