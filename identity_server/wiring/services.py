"""Puts the services together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from identity_server.api.invitations import sign_link
from identity_server.api.privacy import visit_link
from identity_server.api.validate import confirm_link, submit_link
from identity_server.config import Config
from identity_server.domain.durations import DAY_MS, MINUTE_MS
from identity_server.domain.hashing import Algorithm
from identity_server.domain.ports import Clock, MailTemplates, Randomness
from identity_server.domain.rate_limits import RateLimit
from identity_server.domain.signing import SigningKey
from identity_server.index.read_index import ReadIndex
from identity_server.rendering.texts import Texts
from identity_server.services import Services
from identity_server.services.associations.bind_notices import BindNotices, NoticeWriter
from identity_server.services.associations.binding import Associations
from identity_server.services.associations.owner_notices import BOUND, TERMS, UNBOUND, OwnerNotices
from identity_server.services.audit.journal import Journal
from identity_server.services.authentication.accounts import Accounts
from identity_server.services.authentication.homeservers import HomeserverRequests
from identity_server.services.client_limits import ClientLimits
from identity_server.services.erasure.removal import Erasure
from identity_server.services.erasure.requests import ErasureRequests
from identity_server.services.erasure.waiting_jobs import WaitingJobs
from identity_server.services.health import Health
from identity_server.services.invites.inviting import Invitations
from identity_server.services.invites.mails import InviteMails, InviteStyle
from identity_server.services.keys.public import PublicKeys
from identity_server.services.limits import Limits
from identity_server.services.lookup.budgets import LookupBudgets
from identity_server.services.lookup.hashed_lookup import Lookup
from identity_server.services.lookup.peppers import Peppers
from identity_server.services.outbox.mails import MailJobs
from identity_server.services.outbox.port import Outbox
from identity_server.services.privacy.phone_visits import PhoneVisits
from identity_server.services.privacy.visits import Visits
from identity_server.services.terms.acceptance import TermsOfService
from identity_server.services.terms.unaccepted import UnacceptedTerms
from identity_server.services.validation.email import Validation
from identity_server.services.validation.phone import PhoneValidation
from identity_server.services.validation.slow_codes import SlowCodes
from identity_server.services.vital_signs import VitalSigns
from identity_server.storage.database import Database
from identity_server.wiring.settings import (
    binding_rules,
    budget_rules,
    configured_policies,
    consent_grace_ms,
    homeserver_policy,
    invite_policy,
    own_names,
    per_mailbox,
    phone_rules,
    validation_limits,
    visit_limits,
    visit_texts,
)
from identity_server.wiring.storage import Opened, make_code_hasher
from identity_server.wiring.world import Ports

_REGISTRATIONS = RateLimit(burst=30, interval_ms=MINUTE_MS // 30)
_REGISTRATIONS_AT_ONCE = 10
_KEY_FETCHES = RateLimit(burst=30, interval_ms=MINUTE_MS // 30)
_KEY_FETCHES_AT_ONCE = 10
_ERASURES = RateLimit(burst=20, interval_ms=MINUTE_MS // 20)
_ERASURES_AT_ONCE = 2
_VISITS = RateLimit(burst=10, interval_ms=6 * MINUTE_MS)
_VISITS_AT_ONCE = 10

SETTLING_SECONDS = 2.0
"""Twice as long as any process takes a token for good that isn't any more."""


def make_services(
    config: Config,
    ports: Ports,
    opened: Opened,
    *,
    index: ReadIndex,
    outbox: Outbox,
    peppers: Peppers,
    bind_notices: BindNotices,
    mails: MailTemplates,
    texts: Texts,
) -> Services:
    clock, randomness = ports.clock, ports.randomness
    database, signing_key = opened.database, opened.signing_key
    mail_jobs = _make_mail_jobs(config, randomness)
    policy = homeserver_policy(config)
    lookup_budgets = LookupBudgets(
        database=database,
        clock=clock,
        randomness=randomness,
        rules=budget_rules(config),
        pepper_lifetime_ms=config.lookup.pepper_rotation_days * DAY_MS,
    )
    lookup = Lookup(
        index=index,
        clock=clock,
        algorithms=tuple(Algorithm(name) for name in config.lookup.algorithms),
        max_addresses=config.general.address_lookup_limit,
        grace_ms=config.lookup.pepper_grace_seconds * 1000,
        policy=policy,
        budgets=lookup_budgets,
    )
    owner_notices = _make_owner_notices(config, ports, mails)
    erasure = make_erasure(database, clock, bind_notices, index.save)
    terms = TermsOfService(database=database, clock=clock, load=lambda: configured_policies(config))
    associations = Associations(
        database=database,
        outbox=outbox,
        clock=clock,
        randomness=randomness,
        signing_key=signing_key,
        bind_notices=bind_notices,
        owner_notices=owner_notices,
        rules=binding_rules(config),
        lookup_budgets=lookup_budgets,
    )
    codes = SlowCodes(make_code_hasher(opened.keys), randomness=randomness)
    texting = phone_rules(config, offered=ports.sms is not None)
    visitors = ClientLimits(name="visits", database=database, clock=clock, limit=_VISITS, at_once=_VISITS_AT_ONCE)
    return Services(
        accounts=Accounts(
            database=database,
            homeservers=ports.homeservers,
            clock=clock,
            randomness=randomness,
            register_limits=ClientLimits(
                name="registrations",
                database=database,
                clock=clock,
                limit=_REGISTRATIONS,
                at_once=_REGISTRATIONS_AT_ONCE,
            ),
            policy=policy,
            token_lifetime_ms=config.general.access_token_lifetime_days * DAY_MS,
        ),
        associations=associations,
        erasure_requests=ErasureRequests(
            erasure=erasure,
            network_limits=ClientLimits(
                name="erasures", database=database, clock=clock, limit=_ERASURES, at_once=_ERASURES_AT_ONCE
            ),
        ),
        health=Health(database=database, index=index),
        homeserver_requests=HomeserverRequests(
            origin_keys=ports.origin_keys,
            names=own_names(config),
            fetch_limits=ClientLimits(
                name="key fetches", database=database, clock=clock, limit=_KEY_FETCHES, at_once=_KEY_FETCHES_AT_ONCE
            ),
        ),
        invitations=Invitations(
            database=database,
            outbox=outbox,
            clock=clock,
            randomness=randomness,
            signing_key=signing_key,
            policy=invite_policy(config),
            mails=make_invite_mails(config, clock, randomness),
            bind_notices=bind_notices,
            homeservers=policy,
            lookup=lookup,
            lookup_budgets=lookup_budgets,
        ),
        journal=make_journal(config, clock, database, signing_key),
        limits=Limits(database=database, clock=clock),
        lookup=lookup,
        lookup_budgets=lookup_budgets,
        peppers=peppers,
        phone_validation=PhoneValidation(
            database=database,
            outbox=outbox,
            clock=clock,
            randomness=randomness,
            codes=codes,
            rules=texting,
            texts=texts,
        ),
        phone_visits=PhoneVisits(
            database=database,
            outbox=outbox,
            clock=clock,
            randomness=randomness,
            rules=texting,
            per_day=visit_texts(config),
            network_limits=visitors,
            codes=codes,
            texts=texts,
        ),
        public_keys=PublicKeys(database=database, clock=clock, signing_key=signing_key),
        terms=terms,
        unaccepted_terms=UnacceptedTerms(
            database=database,
            clock=clock,
            terms=terms,
            erasure=erasure,
            notices=owner_notices,
            grace_ms=consent_grace_ms(config),
        ),
        validation=Validation(
            database=database,
            outbox=outbox,
            clock=clock,
            randomness=randomness,
            mail_jobs=mail_jobs,
            limits=validation_limits(config),
            mails_repeats=config.email.mail_repeats,
            confirm_link=lambda token, brand: confirm_link(
                config.public_base_url, token, brand=mails.brand_in_links(brand)
            ),
            submit_link=lambda sid, secret, token: submit_link(config.public_base_url, sid, secret, token),
            mail_templates=mails,
        ),
        visits=Visits(
            database=database,
            outbox=outbox,
            clock=clock,
            randomness=randomness,
            mail_jobs=mail_jobs,
            associations=associations,
            limits=visit_limits(config),
            network_limits=visitors,
            link=lambda token, lang, brand: visit_link(
                config.public_base_url, token, lang=lang, brand=mails.brand_in_links(brand)
            ),
        ),
        vital_signs=VitalSigns(database=database, clock=clock),
    )


def make_bind_notices(config: Config, ports: Ports, opened: Opened) -> BindNotices:
    return BindNotices(
        database=opened.database,
        homeservers=ports.homeservers,
        clock=ports.clock,
        randomness=ports.randomness,
        signing_key=opened.signing_key,
        keep_delivered_invites=not config.general.delete_tokens_on_bind,
    )


def _make_owner_notices(config: Config, ports: Ports, mails: MailTemplates) -> OwnerNotices:
    wanted = (BOUND, UNBOUND, TERMS) if config.email.notices else ()
    return OwnerNotices(
        clock=ports.clock,
        mail_jobs=_make_mail_jobs(config, ports.randomness),
        templates=frozenset(name for name in wanted if mails.exists(name, None)),
        per_mailbox=per_mailbox(config),
    )


def make_erasure(
    database: Database, clock: Clock, notices: NoticeWriter, rewrite_index: Callable[[], Awaitable[None]]
) -> Erasure:
    return Erasure(
        database=database,
        clock=clock,
        look_for_jobs=partial(WaitingJobs, database=database, clock=clock, notices=notices),
        rewrite_index=rewrite_index,
        settling_seconds=SETTLING_SECONDS,
    )


def make_journal(config: Config, clock: Clock, database: Database, signing_key: SigningKey) -> Journal:
    keep_ms = config.audit.keep_days * DAY_MS
    return Journal(database=database, clock=clock, signing_key=signing_key, keep_ms=keep_ms)


def make_peppers(config: Config, clock: Clock, randomness: Randomness, database: Database) -> Peppers:
    return Peppers(
        database=database,
        clock=clock,
        randomness=randomness,
        rotation_ms=config.lookup.pepper_rotation_days * DAY_MS,
        grace_ms=config.lookup.pepper_grace_seconds * 1000,
    )


def make_invite_mails(config: Config, clock: Clock, randomness: Randomness) -> InviteMails:
    style = InviteStyle(
        web_client=config.email.default_web_client_location,
        subject=config.email.invite_subject,
        subject_space=config.email.invite_subject_space,
        subject_is_set=("email", "email.invite.subject") in config.given,
    )
    return InviteMails(
        clock=clock,
        mail_jobs=_make_mail_jobs(config, randomness),
        style=style,
        sign_link=lambda token, key: sign_link(config.public_base_url, token, key),
    )


def _make_mail_jobs(config: Config, randomness: Randomness) -> MailJobs:
    return MailJobs(randomness=randomness, message_id_domain=config.mail_host)
