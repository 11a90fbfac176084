"""A DNS server on loopback, which knows a few names and says of all others that they don't exist."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from tests.e2e.processes import PATIENCE_SECONDS
from tests.outbound.support import DnsServer


class NameServer:
    """Answers in a thread of its own.

    Attributes:
        address: where it listens, as `federation.nameservers` wants it.
    """

    def __init__(self) -> None:
        self.address = ""
        self._records = DnsServer()
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def add(self, name: str, kind: str, *values: str) -> None:
        """Add a record; `kind` is its type, such as A or SRV."""
        self._records.add(name, kind, *values)

    def open(self) -> None:
        self._thread.start()
        assert self._listening.wait(PATIENCE_SECONDS), "the DNS server doesn't listen"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            transport, _ = self._loop.run_until_complete(
                self._loop.create_datagram_endpoint(lambda: self._records, local_addr=("127.0.0.1", 0))
            )
            host, port = transport.get_extra_info("sockname")
            self.address = f"{host}:{port}"
            self._listening.set()
            self._loop.run_forever()
            transport.close()
            self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
