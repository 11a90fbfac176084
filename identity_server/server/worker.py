"""One worker: a process that opens the whole system, takes requests, and drains when it is told to.

The rule: a worker ends when its parent does. It holds one end of a pipe whose other end only the parent has.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import orjson
import structlog
import uvloop
from aiohttp import web

from identity_server.api.protocol import Runner
from identity_server.app import System, background_work, open_system
from identity_server.config import Config
from identity_server.metrics import Metrics, Reading, Totals
from identity_server.observability import log_what_nobody_awaits, set_up_logging
from identity_server.server.descriptors import most_connections
from identity_server.server.door import Door, Load
from identity_server.server.listeners import CannotListen
from identity_server.server.memory import give_back
from identity_server.server.metrics_page import metrics_app
from identity_server.server.own_process import measure_process
from identity_server.server.post import DRAIN_SECONDS, PREPARED, RETIRE, STOP, Post
from identity_server.server.scraping import Scraping
from identity_server.wiring.measuring import expect_deliveries, read_signs
from identity_server.wiring.problems import problems_of
from identity_server.wiring.reporting import fault_reports
from identity_server.wiring.settings import load_templates
from identity_server.wiring.world import real_ports

_log = structlog.get_logger(__name__)

# Ten megabytes that nothing but a migration needs.
_MIGRATES = "alembic"
# What is left of the drain is for what runs in the background.
_REQUESTS_SECONDS = 12.0
_PUBLISH_SECONDS = 1.0
_TIDY_SECONDS = 5.0


def work(post: Post) -> int:
    """Work until told to stop; the exit status of the process."""
    general = post.config.general
    set_up_logging(level=general.log_level, form=general.log_format, path=general.log_path)
    log_what_nobody_awaits()
    report = _Report(post.report)
    with fault_reports(post.config):
        try:
            return uvloop.run(_work(post, report))
        except Exception as error:  # noqa: BLE001 - the process ends here, and says why
            problems = (str(error),) if isinstance(error, CannotListen) else problems_of(error)
            if not problems:
                _log.exception("worker.failed")
            elif report.is_due:
                report.tell(problems)
            else:
                _log.error("worker.failed", reason="; ".join(problems))
            return 1
        finally:
            sys.stdout.flush()


class _Report:
    """What the parent is told, once.

    Attributes:
        is_due: whether it hasn't been told yet. Afterwards the descriptor's number may be some other file's.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.is_due = True

    def tell(self, problems: tuple[str, ...] = ()) -> None:
        """Tell what is wrong; nothing means that requests are taken."""
        self.is_due = False
        os.write(self._descriptor, orjson.dumps(problems) + b"\n")
        os.close(self._descriptor)


async def _work(post: Post, report: _Report) -> int:
    config, listeners = post.config, post.listeners
    orders = _Orders(post.life)
    async with AsyncExitStack() as stack:
        templates = load_templates(config)
        metrics = Metrics()
        expect_deliveries(metrics, config)
        ports = await stack.enter_async_context(real_ports(config, templates, count=metrics.count_delivery))
        system = await stack.enter_async_context(
            open_system(config, ports, templates, metrics=metrics, may_make=post.is_first)
        )
        if _MIGRATES in sys.modules and post.is_first:
            return PREPARED
        await stack.enter_async_context(background_work(system))
        load = Load(post.board, post.place)
        metrics.measure("worker_start_time_seconds", value=ports.clock.now_ms() / 1000)
        scraping = await stack.enter_async_context(_publishing(post, system, metrics, load))
        listened = (
            (listeners.client, system.app, _tls(config)),
            (listeners.internal, system.internal_app, None),
            (listeners.metrics, metrics_app(scraping.totals), None),
        )
        doors = [
            await stack.enter_async_context(_open_door(app, listener, tls=tls, load=load))
            for listener, app, tls in listened
            if listener is not None
        ]
        await stack.enter_async_context(_every(_TIDY_SECONDS, partial(_tidy, doors, metrics)))
        await stack.enter_async_context(_every(_TIDY_SECONDS, partial(_mind_files, system, orders)))
        orders.take()
        report.tell()
        order = await orders.end
        if order == RETIRE:
            await asyncio.gather(*(door.say_farewell() for door in doors))
    return 0 if order is not None else 1


@asynccontextmanager
async def _publishing(post: Post, system: System, metrics: Metrics, load: Load) -> AsyncIterator[Scraping]:
    """Let others see what this worker has counted, for as long as the block runs; yields what shows the sums of all."""

    def publish() -> None:
        metrics.measure("connections", value=load.tell())
        post.board.publish(post.place, metrics.totals)

    def sums() -> Totals:
        publish()
        return post.board.totals()

    async def read(followed: float | None) -> Reading:
        return await read_signs(system.services.vital_signs, chores=system.upkeep.shared_names, followed=followed)

    try:
        async with _every(_PUBLISH_SECONDS, publish):
            yield Scraping(sums=sums, metrics=metrics, read=read)
    finally:
        publish()


def _tidy(doors: Sequence[Door], metrics: Metrics) -> None:
    for door in doors:
        door.end_unread()
    give_back()
    measure_process(metrics)


def _mind_files(system: System, orders: _Orders) -> None:
    if system.database.was_replaced:
        orders.give_up("there is another file in the place of the database")
    if system.database.stamps.were_replaced:
        orders.give_up(
            "there is another file in the place of `stamps`, by which workers hear of each other's commits"
        )


class _Orders:
    """What the parent has said, or that it says nothing any more.

    Attributes:
        end: by which signal this worker ends; None if it can't go on.
    """

    def __init__(self, life: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._life = life
        self._takes_orders = False
        self.end: asyncio.Future[signal.Signals | None] = self._loop.create_future()
        self._loop.add_reader(life, self._orphaned)

    def take(self) -> None:
        """Drain on a signal from now on; until now it simply ends the process, which has nothing to lose yet."""
        self._takes_orders = True
        for number in (STOP, RETIRE):
            self._loop.add_signal_handler(number, self._end, number)

    def give_up(self, reason: str) -> None:
        """End without having been told to: the parent has another worker take over, which may do better."""
        if not self.end.done():
            _log.error("worker.failed", reason=reason)
            self.end.set_result(None)

    def _end(self, number: signal.Signals) -> None:
        if not self.end.done():
            self.end.set_result(number)

    def _orphaned(self) -> None:
        self._loop.remove_reader(self._life)
        if not self._takes_orders:
            os._exit(1)
        # Nobody is left to kill this process if it hangs.
        signal.alarm(DRAIN_SECONDS)
        self._end(STOP)


@asynccontextmanager
async def _every(seconds: float, chore: Callable[[], None]) -> AsyncIterator[None]:
    """Have something done now and then, for as long as the block runs."""

    async def go_on() -> None:
        while True:
            chore()
            await asyncio.sleep(seconds)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()


@asynccontextmanager
async def _open_door(
    app: web.Application, listener: socket.socket, *, tls: ssl.SSLContext | None, load: Load
) -> AsyncIterator[Door]:
    """Take requests for as long as the block runs; afterwards those under way may end."""
    runner = Runner(app, shutdown_timeout=_REQUESTS_SECONDS)
    await runner.setup()
    door = Door(runner, listener, tls=tls, load=load, most=most_connections())
    door.open()
    try:
        yield door
    finally:
        await door.close()


def _tls(config: Config) -> ssl.SSLContext | None:
    certfile = config.http.clientapi_https_certfile
    if certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certfile, config.http.clientapi_https_keyfile)
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror
        raise CannotListen(f"the certificate in {certfile} can't be used with its key: {reason}") from None
    return context
