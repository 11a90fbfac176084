"""The sections of `sydent.conf`, one class each: every key with its reader, default and documentation.

Sydent's keys keep their names, defaults and meanings; where one can't, its declaration says what differs and
who notices. The one rule: what the declarations say is the documentation (`identity_server/config/documents.py`
writes the example file and the reference page from them).
"""

# key() makes a dataclasses.field(); the rule knows only field() itself.
# ruff: noqa: RUF009

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from identity_server.config import values
from identity_server.config.keys import Section, key, section
from identity_server.config.problems import Problem
from identity_server.config.values import Network, Originator, SmsRule, TlsMode
from identity_server.domain.association import Visibility
from identity_server.domain.identifiers import split_server_name

_LOCAL_NETWORKS = (
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
)

_ADDRESSES = values.whole(1, 10**12)


@dataclass(frozen=True, slots=True)
class General:
    """Who this server is, what it logs, which terms apply and whom it talks to."""

    server_name: str = key(
        "server.name",
        values.SERVER_NAME,
        doc="""The name of this identity server: what it signs as, and what homeservers address it by. It must be the
        host that people enter as their identity server. Empty: the name of the machine, with a warning.
        Also taken from `SYDENT_SERVER_NAME`.""",
    )
    server_aliases: tuple[str, ...] = key(
        "server.aliases",
        values.listed(values.ALIAS),
        new=True,
        doc="""Further names under which homeservers may address signed requests to this server, besides
        `server.name` and the host of `client_http_base`.""",
    )
    log_path: Path | None = key(
        "log.path",
        values.optional(values.PATH),
        doc="""The log file; a new one is begun each midnight and 365 are kept. Empty: standard error.""",
    )
    log_level: str = key("log.level", values.LOG_LEVEL, "INFO", doc="""The least severe messages that are logged.""")
    log_format: Literal["console", "json"] = key(
        "log.format",
        values.choice("console", "json"),
        "console",
        new=True,
        doc="""How a log line looks: `console` for people, `json` for machines (one object per line).""",
    )
    pidfile_path: Path | None = key(
        "pidfile.path",
        values.optional(values.PATH),
        "sydent.pid",
        doc="""Where the process id is written. Empty: nowhere. Also taken from `SYDENT_PID_FILE`.""",
    )
    terms_path: Path | None = key(
        "terms.path",
        values.optional(values.PATH),
        reads_differently="""A directory of Markdown policies is taken as well as Sydent's YAML file. A path that doesn't
        exist stops the start.""",
        doc="""The terms of service that everyone must accept: Sydent's YAML file, or a directory of policies in
        Markdown. Changes count without a restart. Empty: there are no terms.""",
    )
    terms_erase_unaccepted_after_days: int | None = key(
        "terms.erase_unaccepted_after_days",
        values.optional(values.GRACE_DAYS),
        new=True,
        doc="""How many days an account has to accept the terms in force, from when they came into force or from when
        it was made. After half of them whoever has an e-mail address bound is warned by mail, if `email.notices` is on;
        and not before as long again, everything about the account and its addresses is erased. Empty: never.""",
    )
    address_lookup_limit: int = key(
        "address_lookup_limit", values.POSITIVE, "10000", doc="""How many addresses one lookup may hold."""
    )
    templates_path: Path | None = key(
        "templates.path",
        values.optional(values.PATH),
        sydent_default="`res`, a directory of its sources",
        breaks="Whoever edited Sydent's own `res` directory in place: name it here.",
        doc="""A directory of templates for mails and pages, one subdirectory per brand; templates in Sydent's form work as
        they are. Empty: the templates that come with this server.""",
    )
    brand_default: str = key(
        "brand.default",
        values.BRAND,
        "matrix-org",
        doc="""The brand used when a request names none, or one that `templates.path` doesn't have. A brand that isn't
        there either means the templates that come with this server.""",
    )
    default_language: str = key(
        "default_language",
        values.LANGUAGE,
        "en",
        new=True,
        doc="""The language of mails and pages for people who asked for none that there is.""",
    )
    prometheus_port: int | None = key(
        "prometheus_port",
        values.optional(values.PORT),
        doc="""The port of the metrics listener; it needs `prometheus_addr`, too. Empty: off.""",
    )
    prometheus_addr: str | None = key(
        "prometheus_addr",
        values.optional(values.HOST),
        doc="""The address of the metrics listener; it needs `prometheus_port`, too.""",
    )
    sentry_dsn: str | None = key(
        "sentry_dsn",
        values.optional(values.DSN),
        secret=True,
        reads_differently="""What is sent is the kind of an error, where in the code it happened, the pattern of the route and the
        id of the request; neither the error's text nor anything of the request. Sydent sends those, too.""",
        doc="""Where unexpected errors are reported: a DSN of Sentry, or of something that speaks its protocol. It needs
        `pip install matrix-identity-server[sentry]`. Empty: nowhere.""",
    )
    otlp_endpoint: str | None = key(
        "otlp_endpoint",
        values.optional(values.WEB_URL),
        new=True,
        doc="""Where traces of requests and jobs go: the base URL of a collector that takes OpenTelemetry's protocol over
        HTTP, `http://localhost:4318` say. It needs `pip install matrix-identity-server[opentelemetry]`. Empty: nowhere.""",
    )
    otlp_share: float = key(
        "otlp_share",
        values.SHARE,
        "1",
        new=True,
        doc="""The share of requests and jobs that are traced, from 0 to 1, unless `trusted_proxies` have decided it for a
        request already.""",
    )
    enable_v1_associations: bool = key(
        "enable_v1_associations",
        values.GENERAL_BOOLEAN,
        "false",
        sydent_default="`true`",
        breaks="Clients that bind by the v1 API, which asks for no account: update them, or set this to `true`.",
        doc="""Whether bind is served on the v1 API, where anyone may bind to any Matrix ID. It needs
        `enable_v1_access`.""",
    )
    enable_v1_access: bool = key(
        "enable_v1_access",
        values.GENERAL_BOOLEAN,
        "false",
        sydent_default="`true`",
        breaks="""A Synapse with `account_threepid_delegates.msisdn`, which validates phone numbers by the v1 API, and
        clients older than 2019: set this to `true` for them.""",
        doc="""Whether the v1 API is served, which knows neither accounts nor consent: validation, getValidated3pid and
        store-invite. Lookups on v1 need `enable_v1` in `[lookup]`, too.""",
    )
    delete_tokens_on_bind: bool = key(
        "delete_tokens_on_bind",
        values.GENERAL_BOOLEAN,
        "true",
        doc="""Whether invites to an address are deleted once its owner's homeserver has been told of them.""",
    )
    ip_blacklist: tuple[Network, ...] = key(
        "ip.blacklist",
        values.listed(values.NETWORK),
        reads_differently="""The list is added to the private and special networks, which are always refused; for
        Sydent it replaces them. Whoever listed less than those to reach an internal homeserver must name that one
        in `ip.whitelist`.""",
        doc="""Networks that this server never connects to on behalf of others, besides the private and special ones,
        which are always refused.""",
    )
    ip_whitelist: tuple[Network, ...] = key(
        "ip.whitelist",
        values.listed(values.NETWORK),
        doc="""Networks that may be connected to although they are private or stand in `ip.blacklist`: homeservers in
        your own network.""",
    )
    homeserver_allow_list: tuple[str, ...] = key(
        "homeserver_allow_list",
        values.listed(values.SERVER_PATTERN),
        reads_differently="""It holds for every request, not for registration alone: accounts of other homeservers that
        exist already stop working. Case doesn't matter, and `*` and `?` are wildcards. `enable_v1_access` may be
        on: v1 has no accounts, so there is nobody there to allow or refuse, but nothing is bound there to users of
        other homeservers.""",
        doc="""The homeservers whose users may register and use their accounts. Empty: all. A name without port stands
        for that homeserver alone; `*.example.org` for all whose names end so.""",
    )
    homeserver_deny_list: tuple[str, ...] = key(
        "homeserver_deny_list",
        values.listed(values.SERVER_PATTERN),
        new=True,
        doc="""The homeservers whose users may not, even if `homeserver_allow_list` has them. A name without port stands
        for every port of that host. They can still unbind and log out.""",
    )
    homeserver_bind_allow_list: tuple[str, ...] = key(
        "homeserver_bind_allow_list",
        values.listed(values.SERVER_PATTERN),
        new=True,
        doc="""The homeservers to whose users addresses may be bound, among those that may use this server at all. Empty:
        all. Written as `homeserver_allow_list`.""",
    )
    homeserver_bind_deny_list: tuple[str, ...] = key(
        "homeserver_bind_deny_list",
        values.listed(values.SERVER_PATTERN),
        new=True,
        doc="""The homeservers to whose users no address may be bound anew. What is bound stays. Written as
        `homeserver_deny_list`.""",
    )
    homeserver_lookup_allow_list: tuple[str, ...] = key(
        "homeserver_lookup_allow_list",
        values.listed(values.SERVER_PATTERN),
        new=True,
        doc="""The homeservers whose users may look addresses up, among those that may use this server at all. Empty: all.
        Written as `homeserver_allow_list`.""",
    )
    homeserver_lookup_deny_list: tuple[str, ...] = key(
        "homeserver_lookup_deny_list",
        values.listed(values.SERVER_PATTERN),
        new=True,
        doc="""The homeservers whose users may not look addresses up. Written as `homeserver_deny_list`.""",
    )
    next_link_domain_whitelist: tuple[str, ...] | None = key(
        "next_link_domain_whitelist",
        values.optional(values.DOMAIN_WHITELIST),
        new=True,
        doc="""The hosts that people are redirected to after validation (`next_link`). Any other gets a page that names
        the target instead; so does every host if this is `none`. Empty: every host is redirected to, as the
        specification says, and the confirm page names it beforehand.""",
    )
    access_token_lifetime_days: int = key(
        "access_token_lifetime_days",
        values.DAYS,
        "60",
        new=True,
        sydent_default="tokens live for ever",
        breaks="Nobody lastingly: a client whose token has gone unused for so long registers anew by itself.",
        doc="""After how many days without use an access token dies.""",
    )


@dataclass(frozen=True, slots=True)
class Db:
    """Where the data is."""

    file: Path = key(
        "db.file",
        values.PATH,
        "sydent.db",
        doc="""The SQLite database; created if it isn't there. Also taken from `SYDENT_DB_PATH`. Not used with
        `db.url`.""",
    )
    url: str | None = key(
        "db.url",
        values.optional(values.DATABASE_URL),
        secret=True,
        new=True,
        doc="""A PostgreSQL database, `postgresql+asyncpg://user:password@host/name`. Empty: SQLite in `db.file`. After a
        `?` it may have `ssl=verify-full` (the database's certificate and name are checked; `require` only encrypts),
        `host=/run/postgresql` for a unix socket, and, for several servers, `host=a:5432&host=b:5432` with
        `target_session_attrs=read-write`.""",
    )
    password: str | None = key(
        "db.password",
        values.optional(values.LINE),
        secret=True,
        new=True,
        doc="""The password for `db.url`, where it shouldn't stand in the URL. Without either, `~/.pgpass` is read.""",
    )
    ca_file: Path | None = key(
        "db.ca_file",
        values.optional(values.PATH),
        new=True,
        doc="""Certificate authorities (PEM), one of which must have signed PostgreSQL's certificate, instead of the
        system's. With it, `ssl=verify-full` goes without saying.""",
    )
    pool_size: int = key(
        "db.pool_size",
        values.whole(1, 1000),
        "10",
        new=True,
        doc="""How many PostgreSQL connections each worker uses at most for its work; one more listens for what other
        workers have committed. All of them on all nodes, and a few for the commands, must stay below PostgreSQL's
        `max_connections`.""",
    )
    connect_timeout_seconds: int = key(
        "db.connect_timeout_seconds",
        values.whole(1, 60),
        "5",
        new=True,
        doc="""How long a request waits for a PostgreSQL connection, a new one or one that others use, before it is
        answered with 503.""",
    )
    transaction_pooler: bool = key(
        "db.transaction_pooler",
        values.BOOLEAN,
        "false",
        new=True,
        doc="""Whether `db.url` leads to a pooler that gives a connection to each transaction, such as pgbouncer with
        `pool_mode = transaction`. Statements are then not prepared for later, and commits on other nodes are found
        by looking, twice a second, because a pooler can't pass on what PostgreSQL tells.""",
    )
    notify: bool = key(
        "db.notify",
        values.BOOLEAN,
        "true",
        new=True,
        doc="""Whether commits that others must know of are told by PostgreSQL (NOTIFY). It lets one transaction at a
        time commit that has something to tell; without it, everybody looks twice a second instead.""",
    )
    auto_upgrade: bool = key(
        "db.auto_upgrade",
        values.BOOLEAN,
        "false",
        new=True,
        doc="""Whether a PostgreSQL schema is upgraded at start; otherwise `identity-server db upgrade` does it. SQLite
        always upgrades itself, after a copy.""",
    )


@dataclass(frozen=True, slots=True)
class Http:
    """Where the server listens, how it is reached from outside, and how it trusts homeservers."""

    clientapi_http_bind_address: str = key(
        "clientapi.http.bind_address",
        values.BIND_ADDRESS,
        "::",
        doc="""The address that the client API listens on. Empty: every IPv4 address.""",
    )
    clientapi_http_port: int = key(
        "clientapi.http.port",
        values.PORT,
        "8090",
        doc="""The port that the client API listens on; with 0 the system chooses a free one.""",
    )
    workers: int | None = key(
        "workers",
        values.optional(values.WORKERS),
        new=True,
        doc="""How many processes answer requests. Empty: 1 with SQLite, and one for each processor core with
        PostgreSQL.""",
    )
    clientapi_https_certfile: Path | None = key(
        "clientapi.https.certfile",
        values.optional(values.PATH),
        new=True,
        doc="""The certificate chain (PEM) if the client API itself is to speak TLS. Empty: plain HTTP, for a reverse
        proxy in front.""",
    )
    clientapi_https_keyfile: Path | None = key(
        "clientapi.https.keyfile",
        values.optional(values.PATH),
        new=True,
        doc="""The private key (PEM) that belongs to `clientapi.https.certfile`.""",
    )
    internalapi_http_bind_address: str = key(
        "internalapi.http.bind_address",
        values.BIND_ADDRESS,
        "::1",
        doc="""The address that the internal API listens on. Keep it on loopback, or set `internalapi.secret`.""",
    )
    internalapi_http_port: int | None = key(
        "internalapi.http.port",
        values.optional(values.PORT),
        doc="""The port of the internal API, which binds and unbinds without proof. Empty: off.""",
    )
    internalapi_secret: str | None = key(
        "internalapi.secret",
        values.optional(values.TEXT),
        secret=True,
        new=True,
        doc="""What callers of the internal API must show, as `Authorization: Bearer SECRET`. Empty: nothing.""",
    )
    replication_https_certfile: Path | None = key(
        "replication.https.certfile",
        values.optional(values.PATH),
        reads_differently="""Sydent's replication between servers isn't offered: with a certificate here the server
        doesn't start, unless `replication.ignore` is set. Several servers share one PostgreSQL database instead.""",
        doc="""Sydent's switch for replication, which this server doesn't offer: refused unless empty.""",
    )
    replication_https_cacert: Path | None = key(
        "replication.https.cacert", values.optional(values.PATH), doc="""Part of Sydent's replication; not used."""
    )
    replication_https_bind_address: str = key(
        "replication.https.bind_address", values.BIND_ADDRESS, "::", doc="""Part of Sydent's replication; not used."""
    )
    replication_https_port: int | None = key(
        "replication.https.port",
        values.optional(values.PORT),
        "4434",
        doc="""Part of Sydent's replication; not used.""",
    )
    replication_ignore: bool = key(
        "replication.ignore",
        values.BOOLEAN,
        "false",
        new=True,
        doc="""Start although the file configures Sydent's replication (`replication.https.certfile` or a `[peer.NAME]`
        section). Nothing is replicated then.""",
    )
    obey_x_forwarded_for: bool = key(
        "obey_x_forwarded_for",
        values.BOOLEAN,
        "False",
        reads_differently="""Sydent believes the whole header from anybody. Here it counts only if it comes from
        loopback or a private network, and of its addresses only the right-most that isn't a proxy's. A proxy
        elsewhere must be named in `trusted_proxies`.""",
        doc="""Whether proxies on loopback and in private networks are believed about the client's address
        (`X-Forwarded-For`).""",
    )
    trusted_proxies: tuple[Network, ...] = key(
        "trusted_proxies",
        values.listed(values.NETWORK),
        new=True,
        doc="""The networks of your reverse proxies, which are believed about the client's address. Naming them is
        better than `obey_x_forwarded_for`: limits count by that address.""",
    )
    request_id_header: str | None = key(
        "request_id_header",
        values.optional(values.HEADER),
        new=True,
        doc="""The header in which your reverse proxy tells the id that it gave a request, `X-Request-ID` say; the log then
        calls the request by it. It counts from `trusted_proxies` alone, and the proxy must write it itself: what it
        passes on from the client would get into the log. Empty: requests are given ids here.""",
    )
    federation_verifycerts: bool = key(
        "federation.verifycerts",
        values.BOOLEAN,
        "True",
        reads_differently="""The certificate's name is verified as well as its chain. Whoever talks to a homeserver
        that shows another name's certificate must mend that.""",
        doc="""Whether the certificates of homeservers are verified, chain and name. Without it anybody on the way can
        pose as any homeserver.""",
    )
    federation_ca_file: Path | None = key(
        "federation.ca_file",
        values.optional(values.PATH),
        new=True,
        doc="""Certificate authorities (PEM) trusted for homeservers besides the system's: for a closed network with an
        authority of its own.""",
    )
    federation_nameservers: tuple[tuple[str, int], ...] = key(
        "federation.nameservers",
        values.listed(values.NAMESERVER),
        new=True,
        doc="""The DNS servers that homeservers are looked up with, for networks where the machine's own don't know
        them all. `/etc/hosts` comes first nevertheless. Empty: those of the machine (`/etc/resolv.conf`).""",
    )
    verify_response_template: Path | None = key(
        "verify_response_template",
        values.optional(values.PATH),
        doc="""Deprecated: one HTML file for the page after a link of Sydent's kind was followed, whatever the
        brand.""",
    )
    client_http_base: str = key(
        "client_http_base",
        values.BASE_URL,
        sydent_default="links without a host, which lead nowhere",
        breaks="Nobody: set it nevertheless, or make sure that https://`server.name` leads here.",
        doc="""The URL under which this server is reached from outside, such as `https://id.example.org`: mails, terms
        and keys point there. Empty: https://`server.name`, with a warning.""",
    )
    accept_query_token: bool = key(
        "accept_query_token",
        values.BOOLEAN,
        "true",
        new=True,
        doc="""Whether an access token is also taken from the query (`?access_token=`). The specification has dropped
        this, but Synapse still does it. It is never logged.""",
    )

    @property
    def is_on_loopback(self) -> bool:
        """Whether the client API can be reached from this machine only."""
        address = self.clientapi_http_bind_address
        try:
            return ipaddress.ip_address(address).is_loopback
        except ValueError:
            return address.lower() == "localhost"

    @property
    def proxy_networks(self) -> tuple[Network, ...]:
        """Every network whose word about the client's address counts."""
        local = tuple(map(ipaddress.ip_network, _LOCAL_NETWORKS)) if self.obey_x_forwarded_for else ()
        return tuple(dict.fromkeys((*self.trusted_proxies, *local)))


@dataclass(frozen=True, slots=True)
class Email:
    """How mail is sent, what invites look like, and how much is sent."""

    template: Path | None = key(
        "email.template",
        values.optional(values.PATH),
        doc="""Deprecated: one file in Sydent's form for the validation mail, whatever the brand.""",
    )
    invite_template: Path | None = key(
        "email.invite_template",
        values.optional(values.PATH),
        doc="""Deprecated: one file in Sydent's form for the invite mail, whatever the brand.""",
    )
    transport: Literal["smtp", "console"] = key(
        "email.transport",
        values.choice("smtp", "console"),
        "smtp",
        new=True,
        doc="""`smtp` sends mail; `console` writes it to standard output instead, for trying things out. That is
        refused unless the client API listens on loopback only.""",
    )
    from_: str = key(
        "email.from",
        values.LINE,
        "Sydent Validation <noreply@{hostname}>",
        reads_differently="""`{hostname}` and `{host}` are replaced, by `email.hostname` or else the host of
        `server.name`; Sydent sends the braces as they are.""",
        doc="""The sender of every mail: one address, with or without a name. `{hostname}` is replaced by
        `email.hostname`, or else by the host of `server.name`.""",
    )
    subject: str = key(
        "email.subject",
        values.LINE,
        "Your Validation Token",
        doc="""Without effect, as it is for Sydent: the subject stands in the template.""",
    )
    invite_subject: str = key(
        "email.invite.subject",
        values.LINE,
        "%(sender_display_name)s has invited you to chat",
        doc="""The subject of invites to rooms; the variables of the invite may be used as `%(name)s`.""",
        has_variables=True,
    )
    invite_subject_space: str = key(
        "email.invite.subject_space",
        values.LINE,
        "%(sender_display_name)s has invited you to a space",
        doc="""The subject of invites to spaces; the variables of the invite may be used as `%(name)s`.""",
        has_variables=True,
    )
    notices: bool = key(
        "email.notices",
        values.BOOLEAN,
        "true",
        new=True,
        doc="""Whether the owner of an address is told by mail when it is bound, or no longer bound. A brand that has
        Sydent's templates has no such mail, and sends none.""",
    )
    mail_repeats: bool = key(
        "email.mail_repeats",
        values.BOOLEAN,
        "false",
        new=True,
        doc="""Whether a validation mail is sent again if a client repeats its request with the same `send_attempt`, as
        Sydent does. The specification wants none: turn this on only for an app that can't count.""",
    )
    smtphost: str = key("email.smtphost", values.HOST, "localhost", doc="""The mail relay.""")
    smtpport: int = key(
        "email.smtpport", values.whole(1, values.MAX_PORT), "25", doc="""The port of the mail relay."""
    )
    smtpusername: str | None = key(
        "email.smtpusername",
        values.optional(values.LINE),
        doc="""The user to log in as at the mail relay. Empty: no login.""",
    )
    smtppassword: str | None = key(
        "email.smtppassword",
        values.optional(values.LINE),
        secret=True,
        doc="""The password for `email.smtpusername`. A `%` is written `%%`.""",
    )
    tlsmode: TlsMode = key(
        "email.tlsmode",
        values.TLS_MODE,
        "0",
        reads_differently="""Case doesn't matter, and a word that means nothing stops the start. Sydent takes anything
        but `TLS`, `SSL` and `STARTTLS` in capitals as no encryption at all.""",
        doc="""How the connection to the relay is protected: `0` not at all, `STARTTLS`, or `TLS` from the first byte
        (also written `SSL`). The relay's certificate is verified.""",
    )
    smtp_ca_file: Path | None = key(
        "email.smtp_ca_file",
        values.optional(values.PATH),
        new=True,
        doc="""Certificate authorities (PEM) trusted for the mail relay besides the system's.""",
    )
    hostname: str | None = key(
        "email.hostname",
        values.optional(values.HOST),
        sydent_default="the name of the machine",
        breaks="""Relays that insist on the machine's own name in EHLO: set it to that. (Better for most: the name of a
        machine is seldom known outside.)""",
        doc="""The name that this server gives itself towards the relay (EHLO) and in message ids. Empty: the host of
        `server.name`.""",
    )
    default_web_client_location: str = key(
        "email.default_web_client_location",
        values.WEB_URL,
        "https://app.element.io",
        doc="""The web client that invite mails lead to when the inviting homeserver names none.""",
    )
    third_party_invite_username_obfuscate_characters: int = key(
        "email.third_party_invite_username_obfuscate_characters",
        values.COUNT,
        "3",
        doc="""How many characters of the local part of an invited address the room gets to see.""",
    )
    third_party_invite_domain_obfuscate_characters: int = key(
        "email.third_party_invite_domain_obfuscate_characters",
        values.COUNT,
        "3",
        doc="""How many characters of the domain of an invited address the room gets to see.""",
    )
    third_party_invite_homeserver_blocklist: tuple[str, ...] = key(
        "email.third_party_invite_homeserver_blocklist",
        values.LINES,
        doc="""Homeservers whose users' invites are refused, one per line (indented).""",
    )
    third_party_invite_room_blocklist: tuple[str, ...] = key(
        "email.third_party_invite_room_blocklist",
        values.LINES,
        doc="""Ids of rooms to which invites are refused, one per line (indented).""",
    )
    third_party_invite_keyword_blocklist: tuple[str, ...] = key(
        "email.third_party_invite_keyword_blocklist",
        values.LINES,
        doc="""Words for which an invite is refused wherever they stand in it, one per line (indented).""",
    )
    ratelimit_sender_burst: int = key(
        "email.ratelimit_sender.burst",
        values.POSITIVE,
        "5",
        doc="""How many mails one account may cause at once.""",
    )
    ratelimit_sender_rate_hz: float = key(
        "email.ratelimit_sender.rate_hz",
        values.RATE,
        "1/300",
        doc="""How many mails per second one account may cause in the long run; a fraction may be written.""",
    )
    ratelimit_address_per_day: int = key(
        "email.ratelimit_address.per_day",
        values.POSITIVE,
        "20",
        new=True,
        sydent_default="no limit",
        breaks="Tests that validate one address over and over: raise it for them.",
        doc="""How many validation mails one address gets in a day, whoever asks. One mailbox gets as many mails, invites
        and notices included and whatever stands behind a `+` or between dots; one account causes no more than half of
        them.""",
    )
    ratelimit_address_per_account_and_day: int = key(
        "email.ratelimit_address.per_account_and_day",
        values.POSITIVE,
        "5",
        new=True,
        sydent_default="no limit",
        breaks="Tests that validate one address over and over: raise it for them.",
        doc="""How many validation mails one account can have sent to one address in a day. It is less than
        `email.ratelimit_address.per_day`, so that a stranger can't lock an address out.""",
    )


@dataclass(frozen=True, slots=True)
class Sms:
    """How text messages are sent, by whom, and how many. What the providers expect is told in `docs/sms.md`."""

    body_template: str = key(
        "bodyTemplate",
        values.BODY_TEMPLATE,
        "Your code is {token}",
        doc="""The text of a message; `{token}` is replaced by the code. Unless it is set, it says the same in the
        language of whoever asks. Where it still fits into one SMS, the line by
        which phones offer the code (`@host #code`) is added, unless `#{token}` is in the text.""",
    )
    code_digits: int = key(
        "code_digits",
        values.whole(6, 8),
        "6",
        new=True,
        doc="""How many digits a code has.""",
    )
    privacy_page_per_day: int = key(
        "privacy_page.per_day",
        values.whole(0, 100_000),
        "50",
        new=True,
        doc="""How many codes the privacy page sends in a day, to all numbers together, so that people without an account
        can see and remove what is held about their number. Anybody may ask for one, and you pay for it. With 0 the page
        is for e-mail addresses alone.""",
    )
    providers: tuple[str, ...] | None = key(
        "providers",
        values.optional(values.PROVIDERS),
        new=True,
        doc="""Who sends messages: `openmarket`, `twilio`, `vonage`, `webhook`, `log` (writes them to standard output,
        for trying things out) or the name of a provider of another package. Several are asked in this order, until
        one takes the message. Empty: `openmarket` if `username` and `password` are set, otherwise nobody, and phone
        numbers can't be validated.""",
    )
    provider: dict[str, tuple[str, ...]] = key(
        "provider.*",
        values.PROVIDERS,
        "openmarket",
        member="44",
        member_names=values.CALLING_CODE,
        new=True,
        doc="""Who sends messages to numbers of a country code instead of `providers`: `provider.44` for country code 44.""",
    )
    ca_file: Path | None = key(
        "ca_file",
        values.optional(values.PATH),
        new=True,
        doc="""Certificate authorities (PEM) trusted for providers besides the system's.""",
    )
    openmarket_url: str = key(
        "openmarket.url",
        values.WEB_URL,
        "https://smsc.openmarket.com/sms/v4/mt",
        new=True,
        doc="""Where messages for OpenMarket are posted to.""",
    )
    username: str | None = key(
        "username",
        values.optional(values.LINE),
        doc="""The user of the OpenMarket account.""",
    )
    password: str | None = key(
        "password",
        values.optional(values.LINE),
        secret=True,
        doc="""The password of the OpenMarket account. A `%` is written `%%`.""",
    )
    originators: dict[str, tuple[Originator, ...]] = key(
        "originators.*",
        values.ORIGINATORS,
        "alpha:Matrix",
        member="default",
        member_names=values.COUNTRY_PREFIX,
        has_default_member=True,
        doc="""The senders that OpenMarket shows on messages: `originators.44` for numbers of country code 44, `originators.default`
        for the rest. Each is `long:`, `short:` or `alpha:` and the sender; of several, a number always gets the same
        one.""",
    )
    twilio_url: str = key(
        "twilio.url",
        values.WEB_URL,
        "https://api.twilio.com",
        new=True,
        doc="""The API of Twilio, without path; regions have hosts of their own.""",
    )
    twilio_account_sid: str | None = key(
        "twilio.account_sid",
        values.optional(values.TWILIO_ACCOUNT),
        new=True,
        doc="""The account with Twilio, `AC...`.""",
    )
    twilio_auth_token: str | None = key(
        "twilio.auth_token",
        values.optional(values.LINE),
        secret=True,
        new=True,
        doc="""The auth token of the account with Twilio, or the secret of `twilio.api_key`.""",
    )
    twilio_api_key: str | None = key(
        "twilio.api_key",
        values.optional(values.TWILIO_KEY),
        new=True,
        doc="""An API key of Twilio (`SK...`) to log in with; `twilio.auth_token` is its secret then. Empty: the account
        itself logs in.""",
    )
    twilio_messaging_service_sid: str | None = key(
        "twilio.messaging_service_sid",
        values.optional(values.TWILIO_SERVICE),
        new=True,
        doc="""The messaging service of Twilio (`MG...`) that chooses the sender. It or `twilio.from` is needed.""",
    )
    twilio_from: str | None = key(
        "twilio.from",
        values.optional(values.LINE),
        new=True,
        doc="""The sender of messages through Twilio: a number of yours with `+`, or a name.""",
    )
    vonage_url: str = key(
        "vonage.url",
        values.WEB_URL,
        "https://api.nexmo.com/v1/messages",
        new=True,
        doc="""Where messages for Vonage are posted to (Messages API); regions have hosts of their own.""",
    )
    vonage_api_key: str | None = key(
        "vonage.api_key",
        values.optional(values.LINE),
        new=True,
        doc="""The API key of the account with Vonage.""",
    )
    vonage_api_secret: str | None = key(
        "vonage.api_secret",
        values.optional(values.LINE),
        secret=True,
        new=True,
        doc="""The API secret of the account with Vonage.""",
    )
    vonage_from: str | None = key(
        "vonage.from",
        values.optional(values.LINE),
        new=True,
        doc="""The sender of messages through Vonage: a number of yours, or a name.""",
    )
    webhook_url: str | None = key(
        "webhook.url",
        values.optional(values.WEB_URL),
        new=True,
        doc="""Your own endpoint for messages, which may be private.""",
    )
    webhook_secret: bytes | None = key(
        "webhook.secret",
        values.optional(values.WEBHOOK_SECRET),
        secret=True,
        new=True,
        doc="""The key by which your endpoint knows that a message is from this server (`openssl rand -base64 32` makes
        one).""",
    )
    option: dict[str, str] = key(
        "option.*",
        values.FREE_TEXT,
        member="example_api_key",
        member_names=values.OPTION_NAME,
        secret=True,
        new=True,
        doc="""Settings for a provider of another package, by the names that it asks for.""",
    )
    smsrule: dict[str, SmsRule] = key(
        "smsrule.*",
        values.SMS_RULE,
        "allow",
        member="1",
        member_names=values.COUNTRY_PREFIX,
        doc="""Whether numbers of a country code are served, `smsrule.1` for country code 1: `allow` or `reject`.
        Country codes without a rule are served.""",
    )
    msisdn_ratelimit_burst: int = key(
        "msisdn.ratelimit.burst",
        values.POSITIVE,
        "5",
        doc="""How many messages one number gets at once.""",
    )
    msisdn_ratelimit_rate_hz: float = key(
        "msisdn.ratelimit.rate_hz",
        values.RATE,
        "1/3600",
        doc="""How many messages per second one number gets in the long run.""",
    )
    msisdn_revalidate_after_months: int | None = key(
        "msisdn.revalidate_after_months",
        values.optional(values.MONTHS),
        new=True,
        doc="""After how many months a phone number must be proven and bound anew, because numbers are given to other
        people. Until then it isn't found any more, and after a week its binding is removed. It counts when a number
        is bound; what is bound already stays as it is. Empty: never.""",
    )
    country_ratelimit_burst: int = key(
        "country.ratelimit.burst",
        values.POSITIVE,
        "50",
        doc="""How many messages the numbers of one country code get at once.""",
    )
    country_ratelimit_rate_hz: float = key(
        "country.ratelimit.rate_hz",
        values.RATE,
        "1/60",
        doc="""How many messages per second the numbers of one country code get in the long run.""",
    )

    @property
    def default_providers(self) -> tuple[str, ...]:
        """Who sends to countries that have no provider of their own, in order; empty for nobody."""
        if self.providers is not None:
            return self.providers
        return ("openmarket",) if self.username and self.password else ()

    @property
    def used_providers(self) -> frozenset[str]:
        """Every provider that may be asked."""
        return frozenset((*self.default_providers, *(name for names in self.provider.values() for name in names)))


@dataclass(frozen=True, slots=True)
class Crypto:
    """The two keys of the server: the one that signs, and the root key that everything stored is sealed with.

    Losing the root key loses the data: keep a copy of it apart from the copies of the database.
    """

    ed25519_signingkey: str | None = key(
        "ed25519.signingkey",
        values.optional(values.SIGNING_KEY),
        secret=True,
        sydent_default="a new key, written into the file",
        breaks="""Nobody who has a key in the file. A new installation finds its key in `key_dir`: this server never
        writes to the file, and a hex key stays as it is.""",
        doc="""The signing key, `ed25519 VERSION SEED`. Empty: the key in `key_dir`, made there at the first start.""",
    )
    key_dir: Path = key(
        "key_dir",
        values.PATH,
        "keys",
        new=True,
        doc="""The directory of keys that don't stand in this file. When it isn't set, that is `keys` beside this file.
        It can't be the directory of the database, whose copies must not hold the keys.""",
    )
    at_rest_key: str | None = key(
        "at_rest_key",
        values.optional(values.ROOT_KEY),
        secret=True,
        new=True,
        doc="""The root key, 32 bytes in base64. Empty: the key in `key_dir`, made there at the first start.""",
    )
    at_rest_passphrase: str | None = key(
        "at_rest_passphrase",
        values.optional(values.PASSPHRASE),
        secret=True,
        new=True,
        doc="""A passphrase that the root key is derived from, instead of `at_rest_key`.""",
    )
    at_rest_next_key: str | None = key(
        "at_rest_next_key",
        values.optional(values.ROOT_KEY),
        secret=True,
        new=True,
        doc="""The root key that takes the place of `at_rest_key` or `at_rest_passphrase`, 32 bytes in base64; for as long
        as `keys rotate-root` is at it. Afterwards it belongs into `at_rest_key`.""",
    )
    at_rest_next_passphrase: str | None = key(
        "at_rest_next_passphrase",
        values.optional(values.PASSPHRASE),
        secret=True,
        new=True,
        doc="""The same as a passphrase. Afterwards it belongs into `at_rest_passphrase`.""",
    )


@dataclass(frozen=True, slots=True)
class Lookup:
    """How addresses are looked up. Sydent has no such section."""

    algorithms: tuple[str, ...] = key(
        "algorithms",
        values.ALGORITHMS,
        "sha256",
        new=True,
        sydent_default="`sha256,none`, always",
        breaks="Home-made clients that look up in plain text (`none`); every known client takes `sha256`.",
        doc="""The ways of lookup that are offered: `sha256`, or `sha256,none`. With `none` the server sees the
        addresses.""",
    )
    pepper_rotation_days: int = key(
        "pepper_rotation_days",
        values.DAYS,
        "30",
        new=True,
        sydent_default="the pepper never changes",
        breaks="Clients that keep a pepper for good and don't ask again when told that it is over.",
        doc="""After how many days the pepper of lookups is replaced.""",
    )
    pepper_grace_seconds: int = key(
        "pepper_grace_seconds",
        values.whole(0, 7 * 86400),
        "3600",
        new=True,
        doc="""For how many seconds the previous pepper is still honoured.""",
    )
    budget_per_account: int = key(
        "budget.account",
        _ADDRESSES,
        "10000",
        new=True,
        sydent_default="no limit",
        breaks="Accounts that look up more than all the contacts of several people.",
        doc="""How many different addresses an account may look up for as long as a pepper lives. Asking for one of them
        again costs nothing, so whoever looks up their contacts every day pays for each of them once in
        `pepper_rotation_days`.""",
    )
    budget_per_account_and_day: int = key(
        "budget.account_per_day",
        _ADDRESSES,
        "2000",
        new=True,
        doc="""How many more on every day but the pepper's first.""",
    )
    budget_per_homeserver_and_day: int = key(
        "budget.homeserver_per_day",
        _ADDRESSES,
        "10000",
        new=True,
        sydent_default="no limit",
        breaks="Homeservers whose users look up many addresses and have bound few: raise this.",
        doc="""How many all accounts of a homeserver together may look up for the first time in a day (UTC), at least; the
        same for all homeservers of a registrable domain.""",
    )
    budget_per_homeserver_user: int = key(
        "budget.homeserver_per_user",
        values.whole(0, 10**9),
        "1000",
        new=True,
        doc="""How many for each of their users that an address is bound to, if that comes to more.""",
    )
    budget_per_network_and_day: int = key(
        "budget.network_per_day",
        _ADDRESSES,
        "100000",
        new=True,
        sydent_default="no limit",
        breaks="Installations that take their reverse proxy for the client: set `trusted_proxies`.",
        doc="""How many may be looked up for the first time in a day (UTC) from one client network, a /24 or a /56,
        behind which there may be many people. On v1, where nobody says who asks, every address counts each time.""",
    )
    index_dir: Path | None = key(
        "index_dir",
        values.optional(values.PATH),
        "",
        new=True,
        doc="""The directory of the index that lookups are answered from, 53 bytes and a Matrix ID for each binding. It is
        made from the database, and again when it is lost; it holds no address. Empty: `index` beside `db.file`. The
        workers of one machine share it, and no two machines may.""",
    )
    default_visibility: Visibility = key(
        "default_visibility",
        values.VISIBILITY,
        "everyone",
        new=True,
        doc="""Who may know of a binding whose owner has decided nothing: `everyone`, `homeserver` (users of the same
        homeserver) or `nobody` (invites still arrive). It counts when an address is bound; what is bound already stays
        as it is. Lookups on v1 have no account, so they find what `everyone` may know.""",
    )
    enable_v1: bool = key(
        "enable_v1",
        values.BOOLEAN,
        "false",
        new=True,
        sydent_default="lookups on v1 are served",
        breaks="""Clients and bridges that still look up by v1 (`lookup`, `bulk_lookup`): update them, or set this and
        `enable_v1_access`.""",
        doc="""Whether lookups are served on the v1 API, in plain text and for anybody. It needs
        `enable_v1_access`.""",
    )


@dataclass(frozen=True, slots=True)
class Audit:
    """The audit journal: what was done to bindings and by operators, naming no one. Sydent has none."""

    keep_days: int = key(
        "keep_days",
        values.DAYS,
        "1095",
        new=True,
        doc="""For how many days an entry is kept. What is left can be verified all the same.""",
    )


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the operator decided, checked.

    Attributes:
        path: the file it was read from; None without one.
        warnings: what the operator should know; safe to log.
        given: section and key (as documented) of everything that isn't a default.
    """

    general: General
    db: Db
    http: Http
    email: Email
    sms: Sms
    crypto: Crypto
    lookup: Lookup
    audit: Audit
    path: Path | None = None
    warnings: tuple[Problem, ...] = ()
    given: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False)

    @property
    def public_base_url(self) -> str:
        """The URL under which the world reaches this server, without a slash at its end."""
        return self.http.client_http_base or f"https://{self.general.server_name}"

    @property
    def public_host(self) -> str:
        """The `host[:port]` of `public_base_url`, by which homeservers may address this server, too."""
        return urlsplit(self.public_base_url).netloc.lower()

    @property
    def index_folder(self) -> Path:
        """Where the index of lookups is."""
        return self.lookup.index_dir or self.db.file.parent / "index"

    @property
    def mail_host(self) -> str:
        """The host that stands for `{hostname}` in `email.from`."""
        return self.email.hostname or split_server_name(self.general.server_name)[0]


@cache
def all_sections() -> tuple[Section, ...]:
    """Every section and its keys, in the order of the documentation."""
    return (
        section("general", General),
        section("db", Db),
        section("http", Http),
        section("email", Email),
        section("sms", Sms),
        section("crypto", Crypto),
        section("lookup", Lookup),
        section("audit", Audit),
    )
