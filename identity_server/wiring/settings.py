"""From the configuration to what each part takes. Reads the files of terms and templates; opens nothing else."""

from __future__ import annotations

from urllib.parse import urlsplit

from identity_server.api.app_keys import HttpSettings, V1Switches
from identity_server.api.proxies import TrustedProxies
from identity_server.config import Config, SmsRule
from identity_server.domain.budgets import BudgetRules
from identity_server.domain.durations import DAY_MS
from identity_server.domain.homeserver_policy import HomeserverList, HomeserverPolicy
from identity_server.domain.invite import Obfuscation
from identity_server.domain.rate_limits import RateLimit
from identity_server.domain.retention import LONGEST_LIMIT_MS, Lifetimes, retention_schedule
from identity_server.domain.terms import Terms
from identity_server.key_files import KeySources
from identity_server.outbound.sms import (
    OpenMarketAccount,
    SmsSettings,
    TwilioAccount,
    VonageAccount,
    Webhook,
)
from identity_server.rendering.languages import Languages
from identity_server.rendering.policies import Policies, load_policies
from identity_server.rendering.sydent_files import SydentOverrides
from identity_server.rendering.templates import Templates
from identity_server.rendering.texts import Texts
from identity_server.services.associations.binding import BindingRules
from identity_server.services.invites.inviting import InvitePolicy
from identity_server.services.privacy.visits import VisitLimits
from identity_server.services.validation.email import ValidationLimits
from identity_server.services.validation.phone import PhoneRules
from identity_server.storage.engines.postgresql import PostgresqlSettings

_BODY_TIMEOUT_SECONDS = 15.0
_VISITS_TO_MAILBOX_FROM_NETWORK = 3
_MOST_VISITS_TO_MAILBOX = 20


def key_sources(config: Config) -> KeySources:
    """Where the keys are, as configured."""
    return KeySources(
        server_name=config.general.server_name,
        directory=config.crypto.key_dir,
        signing_text=config.crypto.ed25519_signingkey,
        root_text=config.crypto.at_rest_key,
        root_passphrase=config.crypto.at_rest_passphrase,
        next_root_text=config.crypto.at_rest_next_key,
        next_root_passphrase=config.crypto.at_rest_next_passphrase,
    )


def postgresql_settings(config: Config) -> PostgresqlSettings:
    db = config.db
    return PostgresqlSettings(
        pool_size=db.pool_size,
        connect_seconds=db.connect_timeout_seconds,
        pooler=db.transaction_pooler,
        notifies=db.notify,
        ca_file=db.ca_file,
    )


def own_names(config: Config) -> tuple[str, ...]:
    """What homeservers may call this server: the URL that people enter for it, without the scheme, or an alias."""
    base = urlsplit(config.public_base_url)
    return (config.general.server_name, base.netloc, base.netloc + base.path, *config.general.server_aliases)


def homeserver_policy(config: Config) -> HomeserverPolicy:
    general = config.general
    return HomeserverPolicy(
        using=HomeserverList(allowed=general.homeserver_allow_list, denied=general.homeserver_deny_list),
        binding=HomeserverList(allowed=general.homeserver_bind_allow_list, denied=general.homeserver_bind_deny_list),
        looking_up=HomeserverList(
            allowed=general.homeserver_lookup_allow_list, denied=general.homeserver_lookup_deny_list
        ),
    )


def binding_rules(config: Config) -> BindingRules:
    return BindingRules(
        policy=homeserver_policy(config),
        visibility=config.lookup.default_visibility,
        phone_months=config.sms.msisdn_revalidate_after_months,
    )


def budget_rules(config: Config) -> BudgetRules:
    lookup = config.lookup
    return BudgetRules(
        account=lookup.budget_per_account,
        account_per_day=lookup.budget_per_account_and_day,
        homeserver_per_day=lookup.budget_per_homeserver_and_day,
        homeserver_per_user=lookup.budget_per_homeserver_user,
        network_per_day=lookup.budget_per_network_and_day,
    )


def validation_limits(config: Config) -> ValidationLimits:
    return ValidationLimits(
        per_sender=RateLimit.per_second(
            burst=config.email.ratelimit_sender_burst, rate_hz=config.email.ratelimit_sender_rate_hz
        ),
        per_address_and_sender=config.email.ratelimit_address_per_account_and_day,
        per_address=config.email.ratelimit_address_per_day,
        per_mailbox=per_mailbox(config),
        share_of_mailbox=share_of_mailbox(config),
    )


def per_mailbox(config: Config) -> RateLimit:
    per_day = config.email.ratelimit_address_per_day
    return RateLimit(burst=per_day, interval_ms=DAY_MS // per_day)


def share_of_mailbox(config: Config) -> RateLimit:
    """What one account may cause of that, so that a stranger leaves something to others."""
    half = max(config.email.ratelimit_address_per_day // 2, 1)
    return RateLimit(burst=half, interval_ms=DAY_MS // half)


def visit_limits(config: Config) -> VisitLimits:
    a_quarter = max(config.email.ratelimit_address_per_day // 4, 1)
    return VisitLimits(
        # Each has a row of its own.
        per_mailbox_and_day=min(a_quarter, _MOST_VISITS_TO_MAILBOX),
        per_mailbox_network_and_day=min(a_quarter, _VISITS_TO_MAILBOX_FROM_NETWORK),
    )


def visit_texts(config: Config) -> RateLimit | None:
    per_day = config.sms.privacy_page_per_day
    return RateLimit(burst=per_day, interval_ms=DAY_MS // per_day) if per_day else None


def phone_rules(config: Config, *, offered: bool) -> PhoneRules:
    sms = config.sms
    return PhoneRules(
        offered=offered,
        rejected_calling_codes=frozenset(code for code, rule in sms.smsrule.items() if rule is SmsRule.REJECT),
        per_number=RateLimit.per_second(burst=sms.msisdn_ratelimit_burst, rate_hz=sms.msisdn_ratelimit_rate_hz),
        per_calling_code=RateLimit.per_second(
            burst=sms.country_ratelimit_burst, rate_hz=sms.country_ratelimit_rate_hz
        ),
        code_domain=urlsplit(config.public_base_url).hostname or config.general.server_name,
        code_digits=sms.code_digits,
    )


def invite_policy(config: Config) -> InvitePolicy:
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
        per_mailbox=per_mailbox(config),
        share_of_mailbox=share_of_mailbox(config),
    )


def retention_lifetimes(config: Config) -> Lifetimes:
    by_sender = validation_limits(config).per_sender
    phones = phone_rules(config, offered=True)
    limits = (by_sender, per_mailbox(config), phones.per_number, phones.per_calling_code)
    return Lifetimes(
        token_unused_ms=config.general.access_token_lifetime_days * DAY_MS,
        phone_months=config.sms.msisdn_revalidate_after_months,
        audit_ms=config.audit.keep_days * DAY_MS,
        pepper_ms=config.lookup.pepper_rotation_days * DAY_MS + config.lookup.pepper_grace_seconds * 1000,
        limit_ms=max(LONGEST_LIMIT_MS, *(limit.longest_ms for limit in limits)),
        # Who has no account is counted by network where others are by Matrix ID.
        network_limit_ms=max(LONGEST_LIMIT_MS, by_sender.longest_ms)
        if config.general.enable_v1_access
        else LONGEST_LIMIT_MS,
        keeps_delivered_invites=not config.general.delete_tokens_on_bind,
        unaccepted_ms=consent_grace_ms(config),
    )


def consent_grace_ms(config: Config) -> int | None:
    days = config.general.terms_erase_unaccepted_after_days
    return None if days is None or config.general.terms_path is None else days * DAY_MS


def terms_in_force(config: Config) -> Terms:
    """The terms that the configuration names.

    Raises:
        PolicyProblems: something is wrong with their files.
    """
    return configured_policies(config).terms


def configured_policies(config: Config) -> Policies:
    path = config.general.terms_path
    return Policies() if path is None else load_policies(path, base_url=config.public_base_url)


def http_settings(config: Config) -> HttpSettings:
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
        log_form=config.general.log_format,
        request_id_header=config.http.request_id_header,
        retention=retention_schedule(retention_lifetimes(config)),
    )


def load_templates(config: Config) -> Templates:
    return Templates.load(
        server_name=config.general.server_name,
        base_url=config.public_base_url,
        languages=Languages.load(default=config.general.default_language),
        path=config.general.templates_path,
        default_brand=config.general.brand_default,
        sydent_overrides=SydentOverrides(
            verification=config.email.template,
            invite=config.email.invite_template,
            page=config.http.verify_response_template,
        ),
    )


def make_texts(config: Config, templates: Templates) -> Texts:
    is_own = ("sms", "bodyTemplate") in config.given
    return Texts(templates, validation=config.sms.body_template if is_own else None)


def sms_settings(config: Config) -> SmsSettings:
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
