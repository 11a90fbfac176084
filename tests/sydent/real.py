"""The real Sydent and our own command line, as an operator has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.processes import PATIENCE_SECONDS, Program, reserve_port
from tests.support.databases import on_postgresql, put_empty, variables_for
from tests.support.postgresql import in_a_thread
from tests.sydent.support import SERVER_NAME, SIGNING_TEXT

REPOSITORY = Path(__file__).parents[2]
_PYTHON = REPOSITORY / ".venv-sydent" / "bin" / "python"


class Sydent:
    """The real Sydent, serving plain HTTP.

    Args:
        conf: its configuration, which has the client API at `port` of 127.0.0.1.
    """

    def __init__(self, conf: Path, *, port: int) -> None:
        assert _PYTHON.exists(), "Sydent isn't installed: run tests/install-needs"
        self.url = f"http://127.0.0.1:{port}/_matrix/identity"
        self.program = Program(
            "Sydent",
            [_PYTHON, "-m", "sydent.sydent"],
            log=conf.with_name("sydent.log"),
            home=conf.parent,
            env={"SYDENT_CONF": str(conf)},
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.program.start()
        self.program.wait_until(lambda: _answers(f"{self.url}/v2"))


class Operator:
    """Someone with a folder, a conf in it, and a Sydent.

    Attributes:
        conf: the configuration of both servers.
        sydent_db: Sydent's database.
        our_db: where ours is to be.
    """

    def __init__(self, folder: Path) -> None:
        assert _PYTHON.exists(), "Sydent isn't installed: run tests/install-needs"
        self.folder = folder
        self.conf = folder / "sydent.conf"
        self.sydent_db = folder / "sydent.db"
        self.our_db = folder / "db" / "identity.db"
        self._port = reserve_port()
        in_a_thread(put_empty(self.our_db))
        (folder / "res" / "matrix-org").mkdir(parents=True, exist_ok=True)
        self.point_at(self.sydent_db)

    def point_at(self, database: Path) -> None:
        """Set db.file, and leave everything else."""
        self.conf.write_text(
            f"""[general]
server.name = {SERVER_NAME}
templates.path = {self.folder}/res
[db]
db.file = {database}
[http]
clientapi.http.bind_address = 127.0.0.1
clientapi.http.port = {self._port}
client_http_base = https://{SERVER_NAME}
[crypto]
key_dir = {self.folder}/keys
ed25519.signingkey = {SIGNING_TEXT}
"""
        )

    def sydent(self, *steps: Any) -> list[Any]:
        """Let the real Sydent do these things."""
        done = subprocess.run(
            [_PYTHON, Path(__file__).with_name("fill_sydent.py")],
            input=json.dumps(steps),
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "SYDENT_CONF": str(self.conf)},
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers: list[Any] = json.loads(done.stdout)
        return answers

    @contextmanager
    def serving_sydent(self) -> Iterator[str]:
        """The real Sydent, answering over HTTP; yields its URL."""
        sydent = Sydent(self.conf, port=self._port)
        try:
            sydent.start()
            yield sydent.url
        finally:
            sydent.program.kill()

    def command(self, *arguments: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `identity-server` with the conf."""
        done = subprocess.run(
            self.command_line(*arguments),
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environment,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    def command_line(self, *arguments: str | Path) -> list[str]:
        """What `identity-server ... -c CONF` is here."""
        return [sys.executable, "-m", "identity_server", *map(str, arguments), "-c", str(self.conf)]

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the developer's own settings."""
        ours = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
        if on_postgresql():
            ours |= {**variables_for(self.our_db), "IDENTITY_SERVER__DB__DB_AUTO_UPGRADE": "true"}
            # Which file it is stays with the conf, as on SQLite.
            del ours["IDENTITY_SERVER__DB__DB_FILE"]
        return ours

    def report(self, *arguments: str) -> Any:
        """Import, and read the report."""
        return json.loads(self.command("import-sydent", self.sydent_db, "--json", *arguments).stdout)


def get_json(url: str) -> Any:
    """The answer to a GET."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=PATIENCE_SECONDS) as answer:
        return json.loads(answer.read())


def _answers(url: str) -> bool:
    try:
        return bool(get_json(url) == {})
    except OSError:
        return False
