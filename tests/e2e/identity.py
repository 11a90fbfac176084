"""The identity server as an operator runs it: the real command, a conf file, TLS, its own folders.

The one rule: tests talk to it over the network and by signals only; its files are read, never written.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.processes import Program
from tests.e2e.web import Web

REPOSITORY = Path(__file__).parents[2]
_START_SECONDS = 30
# The server promises to drain within 15 s; what it drains here takes no time.
_STOP_SECONDS = 15
_COMMAND_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server has its files and is reached.

    Attributes:
        folder: its home; `data` below it holds the database alone.
        listener: the base URL of its client listener, as it is bound.
    """

    folder: Path
    listener: str

    @property
    def conf(self) -> Path:
        return self.folder / "sydent.conf"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def database(self) -> Path:
        return self.data / "identity.db"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"


class IdentityServer:
    """One server, which can be restarted."""

    def __init__(self, place: Place, conf: str, *, web: Web) -> None:
        self.place = place
        self._web = web
        for folder in (place.data, place.keys):
            folder.mkdir(parents=True, exist_ok=True)
        place.conf.write_text(conf)
        self.program = Program(
            "identity server",
            [sys.executable, "-m", "identity_server", "serve", "-c", place.conf],
            log=place.folder / "identity.log",
            home=place.folder,
            env={"PYTHONPATH": str(REPOSITORY)},
        )

    @property
    def url(self) -> str:
        return self.place.listener

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.program.start()
        versions = f"{self.url}/_matrix/identity/versions"
        self.program.wait_until(lambda: self._web.answers(versions), seconds=_START_SECONDS)

    def run(self, *arguments: str) -> str:
        """Run one of the other commands on its conf, as an operator beside it does, and return what it prints."""
        command = [sys.executable, "-m", "identity_server", *arguments, "-c", str(self.place.conf)]
        done = subprocess.run(
            command,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
            cwd=self.place.folder,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def restart(self) -> None:
        """End it as an operator does (SIGTERM), which must go well, and start it again."""
        status = self.program.stop(seconds=_STOP_SECONDS)
        # Even if it ended badly: the next story needs a server.
        self.start()
        assert status == 0, f"the identity server ended with {status}\n{self.program.tail()}"
