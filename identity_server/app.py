"""The composition root: configuration and ports become services, services become an application.

The only module, beside the command line, that reads the configuration; every part receives values.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from identity_server.api.app_keys import PAGES, RANDOMNESS, SERVICES, SETTINGS, HttpSettings, V1Switches
from identity_server.api.clients import TrustedProxies
from identity_server.api.invitations import sign_link
from identity_server.api.middleware import add_headers, answer_preflights, log_request, render_errors
from identity_server.api.route import Route
from identity_server.api.routes import INTERNAL_ROUTES, add_routes, client_routes
from identity_server.api.validate import confirm_link, submit_link
from identity_server.config import Config, SmsRule, TlsMode
from identity_server.domain.credentials import CodeHasher
from identity_server.domain.hashing import Algorithm
from identity_server.domain.invite import Obfuscation
from identity_server.domain.ports import (
    Clock,
    Homeservers,
    MailTemplates,
    MailTransport,
    OriginKeys,
    Randomness,
    SmsTransport,
)
from identity_server.domain.rate_limits import RateLimit
from identity_server.domain.terms import Terms
from identity_server.index.read_index import ReadIndex
from identity_server.key_files import Keys, KeySources, load_keys
from identity_server.outbound import mail as outbound_mail
from identity_server.outbound.addresses import AddressScreen
from identity_server.outbound.federation import Federation
from identity_server.outbound.origin_keys import PublishedKeys
from identity_server.outbound.sms import (
    OpenMarketAccount,
    SmsSettings,
    TwilioAccount,
    VonageAccount,
    Webhook,
    build_sms_transport,
)
from identity_server.outbound.system import SystemClock, SystemRandomness
from identity_server.rendering.languages import Languages
from identity_server.rendering.mails import Mails
from identity_server.rendering.pages import Pages
from identity_server.rendering.policies import Policies, load_policies
from identity_server.rendering.sydent_files import SydentOverrides
from identity_server.rendering.templates import Templates
from identity_server.services import Services
from identity_server.services.accounts import Accounts
from identity_server.services.associations import Associations
from identity_server.services.backlog import Backlog
from identity_server.services.bind_notices import BindNotices
from identity_server.services.client_limits import ClientLimits
from identity_server.services.health import Health
from identity_server.services.homeserver_requests import HomeserverRequests
from identity_server.services.invitations import Invitations, InvitePolicy
from identity_server.services.invite_desk import InviteDesk
from identity_server.services.invite_mails import InviteMails, InviteStyle
from identity_server.services.lookup import Lookup
from identity_server.services.outbox import Outbox
from identity_server.services.owner_notices import BOUND, UNBOUND, OwnerNotices
from identity_server.services.peppers import Peppers
from identity_server.services.phone_validation import PhoneRules, PhoneValidation
from identity_server.services.public_keys import PublicKeys
from identity_server.services.terms import TermsOfService
from identity_server.services.validation import Validation, ValidationLimits
from identity_server.storage.database import IN_MEMORY, Database, database_url, make_engine
from identity_server.storage.schema import Schema
from identity_server.storage.sealing import ROOT_KEY_BYTES, RootKey, Sealer
from identity_server.storage.server_keys import add_known_keys, list_known_keys
from identity_server.workers.deliveries import job_kinds
from identity_server.workers.runner import JobRunner
from identity_server.workers.upkeep import run_forever, schedule

_DAY_MS = 24 * 3_600_000
_BODY_TIMEOUT_SECONDS = 15.0
_REGISTRATIONS = RateLimit(burst=30, interval_ms=60_000 // 30)
_REGISTRATIONS_AT_ONCE = 10
_KEY_FETCHES = RateLimit(burst=30, interval_ms=60_000 // 30)
_KEY_FETCHES_AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside world."""

    clock: Clock
    randomness: Randomness
    homeservers: Homeservers
    origin_keys: OriginKeys
    mail: MailTransport
    sms: SmsTransport | None


@dataclass(frozen=True, slots=True)
class System:
    """Everything that runs in one process.

    Attributes:
        app: what the world talks to.
        internal_app: what the operator's own systems talk to, where it is given a listener.
    """

    app: web.Application
    internal_app: web.Application
    services: Services
    database: Database
    index: ReadIndex
    runner: JobRunner


@asynccontextmanager
async def real_ports(config: Config) -> AsyncIterator[Ports]:
    """The real outside world, as configured."""
    clock, randomness = SystemClock(), SystemRandomness()
    mails = _mails(config, clock, _templates(config))
    sms = build_sms_transport(_sms_settings(config), clock=clock)
    federation = Federation(
        clock=clock,
        randomness=randomness,
        screen=AddressScreen(blacklist=config.general.ip_blacklist, whitelist=config.general.ip_whitelist),
        verify_certs=config.http.federation_verifycerts,
        ca_file=config.http.federation_ca_file,
        nameservers=config.http.federation_nameservers,
    )
    origin_keys = PublishedKeys(federation=federation, clock=clock)
    try:
        yield Ports(clock, randomness, federation, origin_keys, _mail_transport(config, mails), sms)
    finally:
        if sms is not None:
            await sms.close()
        await origin_keys.close()
        await federation.close()


@asynccontextmanager
async def open_system(config: Config, ports: Ports) -> AsyncIterator[System]:
    """Open the database, build the index, and wire everything up.

    Raises:
        SchemaProblem, KeyProblem, PolicyProblems, BrandingProblems: what the operator has to put right.
    """
    async with AsyncExitStack() as stack:
        database, keys = await _open_database(config, ports.clock, ports.randomness, stack)
        peppers = _peppers(config, ports.clock, ports.randomness, database)
        await peppers.ensure_one()
        index = ReadIndex(
            database=database, root_key=keys.root, offers_plain=Algorithm.NONE in config.lookup.algorithms
        )
        database.follow(index.catch_up)
        stack.push_async_callback(index.close)
        await index.start()
        bind_notices = BindNotices(
            homeservers=ports.homeservers,
            clock=ports.clock,
            randomness=ports.randomness,
            signing_key=keys.signing,
            keep_delivered_invites=not config.general.delete_tokens_on_bind,
        )
        kinds = job_kinds(mail=ports.mail, sms=ports.sms, bind_notices=bind_notices)
        runner = JobRunner(database=database, clock=ports.clock, kinds=kinds)
        stack.push_async_callback(runner.close)
        templates = _templates(config)
        mails = Mails(templates=templates, clock=ports.clock, sender=config.email.from_)
        services = _services(config, ports, database, index, runner, keys, peppers, bind_notices, mails)
        pages = Pages(templates)
        pages.check()
        settings = _http_settings(config)
        build = partial(build_app, services=services, pages=pages, settings=settings, ports=ports)
        app, internal_app = build(client_routes(settings.v1)), build(INTERNAL_ROUTES)
        yield System(
            app=app, internal_app=internal_app, services=services, database=database, index=index, runner=runner
        )


@dataclass(frozen=True, slots=True)
class Storage:
    """The database alone, for the command line."""

    database: Database
    sealer: Sealer
    clock: Clock
    randomness: Randomness


@asynccontextmanager
async def open_storage(config: Config) -> AsyncIterator[Storage]:
    """The database, made or upgraded if need be; a server may be running beside it.

    Raises:
        SchemaProblem, KeyProblem: what the operator has to put right.
    """
    clock, randomness = SystemClock(), SystemRandomness()
    async with AsyncExitStack() as stack:
        database, keys = await _open_database(config, clock, randomness, stack)
        yield Storage(database, Sealer(keys.root, randomness=randomness), clock, randomness)


@asynccontextmanager
async def look_into_storage(config: Config) -> AsyncIterator[Storage]:
    """The database as it is, for whoever writes nothing; an empty one in memory where there is none yet.

    Raises:
        SchemaProblem, KeyProblem: what the operator has to put right.
    """
    clock, randomness = SystemClock(), SystemRandomness()
    async with AsyncExitStack() as stack:
        in_use = await _is_in_use(config)
        engine = make_engine(database_url(url=config.db.url, file=config.db.file) if in_use else IN_MEMORY)
        stack.push_async_callback(engine.dispose)
        if in_use:
            known = await list_known_keys(engine)
            root = (await asyncio.to_thread(load_keys, key_sources(config), known, randomness=randomness)).root
        else:
            await Schema(engine).upgrade(now_ms=clock.now_ms())
            root = RootKey(randomness.token_bytes(ROOT_KEY_BYTES))
        sealer = Sealer(root, randomness=randomness)
        database = Database(engine, sealer)
        stack.push_async_callback(database.close)
        yield Storage(database, sealer, clock, randomness)


async def _is_in_use(config: Config) -> bool:
    """Whether there is a database yet; it must have the expected schema."""
    url = database_url(url=config.db.url, file=config.db.file)
    if url.get_backend_name() == "sqlite" and not await asyncio.to_thread(_has_content, config.db.file):
        return False
    engine = make_engine(url)
    try:
        schema = Schema(engine, conf=config.path)
        if (await schema.status()).current is None:
            return False
        await schema.require_current()
    finally:
        await engine.dispose()
    return True


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


@asynccontextmanager
async def open_invite_desk(config: Config) -> AsyncIterator[InviteDesk]:
    """The invites alone, for the command line; a server may be running beside it."""
    async with open_storage(config) as storage:
        mails = _invite_mails(config, storage.clock, storage.randomness)
        yield InviteDesk(database=storage.database, clock=storage.clock, mails=mails)


@asynccontextmanager
async def open_peppers(config: Config) -> AsyncIterator[Peppers]:
    """The peppers alone, for the command line; a server may be running beside it."""
    async with open_storage(config) as storage:
        yield _peppers(config, storage.clock, storage.randomness, storage.database)


@asynccontextmanager
async def open_backlog(config: Config) -> AsyncIterator[Backlog]:
    """The outbox's backlog alone, for the command line; a server may be running beside it."""
    clock, randomness = SystemClock(), SystemRandomness()
    async with AsyncExitStack() as stack:
        database, _ = await _open_database(config, clock, randomness, stack)
        yield Backlog(database=database, clock=clock)


@asynccontextmanager
async def background_work(system: System) -> AsyncIterator[None]:
    """Deliveries and upkeep, for as long as the block runs."""
    chores = [run_forever(chore) for chore in schedule(system.services, system.index)]
    tasks = [asyncio.create_task(work) for work in (system.runner.run_forever(), *chores)]
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
    routes: tuple[Route, ...], services: Services, *, pages: Pages, settings: HttpSettings, ports: Ports
) -> web.Application:
    """An application: routes behind what every answer has."""
    app = web.Application(middlewares=[log_request, answer_preflights, render_errors])
    app[SERVICES], app[PAGES], app[SETTINGS], app[RANDOMNESS] = services, pages, settings, ports.randomness
    app.on_response_prepare.append(add_headers)
    add_routes(app, routes)
    return app


async def _open_database(
    config: Config, clock: Clock, randomness: Randomness, stack: AsyncExitStack
) -> tuple[Database, Keys]:
    url = database_url(url=config.db.url, file=config.db.file)
    is_sqlite = url.get_backend_name() == "sqlite"
    engine = make_engine(url)
    stack.push_async_callback(engine.dispose)
    schema = Schema(engine, conf=config.path)
    if is_sqlite or config.db.auto_upgrade:
        await schema.upgrade(now_ms=clock.now_ms())
    else:
        await schema.require_current()
    known = await list_known_keys(engine)
    keys = await asyncio.to_thread(load_keys, key_sources(config), known, randomness=randomness)
    await add_known_keys(engine, keys.new, now_ms=clock.now_ms())
    database = Database(engine, Sealer(keys.root, randomness=randomness))
    stack.push_async_callback(database.close)
    return database, keys


def key_sources(config: Config) -> KeySources:
    """Where the keys are, as configured."""
    return KeySources(
        server_name=config.general.server_name,
        directory=config.crypto.key_dir,
        signing_text=config.crypto.ed25519_signingkey,
        root_text=config.crypto.at_rest_key,
        root_passphrase=config.crypto.at_rest_passphrase,
    )


def _peppers(config: Config, clock: Clock, randomness: Randomness, database: Database) -> Peppers:
    return Peppers(
        database=database,
        clock=clock,
        randomness=randomness,
        rotation_ms=config.lookup.pepper_rotation_days * _DAY_MS,
        grace_ms=config.lookup.pepper_grace_seconds * 1000,
    )


def _services(
    config: Config,
    ports: Ports,
    database: Database,
    index: ReadIndex,
    outbox: Outbox,
    keys: Keys,
    peppers: Peppers,
    bind_notices: BindNotices,
    mails: MailTemplates,
) -> Services:
    clock, randomness = ports.clock, ports.randomness
    return Services(
        accounts=Accounts(
            database=database,
            homeservers=ports.homeservers,
            clock=clock,
            randomness=randomness,
            register_limits=ClientLimits(clock=clock, limit=_REGISTRATIONS, at_once=_REGISTRATIONS_AT_ONCE),
            allowed_homeservers=frozenset(config.general.homeserver_allow_list),
            token_lifetime_ms=config.general.access_token_lifetime_days * _DAY_MS,
        ),
        associations=Associations(
            database=database,
            outbox=outbox,
            clock=clock,
            randomness=randomness,
            signing_key=keys.signing,
            bind_notices=bind_notices,
            owner_notices=_owner_notices(config, ports, mails),
        ),
        health=Health(database=database, index=index),
        homeserver_requests=HomeserverRequests(
            origin_keys=ports.origin_keys,
            names=_own_names(config),
            fetch_limits=ClientLimits(clock=clock, limit=_KEY_FETCHES, at_once=_KEY_FETCHES_AT_ONCE),
        ),
        invitations=Invitations(
            database=database,
            outbox=outbox,
            clock=clock,
            randomness=randomness,
            signing_key=keys.signing,
            policy=_invite_policy(config),
            mails=_invite_mails(config, clock, randomness),
        ),
        lookup=Lookup(
            index=index,
            clock=clock,
            algorithms=tuple(Algorithm(name) for name in config.lookup.algorithms),
            max_addresses=config.general.address_lookup_limit,
            grace_ms=config.lookup.pepper_grace_seconds * 1000,
        ),
        peppers=peppers,
        phone_validation=PhoneValidation(
            database=database,
            outbox=outbox,
            clock=clock,
            randomness=randomness,
            hasher=CodeHasher(keys.root.derive("codes of text messages")),
            rules=_phone_rules(config, offered=ports.sms is not None),
        ),
        public_keys=PublicKeys(database=database, clock=clock, signing_key=keys.signing),
        terms=TermsOfService(database=database, clock=clock, load=lambda: _load_policies(config)),
        validation=Validation(
            database=database,
            outbox=outbox,
            clock=clock,
            randomness=randomness,
            limits=_validation_limits(config),
            mails_repeats=config.email.mail_repeats,
            confirm_link=lambda token: confirm_link(config.public_base_url, token),
            submit_link=lambda sid, secret, token: submit_link(config.public_base_url, sid, secret, token),
            mail_templates=mails,
            message_id_domain=config.mail_host,
        ),
    )


def _own_names(config: Config) -> tuple[str, ...]:
    """What homeservers may call this server: the URL that people enter for it, without the scheme, or an alias."""
    base = urlsplit(config.public_base_url)
    return (config.general.server_name, base.netloc, base.netloc + base.path, *config.general.server_aliases)


def _validation_limits(config: Config) -> ValidationLimits:
    return ValidationLimits(
        per_sender=RateLimit.per_second(
            burst=config.email.ratelimit_sender_burst, rate_hz=config.email.ratelimit_sender_rate_hz
        ),
        per_address_and_sender=config.email.ratelimit_address_per_account_and_day,
        per_address=config.email.ratelimit_address_per_day,
    )


def _owner_notices(config: Config, ports: Ports, mails: MailTemplates) -> OwnerNotices:
    wanted = (BOUND, UNBOUND) if config.email.notices else ()
    return OwnerNotices(
        clock=ports.clock,
        randomness=ports.randomness,
        templates=frozenset(name for name in wanted if mails.exists(name, None)),
        per_mailbox=_per_mailbox(config),
        message_id_domain=config.mail_host,
    )


def _per_mailbox(config: Config) -> RateLimit:
    per_day = config.email.ratelimit_address_per_day
    return RateLimit(burst=per_day, interval_ms=_DAY_MS // per_day)


def _phone_rules(config: Config, *, offered: bool) -> PhoneRules:
    sms = config.sms
    return PhoneRules(
        offered=offered,
        rejected_calling_codes=frozenset(code for code, rule in sms.smsrule.items() if rule is SmsRule.REJECT),
        per_number=RateLimit.per_second(burst=sms.msisdn_ratelimit_burst, rate_hz=sms.msisdn_ratelimit_rate_hz),
        per_calling_code=RateLimit.per_second(
            burst=sms.country_ratelimit_burst, rate_hz=sms.country_ratelimit_rate_hz
        ),
        body_template=sms.body_template,
        code_domain=urlsplit(config.public_base_url).hostname or config.general.server_name,
        code_digits=sms.code_digits,
    )


def _invite_policy(config: Config) -> InvitePolicy:
    email = config.email
    return InvitePolicy(
        obfuscation=Obfuscation(
            local_letters=email.third_party_invite_username_obfuscate_characters,
            domain_letters=email.third_party_invite_domain_obfuscate_characters,
        ),
        blocked_servers=frozenset(name.lower() for name in email.third_party_invite_homeserver_blocklist),
        blocked_rooms=frozenset(email.third_party_invite_room_blocklist),
        blocked_keywords=tuple(word.casefold() for word in email.third_party_invite_keyword_blocklist),
        per_sender=RateLimit.per_second(burst=email.ratelimit_sender_burst, rate_hz=email.ratelimit_sender_rate_hz),
        per_mailbox=_per_mailbox(config),
    )


def _invite_mails(config: Config, clock: Clock, randomness: Randomness) -> InviteMails:
    style = InviteStyle(
        web_client=config.email.default_web_client_location,
        subject=config.email.invite_subject,
        subject_space=config.email.invite_subject_space,
        subject_is_set=("email", "email.invite.subject") in config.given,
    )
    return InviteMails(
        clock=clock,
        randomness=randomness,
        style=style,
        sign_link=lambda token, key: sign_link(config.public_base_url, token, key),
        message_id_domain=config.mail_host,
    )


def terms_in_force(config: Config) -> Terms:
    """The terms that the configuration names.

    Raises:
        PolicyProblems: something is wrong with their files.
    """
    return _load_policies(config).terms


def _load_policies(config: Config) -> Policies:
    path = config.general.terms_path
    return Policies() if path is None else load_policies(path, base_url=config.public_base_url)


def _http_settings(config: Config) -> HttpSettings:
    hosts = config.general.next_link_domain_whitelist
    return HttpSettings(
        public_base_url=config.public_base_url,
        accept_query_token=config.http.accept_query_token,
        trusted_proxies=TrustedProxies(config.http.proxy_networks),
        body_timeout_seconds=_BODY_TIMEOUT_SECONDS,
        next_link_hosts=None if hosts is None else frozenset(hosts),
        v1=V1Switches(
            access=config.general.enable_v1_access,
            associations=config.general.enable_v1_associations,
            lookup=config.lookup.enable_v1,
        ),
        internal_secret=config.http.internalapi_secret,
    )


def _templates(config: Config) -> Templates:
    return Templates.load(
        server_name=config.general.server_name,
        languages=Languages.load(default=config.general.default_language),
        path=config.general.templates_path,
        default_brand=config.general.brand_default,
        sydent_overrides=SydentOverrides(
            verification=config.email.template,
            invite=config.email.invite_template,
            page=config.http.verify_response_template,
        ),
    )


_TLS_MODES = {
    TlsMode.PLAIN: outbound_mail.TlsMode.NONE,
    TlsMode.STARTTLS: outbound_mail.TlsMode.STARTTLS,
    TlsMode.TLS: outbound_mail.TlsMode.IMPLICIT,
}


def _mails(config: Config, clock: Clock, templates: Templates) -> Mails:
    mails = Mails(templates=templates, clock=clock, sender=config.email.from_)
    mails.check()
    return mails


def _mail_transport(config: Config, mails: Mails) -> MailTransport:
    if config.email.transport == "console":
        return outbound_mail.ConsoleTransport(mails=mails)
    relay = outbound_mail.SmtpRelay(
        host=config.email.smtphost,
        port=config.email.smtpport,
        ehlo_name=config.mail_host,
        tls=_TLS_MODES[config.email.tlsmode],
        username=config.email.smtpusername or "",
        password=config.email.smtppassword or "",
        ca_file=config.email.smtp_ca_file,
    )
    return outbound_mail.SmtpTransport(mails=mails, relay=relay)


def _sms_settings(config: Config) -> SmsSettings:
    sms = config.sms
    openmarket = None
    if sms.username and sms.password:
        openmarket = OpenMarketAccount(
            url=sms.openmarket_url, username=sms.username, password=sms.password, senders=sms.originators
        )
    twilio = None
    if sms.twilio_account_sid and sms.twilio_auth_token:
        twilio = TwilioAccount(
            url=sms.twilio_url,
            account_sid=sms.twilio_account_sid,
            password=sms.twilio_auth_token,
            api_key=sms.twilio_api_key,
            messaging_service_sid=sms.twilio_messaging_service_sid,
            sender=sms.twilio_from,
        )
    vonage = None
    if sms.vonage_api_key and sms.vonage_api_secret and sms.vonage_from:
        vonage = VonageAccount(
            url=sms.vonage_url, api_key=sms.vonage_api_key, api_secret=sms.vonage_api_secret, sender=sms.vonage_from
        )
    return SmsSettings(
        providers=sms.default_providers,
        by_country=sms.provider,
        openmarket=openmarket,
        twilio=twilio,
        vonage=vonage,
        webhook=Webhook(sms.webhook_url, sms.webhook_secret) if sms.webhook_url and sms.webhook_secret else None,
        options=sms.option,
        ca_file=sms.ca_file,
    )
