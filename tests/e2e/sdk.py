"""The Python end of sdk.mjs: calls of the real matrix-js-sdk.

The one rule: an answer of the SDK is handed on as it is; judging it is the stories' part.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.processes import PATIENCE_SECONDS

_SCRIPT = Path(__file__).with_name("sdk.mjs")


class SdkError(Exception):
    """What the SDK threw.

    Attributes:
        errcode: the Matrix error code that it saw, if it saw one.
        status: the HTTP status, likewise.
    """

    def __init__(self, *, errcode: str | None, status: int | None, message: str) -> None:
        super().__init__(message)
        self.errcode = errcode
        self.status = status


class Sdk:
    """A Node process that holds the clients of all people of a story."""

    def __init__(self, *, ca_file: Path, log: Path) -> None:
        env = {"PATH": os.environ["PATH"], "NODE_EXTRA_CA_CERTS": str(ca_file)}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                ["node", str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=env,
                bufsize=0,
            )
        self._unread = b""

    def make_client(
        self,
        client: str,
        *,
        homeserver: str,
        identity_server: str,
        session: dict[str, Any] | None = None,
        lenient: bool = False,
    ) -> None:
        """Make (or replace) a client.

        Args:
            session: without one it isn't logged in.
            lenient: it minds CORS as browsers do today, and not as the Fetch standard has it.
        """
        self._ask(
            {
                "client": client,
                "homeserver": homeserver,
                "identityServer": identity_server,
                "session": session,
                "lenient": lenient,
            }
        )

    def give_identity_token(self, client: str, token: str) -> None:
        """What the client gives its homeserver, so that it can ask the identity server in its name."""
        self._ask({"client": client, "identityToken": token})

    def call(self, client: str, method: str, *args: Any) -> Any:
        """Call a method of a client and wait for what it resolves to; None stands for `undefined`.

        Raises:
            SdkError: it was rejected.
        """
        return self._ask({"client": client, "method": method, "args": args})

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        answer = json.loads(self._read_line())
        if "error" in answer:
            raise SdkError(**answer["error"])
        return answer["result"]

    def _read_line(self) -> bytes:
        output = self._process.stdout
        assert output is not None
        while b"\n" not in self._unread:
            readable, _, _ = select.select([output], [], [], PATIENCE_SECONDS)
            assert readable, f"matrix-js-sdk did not answer within {PATIENCE_SECONDS} s"
            part = output.read(65536)
            assert part, "node ended; its messages are in the log"
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line
