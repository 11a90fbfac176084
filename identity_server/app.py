"""The composition root: configuration and ports become services, services become an application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

from aiohttp import web

from identity_server.api.app_keys import METRICS, PAGES, REQUEST_IDS, REQUEST_LOG, SERVICES, SETTINGS, HttpSettings
from identity_server.api.request_ids import RequestIds
from identity_server.api.request_log import RequestLog
from identity_server.api.requests import UNFINISHED, UnfinishedBodies
from identity_server.api.route import Route
from identity_server.api.routes import INTERNAL_ROUTES, add_routes, client_routes
from identity_server.config import Config
from identity_server.domain.durations import DAY_MS
from identity_server.domain.random_values import opaque
from identity_server.index.read_index import ReadIndex
from identity_server.key_watch import LEASE_SECONDS
from identity_server.metrics import Metrics
from identity_server.rendering.mails import Mails
from identity_server.rendering.pages import Pages
from identity_server.rendering.templates import Templates
from identity_server.services import Services
from identity_server.services.associations.bind_notices import BindNotices
from identity_server.services.privacy.refusals import Refusals
from identity_server.storage.database import Database
from identity_server.wiring.index import make_index
from identity_server.wiring.measuring import expect_chores, measure
from identity_server.wiring.services import Parts, make_bind_notices, make_peppers, make_services
from identity_server.wiring.settings import http_settings, make_texts
from identity_server.wiring.storage import Opened, open_database
from identity_server.wiring.world import Ports
from identity_server.workers.deliveries import job_kinds
from identity_server.workers.other_nodes import follow_other_nodes
from identity_server.workers.runner import JobRunner
from identity_server.workers.upkeep import Upkeep, schedule

_HOLDER_BYTES = 12


@dataclass(frozen=True, slots=True)
class System:
    """Everything that runs in one process.

    Attributes:
        app: what the world talks to.
        internal_app: what the operator's own systems talk to, where it is given a listener.
        look_at_keys: sees at once whether another root key is to be known.
    """

    app: web.Application
    internal_app: web.Application
    services: Services
    database: Database
    index: ReadIndex
    runner: JobRunner
    upkeep: Upkeep
    look_at_keys: Callable[[], Awaitable[None]]


@asynccontextmanager
async def open_system(
    config: Config,
    ports: Ports,
    templates: Templates,
    *,
    metrics: Metrics | None = None,
    key_lease_seconds: float = LEASE_SECONDS,
    may_make: bool = True,
) -> AsyncIterator[System]:
    """Open the database, build the index, and wire everything up.

    Args:
        config: what to open, and how.
        ports: the outside world.
        templates: what mails and pages look like.
        metrics: where everything is counted; by default, where nobody looks.
        key_lease_seconds: how long what was seen of the root keys holds; for tests alone.
        may_make: whether a database and keys are made where there are none.

    Raises:
        SchemaProblem, KeyProblem, PolicyProblems, BrandingProblems: what the operator has to put right.
    """
    metrics = metrics or Metrics()
    async with AsyncExitStack() as stack:
        opened = await open_database(
            config,
            ports.clock,
            ports.randomness,
            stack,
            key_lease_seconds=key_lease_seconds,
            may_make=may_make,
        )
        peppers = make_peppers(config, ports.clock, ports.randomness, opened.database)
        await peppers.ensure_one()
        index = await _open_index(config, ports, opened, stack)
        bind_notices = make_bind_notices(config, ports, opened)
        runner = _make_runner(ports, opened.database, bind_notices, metrics)
        stack.push_async_callback(runner.close)
        mails = Mails(templates=templates, clock=ports.clock, sender=config.email.from_)
        texts = make_texts(config, templates)
        services = make_services(
            Parts(config, ports, opened, index, runner, peppers, bind_notices, mails=mails, texts=texts)
        )
        stack.push_async_callback(services.lookup_budgets.close)
        upkeep = _make_upkeep(ports, opened, services, index, metrics)
        rotation_seconds = config.lookup.pepper_rotation_days * DAY_MS / 1000
        measure(
            metrics,
            database=opened.database,
            index=index,
            accounts=services.accounts,
            rotation_seconds=rotation_seconds,
        )
        pages = Pages(templates)
        pages.check()
        settings = http_settings(config)
        build = partial(build_app, services=services, pages=pages, settings=settings, ports=ports, metrics=metrics)
        yield System(
            app=build(client_routes(settings.v1)),
            internal_app=build(INTERNAL_ROUTES),
            services=services,
            database=opened.database,
            index=index,
            runner=runner,
            upkeep=upkeep,
            look_at_keys=opened.watch.look,
        )


async def _open_index(config: Config, ports: Ports, opened: Opened, stack: AsyncExitStack) -> ReadIndex:
    """The index, which has read what there is, and follows what is committed until the stack is closed."""
    index = make_index(config, ports.clock, opened.database, opened.keys)
    opened.database.follow(index.catch_up)
    stack.push_async_callback(index.close)
    await index.start()
    return index


def _make_runner(ports: Ports, database: Database, bind_notices: BindNotices, metrics: Metrics) -> JobRunner:
    refusals = Refusals(database=database)
    kinds = job_kinds(mail=ports.mail, sms=ports.sms, bind_notices=bind_notices, refusals=refusals)
    return JobRunner(database=database, clock=ports.clock, kinds=kinds, count=metrics.count_job, traces=ports.traces)


def _make_upkeep(ports: Ports, opened: Opened, services: Services, index: ReadIndex, metrics: Metrics) -> Upkeep:
    upkeep = Upkeep(
        schedule(services, index, opened.watch.look),
        database=opened.database,
        clock=ports.clock,
        holder=opaque(ports.randomness, _HOLDER_BYTES),
        count=metrics.count_chore,
    )
    expect_chores(metrics, upkeep.names)
    return upkeep


@asynccontextmanager
async def background_work(system: System) -> AsyncIterator[None]:
    """Deliveries and upkeep, for as long as the block runs."""
    works = [system.runner.run_forever(), *system.upkeep.run_forever()]
    if system.database.may_have_other_nodes:
        works.append(follow_other_nodes(system.database, system.index))
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await system.services.accounts.record_token_uses()


def build_app(
    routes: tuple[Route, ...],
    services: Services,
    *,
    pages: Pages,
    settings: HttpSettings,
    ports: Ports,
    metrics: Metrics,
) -> web.Application:
    """An application; api/protocol.py runs it, and stands around it for what every answer has."""
    app = web.Application()
    app[SERVICES], app[PAGES], app[SETTINGS] = services, pages, settings
    app[METRICS], app[UNFINISHED] = metrics, UnfinishedBodies()
    app[REQUEST_IDS] = RequestIds(
        randomness=ports.randomness,
        header=settings.request_id_header,
        proxies=settings.trusted_proxies,
        traced=ports.traces is not None,
    )
    app[REQUEST_LOG] = RequestLog(form=settings.log_form, clock=ports.clock, metrics=metrics, traces=ports.traces)
    app.on_cleanup.append(_close_request_log)
    add_routes(app, routes)
    return app


async def _close_request_log(app: web.Application) -> None:
    app[REQUEST_LOG].close()
