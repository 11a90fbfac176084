"""Starts everything that the story needs, on free ports of loopback and in one directory.

The one rule: the identity server is the real one, composed as `serve` does it; only its surroundings are samples.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from aiohttp import ClientSession, ClientTimeout, TCPConnector
from aiohttp.web_runner import SockSite

from identity_server.api.protocol import Runner
from identity_server.app import background_work, open_system
from identity_server.config import Config, load
from identity_server.demo.mail_catcher import MailCatcher, running_mail_catcher
from identity_server.demo.sample_homeserver import SampleHomeserver, running_homeserver
from identity_server.server import open_socket
from identity_server.shipped import shipped
from identity_server.wiring.settings import load_templates
from identity_server.wiring.world import real_ports

_SECONDS_FOR_AN_ANSWER = 15


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of one demo, and what is where in it."""

    directory: Path

    @property
    def database(self) -> Path:
        """A directory with the database's files and nothing else."""
        return self.directory / "database"

    @property
    def keys(self) -> Path:
        """The server's own keys, apart from the database."""
        return self.directory / "keys"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.directory / "server.log"


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs.

    Attributes:
        session: what the users' apps and browsers send their requests with; trusts the demo's own authority.
    """

    config: Config
    place: Place
    homeserver: SampleHomeserver
    mails: MailCatcher
    session: ClientSession

    @property
    def url(self) -> str:
        """Where the identity server is."""
        return self.config.public_base_url


@asynccontextmanager
async def set_stage(place: Place) -> AsyncIterator[Stage]:
    """Start the sample homeserver, the mail catcher and the identity server; stop them at the end of the block."""
    certificates = _Certificates(place.directory)
    tls = certificates.for_servers()
    async with running_homeserver(tls) as homeserver, running_mail_catcher(tls) as mails:
        with open_socket("127.0.0.1", 0) as listener:
            port = listener.getsockname()[1]
            config = _configuration(place, certificates, port=port, smtp_port=mails.port)
            connector = TCPConnector(ssl=certificates.for_clients())
            timeout = ClientTimeout(total=_SECONDS_FOR_AN_ANSWER)
            templates = load_templates(config)
            async with (
                real_ports(config, templates) as ports,
                open_system(config, ports, templates) as system,
                background_work(system),
                ClientSession(connector=connector, timeout=timeout) as session,
            ):
                runner = Runner(system.app, shutdown_timeout=1)
                await runner.setup()
                try:
                    await SockSite(runner, listener, ssl_context=tls).start()
                    yield Stage(config=config, place=place, homeserver=homeserver, mails=mails, session=session)
                finally:
                    await runner.cleanup()


def _configuration(place: Place, certificates: _Certificates, *, port: int, smtp_port: int) -> Config:
    """Settings as an operator gives them; those of the surroundings don't count, so every demo is the same."""
    conf = place.directory / "sydent.conf"
    conf.touch()
    variables = {
        "GENERAL__SERVER_NAME": f"localhost:{port}",
        "GENERAL__TERMS_PATH": str(shipped("terms")),
        # Homeservers in private networks are refused unless they are named.
        "GENERAL__IP_WHITELIST": "127.0.0.0/8,::1",
        "DB__DB_FILE": str(place.database / "identity.db"),
        "CRYPTO__KEY_DIR": str(place.keys),
        "HTTP__CLIENTAPI_HTTP_BIND_ADDRESS": "127.0.0.1",
        "HTTP__CLIENTAPI_HTTP_PORT": str(port),
        "HTTP__CLIENT_HTTP_BASE": f"https://localhost:{port}",
        "HTTP__FEDERATION_CA_FILE": str(certificates.authority),
        "EMAIL__EMAIL_FROM": "Identity server demo <noreply@id.example.org>",
        "EMAIL__EMAIL_SMTPHOST": "localhost",
        "EMAIL__EMAIL_SMTPPORT": str(smtp_port),
        "EMAIL__EMAIL_TLSMODE": "TLS",
        "EMAIL__EMAIL_SMTP_CA_FILE": str(certificates.authority),
    }
    return load(conf, environ={f"IDENTITY_SERVER__{name}": value for name, value in variables.items()})


class _Certificates:
    """A certificate authority of the demo's own, with one certificate for `localhost`.

    Attributes:
        authority: its root certificate, as a file.
    """

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self._localhost = self._ca.issue_cert("localhost", "127.0.0.1")
        self.authority = directory / "authority.pem"
        self._ca.cert_pem.write_to_path(self.authority)

    def for_servers(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._localhost.configure_cert(context)
        return context

    def for_clients(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self._ca.configure_trust(context)
        return context
