"""Where handlers find what they call."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from identity_server.api.proxies import TrustedProxies
from identity_server.api.request_ids import RequestIds
from identity_server.api.request_log import RequestLog
from identity_server.domain.retention import Kept
from identity_server.metrics import Metrics
from identity_server.rendering.pages import Pages
from identity_server.services import Services


@dataclass(frozen=True, slots=True)
class V1Switches:
    """How much of the deprecated v1 API is served beyond what must always answer.

    Attributes:
        access: validation, getValidated3pid, unbind and store-invite, all without accounts.
        associations: also binding, to any Matrix ID.
        lookup: also lookups in plain text, for anyone.
    """

    access: bool = False
    associations: bool = False
    lookup: bool = False


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """What the configuration says about HTTP.

    Attributes:
        public_base_url: where the world reaches this server; without a slash at its end.
        accept_query_token: whether GET takes `?access_token=`, which Synapse still sends.
        trusted_proxies: whose X-Forwarded-For is believed.
        body_timeout_seconds: how long a body may take to arrive.
        next_link_hosts: hosts that a finished validation may redirect to; None means any.
        v1: what is served of v1.
        internal_secret: what callers of the internal listener must show; None for nothing.
        log_form: "json" or "console".
        request_id_header: where trusted proxies write the id that they gave a request; None if they don't.
        retention: what is kept, why, and for how long.
    """

    public_base_url: str
    accept_query_token: bool
    trusted_proxies: TrustedProxies
    body_timeout_seconds: float
    next_link_hosts: frozenset[str] | None
    v1: V1Switches
    internal_secret: str | None
    log_form: str
    request_id_header: str | None
    retention: tuple[Kept, ...]


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
PAGES: web.AppKey[Pages] = web.AppKey("pages", Pages)
SETTINGS: web.AppKey[HttpSettings] = web.AppKey("settings", HttpSettings)
REQUEST_IDS: web.AppKey[RequestIds] = web.AppKey("request_ids", RequestIds)
REQUEST_LOG: web.AppKey[RequestLog] = web.AppKey("request_log", RequestLog)
METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
