"""Starts the server as the public conformance suite matrix-is-tester wants it.

The suite imports `matrix_is_test.launcher.MatrixIsTestLauncher` and may run in an environment of its own, so the one
rule: nothing but the standard library here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_REPOSITORY = _HERE.parents[2]
_TERMS = _HERE / "terms.yaml"
_TEMPLATES = _HERE / "templates"

# Where the suite expects servers, and where its mail server listens.
_PORT = 8098
_PORT_WITH_TERMS = 8099
_MAIL_PORT = 9925

_START_SECONDS = 120
_STOP_SECONDS = 15
_POLL_SECONDS = 0.05
_LINES_SHOWN = 30


class MatrixIsTestLauncher:
    """One server in a new folder.

    Args:
        with_terms: whether it has terms of service.
        port: where it listens; the suite's unless given.
        mail_port: where mail goes; the suite's unless given.
    """

    def __init__(self, with_terms: bool, *, port: int | None = None, mail_port: int = _MAIL_PORT) -> None:
        self._port = port or (_PORT_WITH_TERMS if with_terms else _PORT)
        self._mail_port = mail_port
        self._terms = str(_TERMS) if with_terms else ""
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: it ended instead, or took too long.
            OSError: there is no such interpreter.
        """
        self._folder = folder = Path(tempfile.mkdtemp(prefix="matrix-is-test-"))
        (folder / "data").mkdir()
        conf = folder / "sydent.conf"
        conf.write_text(self._conf(folder))
        try:
            with (folder / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    [_python(), "-m", "identity_server", "serve", "-c", str(conf)],
                    cwd=folder,
                    env={"PATH": os.environ["PATH"], "PYTHONPATH": str(_REPOSITORY)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            self._wait_until_ready(self._process)
        except (OSError, RuntimeError):
            self.tearDown()
            raise

    def get_base_url(self) -> str:
        """Where it is reached."""
        return f"http://localhost:{self._port}"

    def tearDown(self) -> None:
        """End it, and remove everything of it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{self._log_tail()}")
            time.sleep(_POLL_SECONDS)

    def _answers(self) -> bool:
        try:
            # No proxy of the surroundings may come between.
            straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with straight.open(f"{self.get_base_url()}/ready", timeout=1):
                return True
        except (OSError, urllib.error.URLError):
            return False

    def _log_tail(self) -> str:
        assert self._folder is not None
        return "\n".join((self._folder / "log").read_text(errors="replace").splitlines()[-_LINES_SHOWN:])

    def _conf(self, folder: Path) -> str:
        return f"""
[general]
server.name = test.local
terms.path = {self._terms}
templates.path = {_TEMPLATES}
brand.default = is-test
# The suite's homeserver is on loopback, and its certificate is nobody's.
ip.whitelist = 127.0.0.1, ::1
enable_v1_access = true
enable_v1_associations = true

[lookup]
enable_v1 = true
algorithms = sha256, none

[db]
db.file = {folder}/data/identity.db

[http]
clientapi.http.bind_address = 127.0.0.1
clientapi.http.port = {self._port}
client_http_base = {self.get_base_url()}
federation.verifycerts = false

[email]
email.from = Identity server <noreply@localhost>
email.smtphost = 127.0.0.1
email.smtpport = {self._mail_port}
email.tlsmode = 0
# Some of its tests repeat a request of an earlier one, and wait for another mail.
email.mail_repeats = true
# Everything that the suite does comes from one address.
email.ratelimit_sender.burst = 100000
email.ratelimit_sender.rate_hz = 100000

[crypto]
key_dir = {folder}/keys
"""


def _python() -> str:
    """The interpreter that the server is installed for: `IDENTITY_SERVER_PYTHON`, else `make`'s, else this one."""
    made = _REPOSITORY / ".venv" / "bin" / "python"
    named = os.environ.get("IDENTITY_SERVER_PYTHON")
    # A relative path starts at the repository: trial has gone to a folder of its own by now, and so will the server.
    return str(_REPOSITORY / named) if named else str(made if made.exists() else sys.executable)
