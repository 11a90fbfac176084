"""Puts the services together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
from identity_server.services.validation.phone import PhoneRules, PhoneValidation
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


@dataclass(frozen=True, slots=True)
class Parts:
    """What the services of one process are made of.

    Attributes:
        outbox: tries what a use case has written into it.
    """

    config: Config
    ports: Ports
    opened: Opened
    index: ReadIndex
    outbox: Outbox
    peppers: Peppers
    bind_notices: BindNotices
    mails: MailTemplates
    texts: Texts

    @property
    def database(self) -> Database:
        return self.opened.database

    @property
    def clock(self) -> Clock:
        return self.ports.clock

    @property
    def randomness(self) -> Randomness:
        return self.ports.randomness

    @property
    def mail_jobs(self) -> MailJobs:
        return _make_mail_jobs(self.config, self.randomness)


def make_services(parts: Parts) -> Services:
    config, database, clock = parts.config, parts.database, parts.clock
    lookup_budgets = _make_lookup_budgets(parts)
    lookup = _make_lookup(parts, lookup_budgets)
    owner_notices = _make_owner_notices(config, parts.ports, parts.mails)
    associations = _make_associations(parts, lookup_budgets, owner_notices)
    erasure = make_erasure(database, clock, parts.bind_notices, parts.index.save)
    terms = TermsOfService(database=database, clock=clock, load=lambda: configured_policies(config))
    codes = SlowCodes(make_code_hasher(parts.opened.keys), randomness=parts.randomness)
    texting = phone_rules(config, offered=parts.ports.sms is not None)
    visitors = ClientLimits(
        name="visits", database=parts.database, clock=parts.clock, limit=_VISITS, at_once=_VISITS_AT_ONCE
    )
    return Services(
        accounts=_make_accounts(parts),
        associations=associations,
        erasure_requests=ErasureRequests(
            erasure=erasure,
            network_limits=ClientLimits(
                name="erasures",
                database=parts.database,
                clock=parts.clock,
                limit=_ERASURES,
                at_once=_ERASURES_AT_ONCE,
            ),
        ),
        health=Health(database=database, index=parts.index),
        homeserver_requests=_make_homeserver_requests(parts),
        invitations=_make_invitations(parts, lookup, lookup_budgets),
        journal=make_journal(config, clock, database, parts.opened.signing_key),
        limits=Limits(database=database, clock=clock),
        lookup=lookup,
        lookup_budgets=lookup_budgets,
        peppers=parts.peppers,
        phone_validation=_make_phone_validation(parts, codes, texting),
        phone_visits=_make_phone_visits(parts, codes, texting, visitors),
        public_keys=PublicKeys(database=database, clock=clock, signing_key=parts.opened.signing_key),
        terms=terms,
        unaccepted_terms=UnacceptedTerms(
            database=database,
            clock=clock,
            terms=terms,
            erasure=erasure,
            notices=owner_notices,
            grace_ms=consent_grace_ms(config),
        ),
        validation=_make_validation(parts),
        visits=_make_visits(parts, associations, visitors),
        vital_signs=VitalSigns(database=database, clock=clock),
    )


def _make_lookup_budgets(parts: Parts) -> LookupBudgets:
    return LookupBudgets(
        database=parts.database,
        clock=parts.clock,
        randomness=parts.randomness,
        rules=budget_rules(parts.config),
        pepper_lifetime_ms=parts.config.lookup.pepper_rotation_days * DAY_MS,
    )


def _make_lookup(parts: Parts, budgets: LookupBudgets) -> Lookup:
    config = parts.config
    return Lookup(
        index=parts.index,
        clock=parts.clock,
        algorithms=tuple(Algorithm(name) for name in config.lookup.algorithms),
        max_addresses=config.general.address_lookup_limit,
        grace_ms=config.lookup.pepper_grace_seconds * 1000,
        policy=homeserver_policy(config),
        budgets=budgets,
    )


def _make_accounts(parts: Parts) -> Accounts:
    return Accounts(
        database=parts.database,
        homeservers=parts.ports.homeservers,
        clock=parts.clock,
        randomness=parts.randomness,
        register_limits=ClientLimits(
            name="registrations",
            database=parts.database,
            clock=parts.clock,
            limit=_REGISTRATIONS,
            at_once=_REGISTRATIONS_AT_ONCE,
        ),
        policy=homeserver_policy(parts.config),
        token_lifetime_ms=parts.config.general.access_token_lifetime_days * DAY_MS,
    )


def _make_associations(parts: Parts, lookup_budgets: LookupBudgets, owner_notices: OwnerNotices) -> Associations:
    return Associations(
        database=parts.database,
        outbox=parts.outbox,
        clock=parts.clock,
        randomness=parts.randomness,
        signing_key=parts.opened.signing_key,
        bind_notices=parts.bind_notices,
        owner_notices=owner_notices,
        rules=binding_rules(parts.config),
        lookup_budgets=lookup_budgets,
    )


def _make_homeserver_requests(parts: Parts) -> HomeserverRequests:
    return HomeserverRequests(
        origin_keys=parts.ports.origin_keys,
        names=own_names(parts.config),
        fetch_limits=ClientLimits(
            name="key fetches",
            database=parts.database,
            clock=parts.clock,
            limit=_KEY_FETCHES,
            at_once=_KEY_FETCHES_AT_ONCE,
        ),
    )


def _make_invitations(parts: Parts, lookup: Lookup, lookup_budgets: LookupBudgets) -> Invitations:
    config = parts.config
    return Invitations(
        database=parts.database,
        outbox=parts.outbox,
        clock=parts.clock,
        randomness=parts.randomness,
        signing_key=parts.opened.signing_key,
        policy=invite_policy(config),
        mails=make_invite_mails(config, parts.clock, parts.randomness),
        bind_notices=parts.bind_notices,
        homeservers=homeserver_policy(config),
        lookup=lookup,
        lookup_budgets=lookup_budgets,
    )


def _make_phone_validation(parts: Parts, codes: SlowCodes, rules: PhoneRules) -> PhoneValidation:
    return PhoneValidation(
        database=parts.database,
        outbox=parts.outbox,
        clock=parts.clock,
        randomness=parts.randomness,
        codes=codes,
        rules=rules,
        texts=parts.texts,
    )


def _make_phone_visits(parts: Parts, codes: SlowCodes, rules: PhoneRules, visitors: ClientLimits) -> PhoneVisits:
    return PhoneVisits(
        database=parts.database,
        outbox=parts.outbox,
        clock=parts.clock,
        randomness=parts.randomness,
        rules=rules,
        per_day=visit_texts(parts.config),
        network_limits=visitors,
        codes=codes,
        texts=parts.texts,
    )


def _make_validation(parts: Parts) -> Validation:
    config, mails = parts.config, parts.mails
    return Validation(
        database=parts.database,
        outbox=parts.outbox,
        clock=parts.clock,
        randomness=parts.randomness,
        mail_jobs=parts.mail_jobs,
        limits=validation_limits(config),
        mails_repeats=config.email.mail_repeats,
        confirm_link=lambda token, brand: confirm_link(
            config.public_base_url, token, brand=mails.brand_in_links(brand)
        ),
        submit_link=lambda sid, secret, token: submit_link(config.public_base_url, sid, secret, token),
        mail_templates=mails,
    )


def _make_visits(parts: Parts, associations: Associations, visitors: ClientLimits) -> Visits:
    config, mails = parts.config, parts.mails
    return Visits(
        database=parts.database,
        outbox=parts.outbox,
        clock=parts.clock,
        randomness=parts.randomness,
        mail_jobs=parts.mail_jobs,
        associations=associations,
        limits=visit_limits(config),
        network_limits=visitors,
        link=lambda token, lang, brand: visit_link(
            config.public_base_url, token, lang=lang, brand=mails.brand_in_links(brand)
        ),
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
