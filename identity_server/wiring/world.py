"""The outside world, as configured: homeservers, mail, text messages, clock and randomness."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from identity_server.config import Config, TlsMode
from identity_server.domain.identifiers import Medium
from identity_server.domain.ports import (
    Clock,
    Homeservers,
    MailTransport,
    OriginKeys,
    Randomness,
    SmsTransport,
    Traces,
)
from identity_server.outbound import smtp
from identity_server.outbound.addresses import AddressScreen
from identity_server.outbound.counted_mail import CountedMail
from identity_server.outbound.federation import Federation
from identity_server.outbound.mail import ConsoleTransport, SmtpTransport
from identity_server.outbound.origin_keys import PublishedKeys
from identity_server.outbound.sms import build_sms_transport
from identity_server.outbound.system import SystemClock, SystemRandomness
from identity_server.rendering.mails import Mails
from identity_server.rendering.templates import Templates
from identity_server.wiring.reporting import traces
from identity_server.wiring.settings import sms_settings

_TLS_MODES = {
    TlsMode.PLAIN: smtp.TlsMode.NONE,
    TlsMode.STARTTLS: smtp.TlsMode.STARTTLS,
    TlsMode.TLS: smtp.TlsMode.IMPLICIT,
}

CountDelivery = Callable[[str, str, str], None]
"""Is told the medium, the provider and the outcome."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside world."""

    clock: Clock
    randomness: Randomness
    homeservers: Homeservers
    origin_keys: OriginKeys
    mail: MailTransport
    sms: SmsTransport | None
    traces: Traces | None = None


@asynccontextmanager
async def real_ports(
    config: Config, templates: Templates, *, count: CountDelivery = lambda _medium, _provider, _outcome: None
) -> AsyncIterator[Ports]:
    """The real outside world, as configured.

    Args:
        config: how to reach it.
        templates: what mails look like.
        count: is told what relay and providers say to mails and texts.
    """
    clock, randomness = SystemClock(), SystemRandomness()
    mails = make_mails(config, clock, templates)
    sms = build_sms_transport(sms_settings(config), clock=clock, count=partial(count, Medium.MSISDN))
    transport = make_mail_transport(config, mails)
    mail = CountedMail(transport, count=partial(count, Medium.EMAIL, str(config.email.transport)))
    federation = make_federation(config, clock, randomness)
    origin_keys = PublishedKeys(federation=federation, clock=clock)
    try:
        with traces(config) as traced:
            yield Ports(clock, randomness, federation, origin_keys, mail, sms, traced)
    finally:
        if sms is not None:
            await sms.close()
        await transport.close()
        await origin_keys.close()
        await federation.close()


def make_federation(config: Config, clock: Clock, randomness: Randomness) -> Federation:
    return Federation(
        clock=clock,
        randomness=randomness,
        screen=AddressScreen(blacklist=config.general.ip_blacklist, whitelist=config.general.ip_whitelist),
        verify_certs=config.http.federation_verifycerts,
        ca_file=config.http.federation_ca_file,
        nameservers=config.http.federation_nameservers,
    )


def make_mails(config: Config, clock: Clock, templates: Templates) -> Mails:
    mails = Mails(templates=templates, clock=clock, sender=config.email.from_)
    mails.check()
    return mails


def make_mail_transport(config: Config, mails: Mails) -> SmtpTransport | ConsoleTransport:
    if config.email.transport == "console":
        return ConsoleTransport(mails=mails)
    relay = smtp.SmtpRelay(
        host=config.email.smtphost,
        port=config.email.smtpport,
        ehlo_name=config.mail_host,
        tls=_TLS_MODES[config.email.tlsmode],
        username=config.email.smtpusername or "",
        password=config.email.smtppassword or "",
        ca_file=config.email.smtp_ca_file,
    )
    return SmtpTransport(mails=mails, relay=relay)
