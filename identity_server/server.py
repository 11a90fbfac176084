"""Runs the server in this process: listens, works, and drains when asked to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import structlog
from aiohttp import web

from identity_server.api.protocol import Runner
from identity_server.app import System, background_work, open_system
from identity_server.config import Config
from identity_server.wiring.world import real_ports

_log = structlog.get_logger(__name__)

_DRAIN_SECONDS = 15.0
_BACKLOG = 1024


class CannotListen(Exception):
    """The address can't be listened on; the text says which and why."""


async def serve(config: Config, *, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the terms again.

    Args:
        config: what to serve, and where.
        ready: called once requests are taken.

    Raises:
        CannotListen: an address is taken or isn't ours.
        SchemaProblem, KeyProblem, PolicyProblems, BrandingProblems: what the operator has to put right.
    """
    # Until there is something to read again, a SIGHUP (a log rotation's, say) would end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ExitStack() as sockets:
        http = config.http
        client = sockets.enter_context(_listening_socket(http.clientapi_http_bind_address, http.clientapi_http_port))
        internal = None
        if http.internalapi_http_port is not None:
            internal = sockets.enter_context(
                _listening_socket(http.internalapi_http_bind_address, http.internalapi_http_port)
            )
        async with AsyncExitStack() as stack:
            ports = await stack.enter_async_context(real_ports(config))
            system = await stack.enter_async_context(open_system(config, ports))
            await stack.enter_async_context(background_work(system))
            await stack.enter_async_context(_listening(system.app, client, tls=_tls(config)))
            if internal is not None:
                await stack.enter_async_context(_listening(system.internal_app, internal))
                _log.info("serving internally", listening=_name_of(internal))
            stack.enter_context(_pid_file(config.general.pidfile_path))
            _log.info("serving", server_name=config.general.server_name, listening=_name_of(client))
            ready()
            await _until_stopped(system)
            _log.info("stopping", drain_seconds=_DRAIN_SECONDS)


@asynccontextmanager
async def _listening(
    app: web.Application, listener: socket.socket, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """Take requests for as long as the block runs; afterwards those under way may end."""
    runner = Runner(app, shutdown_timeout=_DRAIN_SECONDS)
    await runner.setup()
    try:
        await web.SockSite(runner, listener, ssl_context=tls, backlog=_BACKLOG).start()
        yield
    finally:
        await runner.cleanup()


async def _until_stopped(system: System) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = asyncio.create_task(system.services.terms.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    await stopped.wait()


@contextmanager
def _listening_socket(address: str, port: int) -> Iterator[socket.socket]:
    try:
        listener = open_socket(address, port)
    except OSError as error:
        raise CannotListen(f"cannot listen on {address} port {port}: {error.strerror}") from None
    with listener:
        yield listener


def open_socket(address: str, port: int) -> socket.socket:
    """A listening TCP socket; `::` takes IPv4 too. Raises OSError."""
    info = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    if address == "::":
        if not socket.has_dualstack_ipv6():
            return socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)  # noqa: S104 - what `::` asks for
        # Every address of this machine, as operators of Sydent know it: IPv4 included.
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    return socket.create_server(info[4][:2], family=info[0], backlog=_BACKLOG)


def _name_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tls(config: Config) -> ssl.SSLContext | None:
    certfile = config.http.clientapi_https_certfile
    if certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certfile, config.http.clientapi_https_keyfile)
    return context


@contextmanager
def _pid_file(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    # A new file in place of whatever is there: a link that someone left in /run or /tmp is not written through.
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as file:
        file.write(f"{os.getpid()}\n")
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
