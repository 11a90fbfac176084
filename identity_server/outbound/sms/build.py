"""From the operator's choice of providers to one transport.

The rule: the providers that come with the server can't be replaced by a package that takes their name; every other
name is looked for among the entry points of `identity_server.sms_providers`, and only those named are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TextIO

from identity_server.domain.ports import SMS_PROVIDER_GROUP, Clock, SmsTransport
from identity_server.outbound.sms import log, openmarket, twilio, vonage, webhook
from identity_server.outbound.sms.posting import Poster, PostLimits
from identity_server.outbound.sms.routing import SmsRouter

BUILT_IN_PROVIDERS = (openmarket.NAME, twilio.NAME, vonage.NAME, webhook.NAME, log.NAME)
"""The providers that need no further package."""


class ProviderProblem(Exception):
    """A provider that can't be used as configured. The text is for the operator."""


@dataclass(frozen=True, slots=True)
class ProviderTools:
    """What a provider of another package gets to work with.

    Attributes:
        options: the `option.*` keys of `[sms]`, without their prefix; they hold secrets.
        http: for requests; closed by the server.
        clock: the time.
    """

    options: Mapping[str, str] = field(repr=False)
    http: Poster
    clock: Clock


ProviderFactory = Callable[[ProviderTools], SmsTransport]
"""What an entry point names. It raises `ValueError` with a text for the operator if its options won't do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmsSettings:
    """What the operator decided.

    Attributes:
        providers: names in the order in which they are tried; may be empty.
        by_country: the same for single calling codes, instead of `providers`.
        openmarket, twilio, vonage, webhook: the accounts; None for those that aren't used.
        options: for providers of other packages.
        ca_file: PEM file of authorities to trust besides the system's.
    """

    providers: tuple[str, ...] = ()
    by_country: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    openmarket: openmarket.OpenMarketAccount | None = None
    twilio: twilio.TwilioAccount | None = None
    vonage: vonage.VonageAccount | None = None
    webhook: webhook.Webhook | None = None
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: Path | None = None


def build_sms_transport(
    settings: SmsSettings,
    *,
    clock: Clock,
    limits: PostLimits | None = None,
    stream: TextIO | None = None,
    count: Callable[[str, str], None] = lambda _provider, _outcome: None,
) -> SmsRouter | None:
    """The transport for text messages; None if no provider is named. Close it at the end.

    Args:
        settings: what the operator decided.
        clock: for signatures and waiting times.
        limits: how long to wait for a provider.
        stream: where the `log` provider writes; standard output unless given.
        count: is told the provider and the outcome of every offer.

    Raises:
        ProviderProblem: a provider is unknown, has no account, or its package fails.
        OSError: `ca_file` can't be read (`ssl.SSLError` where it holds no certificate).
    """
    names = dict.fromkeys((*settings.providers, *(name for order in settings.by_country.values() for name in order)))
    if not names:
        return None
    http = Poster(clock=clock, ca_file=settings.ca_file, limits=limits)
    tools = ProviderTools(options=settings.options, http=http, clock=clock)
    return SmsRouter(
        providers={name: _provider(name, settings, tools, stream) for name in names},
        default=settings.providers,
        by_country=settings.by_country,
        close=http.close,
        count=count,
    )


def _provider(name: str, settings: SmsSettings, tools: ProviderTools, stream: TextIO | None) -> SmsTransport:
    match name:
        case openmarket.NAME if settings.openmarket:
            return openmarket.OpenMarket(account=settings.openmarket, http=tools.http)
        case twilio.NAME if settings.twilio:
            return twilio.Twilio(account=settings.twilio, http=tools.http)
        case vonage.NAME if settings.vonage:
            return vonage.Vonage(account=settings.vonage, http=tools.http)
        case webhook.NAME if settings.webhook:
            return webhook.WebhookTransport(webhook=settings.webhook, http=tools.http, clock=tools.clock)
        case log.NAME:
            return log.LogTransport(stream=stream)
        case _ if name in BUILT_IN_PROVIDERS:
            raise ProviderProblem(f"the provider `{name}` has no account")
        case _:
            return _foreign_provider(name, tools)


def _foreign_provider(name: str, tools: ProviderTools) -> SmsTransport:
    entry_point = _entry_point(name)
    try:
        factory: ProviderFactory = entry_point.load()
        return factory(tools)
    except ValueError as error:
        raise ProviderProblem(f"the provider `{name}` can't be used: {error}") from None
    except Exception as error:  # noqa: BLE001 - a provider may be anybody's code
        # The traceback may show options, and with them secrets.
        raise ProviderProblem(f"the provider `{name}` fails to start: {type(error).__name__}") from None


def _entry_point(name: str) -> EntryPoint:
    found = tuple(entry_points(group=SMS_PROVIDER_GROUP, name=name))
    if not found:
        raise ProviderProblem(f"there is no provider `{name}`, and no installed package offers one")
    if len(found) > 1:
        raise ProviderProblem(f"several installed packages offer a provider `{name}`: keep one")
    return found[0]
