"""Sends text messages, through any of several providers, each of which is one file here.

    openmarket.py  twilio.py  vonage.py  webhook.py  log.py   the providers
    posting.py     one POST to a provider, and what its answer means
    routing.py     which of them a message is offered to
    build.py       from the operator's choice to one transport

The rule: every answer of a provider becomes one of four outcomes (taken, refused, postponed, unknown), and what
may have been sent is never sent again.
"""

from identity_server.outbound.sms.build import (
    BUILT_IN_PROVIDERS,
    ProviderFactory,
    ProviderProblem,
    ProviderTools,
    SmsSettings,
    build_sms_transport,
)
from identity_server.outbound.sms.openmarket import OpenMarketAccount
from identity_server.outbound.sms.posting import AccountProblem, Poster, PostLimits, Reply, require_accepted
from identity_server.outbound.sms.routing import SmsRouter
from identity_server.outbound.sms.twilio import TwilioAccount
from identity_server.outbound.sms.vonage import VonageAccount
from identity_server.outbound.sms.webhook import Webhook

__all__ = [
    "BUILT_IN_PROVIDERS",
    "AccountProblem",
    "OpenMarketAccount",
    "PostLimits",
    "Poster",
    "ProviderFactory",
    "ProviderProblem",
    "ProviderTools",
    "Reply",
    "SmsRouter",
    "SmsSettings",
    "TwilioAccount",
    "VonageAccount",
    "Webhook",
    "build_sms_transport",
    "require_accepted",
]
