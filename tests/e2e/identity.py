"""The identity server as an operator runs it: the real command, a conf file, TLS, its own folders.

The one rule: tests talk to it over the network and by signals only; its files are read, never written.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.certificates import Authority
from tests.e2e.processes import PATIENCE_SECONDS, Program
from tests.e2e.web import Web
from tests.support.leaks import Ledger, dump, everything_in

REPOSITORY = Path(__file__).parents[2]


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
        self.begin()
        self.wait_until_ready()

    def begin(self) -> None:
        """Start it, without waiting."""
        self.program.start()

    def wait_until_ready(self) -> None:
        """Wait until it answers."""
        versions = f"{self.url}/_matrix/identity/versions"
        self.program.wait_until(lambda: self._web.answers(versions))

    def run(self, *arguments: str) -> str:
        """Run one of the other commands on its conf, as an operator beside it does, and return what it prints."""
        command = [sys.executable, "-m", "identity_server", *arguments, "-c", str(self.place.conf)]
        done = subprocess.run(
            command,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
            cwd=self.place.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kept(self) -> dict[str, bytes]:
        """Everything that it has kept of anybody, by where: its rows, its files, its log."""
        return {
            "dump": dump(self.place.database),
            "files": everything_in(self.place.data),
            "log": self.program.log.read_bytes(),
        }

    def leaks(self, ledger: Ledger) -> dict[str, set[str]]:
        """What can be found there that must not be, by where."""
        return {place: found for place, content in self.kept().items() if (found := ledger.find_in(content))}

    def restart(self) -> None:
        """End it as an operator does (SIGTERM), which must go well, and start it again."""
        status = self.program.stop()
        # Even if it ended badly: the next story needs a server.
        self.start()
        assert status == 0, f"the identity server ended with {status}\n{self.program.tail()}"


def plain_conf(
    place: Place, *, authority: Authority, smtp_port: int, nameservers: str = "", general: str = "", sms: str = ""
) -> str:
    """A conf as somebody writes it who starts anew: TLS of its own, and the terms that the repository ships.

    Args:
        place: where the server lives; its listener is on localhost.
        authority: vouches for it and for homeservers.
        smtp_port: where the relay listens, on loopback.
        nameservers: for `federation.nameservers`.
        general: further lines of the section `[general]`.
        sms: the lines of the section `[sms]`.
    """
    name = place.listener.removeprefix("https://")
    return f"""
[general]
# Homeservers and people call it by the same name, port included.
server.name = {name}
log.level = DEBUG
pidfile.path = {place.folder}/identity.pid
terms.path = {REPOSITORY}/terms
ip.whitelist = 127.0.0.0/8,::1/128
{general}

[db]
db.file = {place.database}

[http]
clientapi.http.bind_address = 127.0.0.1
clientapi.http.port = {name.rpartition(":")[2]}
clientapi.https.certfile = {authority.localhost.chain}
clientapi.https.keyfile = {authority.localhost.key}
client_http_base = {place.listener}
federation.ca_file = {authority.file}
federation.nameservers = {nameservers}

[email]
email.from = Identity <noreply@example.org>
email.smtphost = 127.0.0.1
email.smtpport = {smtp_port}
email.tlsmode = 0
# Tests count the mails that they are about.
email.notices = false

[sms]
{sms}

[crypto]
key_dir = {place.keys}
"""
