"""The sockets that the parent binds once and every worker listens on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from identity_server.config import Config

BACKLOG = 1024


class CannotListen(Exception):
    """The address can't be listened on; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """What is listened on.

    Attributes:
        internal, metrics: None where they are off.
    """

    client: socket.socket
    internal: socket.socket | None
    metrics: socket.socket | None

    def close(self) -> None:
        """Take no more connections in this process; in others their own copies go on."""
        for listener in (self.client, self.internal, self.metrics):
            if listener is not None:
                listener.close()


@contextmanager
def listening(config: Config) -> Iterator[Listeners]:
    """Bind everything that the configuration names.

    Raises:
        CannotListen: an address is taken or isn't ours.
    """
    http, general = config.http, config.general
    with ExitStack() as stack:
        listeners = Listeners(
            client=stack.enter_context(_bound(http.clientapi_http_bind_address, http.clientapi_http_port)),
            internal=None
            if http.internalapi_http_port is None
            else stack.enter_context(_bound(http.internalapi_http_bind_address, http.internalapi_http_port)),
            metrics=None
            if general.prometheus_port is None or general.prometheus_addr is None
            else stack.enter_context(_bound(general.prometheus_addr, general.prometheus_port)),
        )
        yield listeners


def _bound(address: str, port: int) -> socket.socket:
    try:
        listener = open_socket(address, port)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # what follows repeats the address
        raise CannotListen(f"cannot listen on {address} port {port}: {reason}") from None
    # Of several workers that are woken by one connection, all but one find nothing to accept.
    listener.setblocking(False)  # noqa: FBT003 - its only form
    return listener


def open_socket(address: str, port: int) -> socket.socket:
    """A listening TCP socket; `::` takes IPv4 too. Raises OSError."""
    info = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    if address == "::":
        if not socket.has_dualstack_ipv6():
            return socket.create_server(("0.0.0.0", port), backlog=BACKLOG)  # noqa: S104 - what `::` asks for
        # Every address of this machine, as operators of Sydent know it: IPv4 included.
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(info[4][:2], family=info[0], backlog=BACKLOG)


def name_of(listener: socket.socket) -> str:
    """Where it listens, as `host:port`."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
