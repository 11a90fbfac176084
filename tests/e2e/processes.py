"""Programs that the tests run beside themselves: started, waited for, and always ended.

The one rule: nothing outlives the test that started it, and every wait has a limit: one that a busy machine keeps, for a
test that passes never waits that long.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

PATIENCE_SECONDS: Final = 120.0
"""How long is waited for what must come."""

_POLL_SECONDS = 0.05
_TAIL_LINES = 30


def reserve_port() -> int:
    """A free port on 127.0.0.1, chosen by the kernel for a program that has to be told its port.

    It stays bound, without anybody's listening, for as long as this process lives: the kernel gives it to nobody who asks
    for any port, nor to a connection as its own end, however late the program starts, or starts again. A server that
    names it (with SO_REUSEADDR, as servers do) gets it all the same.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port: int = held.getsockname()[1]
    held.detach()
    return port


class ProgramFailed(AssertionError):
    """A program ended by itself, or did not get ready or end in time. The message ends with its log's tail."""


class Program:
    """A child process in a process group of its own, whose output goes to a file.

    Attributes:
        name: what it is called in messages.
        log: the file that holds all of its output, over restarts.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], *, log: Path, home: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self._command = [str(part) for part in command]
        self._home = home
        # Nothing of the developer's own settings reaches it.
        self._env = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns at once."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._home,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until(self, is_ready: Callable[[], bool], *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until `is_ready()`.

        Raises:
            ProgramFailed: it ended instead, or the time ran out.
        """
        deadline = time.monotonic() + seconds
        while not is_ready():
            if self._running.poll() is not None:
                raise ProgramFailed(f"{self.name} ended with {self._running.returncode}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ProgramFailed(f"{self.name} was not ready after {seconds} s\n{self.tail()}")
            time.sleep(_POLL_SECONDS)

    def stop(self, *, seconds: float = PATIENCE_SECONDS) -> int:
        """Ask it to end (SIGTERM) and return its exit status.

        Raises:
            ProgramFailed: it did not end in time; it has been killed then.
        """
        process = self._running
        process.terminate()
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{self.name} did not end within {seconds} s of SIGTERM\n{self.tail()}") from None
        finally:
            self.kill()

    def wait(self, *, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait until it ends by itself, or is killed by itself, and return its exit status (negative: a signal).

        Raises:
            ProgramFailed: it did not end in time; it has been killed then.
        """
        process = self._running
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{self.name} did not end within {seconds} s\n{self.tail()}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """End it and whatever it started, now."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def tail(self) -> str:
        """The last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-_TAIL_LINES:])

    @property
    def pid(self) -> int:
        """The process that was started; it leads a session of its own."""
        return self._running.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} is not running"
        return self._process
