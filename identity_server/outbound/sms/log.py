"""Text messages on the terminal, for trying the server out.

They go to standard output and never to the log, which others read and keep. The configuration refuses this
provider unless the client API listens on loopback only.
"""

from __future__ import annotations

import sys
from typing import TextIO

from identity_server.domain.ports import TextMessage

NAME = "log"

_RULE = "─" * 72


class LogTransport:
    """Writes text messages to the terminal. Implements `SmsTransport`."""

    def __init__(self, *, stream: TextIO | None = None) -> None:
        """Take the parts; `stream` is standard output unless given."""
        self._stream = stream or sys.stdout

    async def send(self, message: TextMessage) -> None:
        """Show one message as the phone would."""
        # Nothing may steer the terminal. One write, so that messages of several workers don't mix.
        text = "".join(each for each in message.body if each.isprintable() or each == "\n")
        self._stream.write(f"\n{_RULE}\nSMS to:  +{message.to}\n{_RULE}\n{text.rstrip()}\n{_RULE}\n\n")
        self._stream.flush()
