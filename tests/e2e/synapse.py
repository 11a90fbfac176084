"""A real Synapse on SQLite and loopback, with TLS.

Clients talk to it directly; other servers find it by its name, which leads to the gate in front of it. It finds them
the same way.

The one rule: it trusts the test's certificate authority and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import signedjson.key
import yaml

from tests.e2e.certificates import Authority
from tests.e2e.processes import Program, reserve_port
from tests.e2e.web import Web

_REPOSITORY = Path(__file__).parents[2]
PYTHON = _REPOSITORY / ".venv-synapse" / "bin" / "python"
_NAMES = "tests.e2e.synapse_names.NameServer"


class Synapse:
    """One homeserver.

    Attributes:
        name: the server name.
        port: where it listens, on loopback.
        url: the base URL of its client API; the federation API is there as well.

    Args:
        sms_by: the URL of the identity server that sends text messages for it.
        nameserver: host and port of the name server that knows the other homeservers; the machine's unless given.
    """

    def __init__(
        self, folder: Path, *, name: str, authority: Authority, web: Web, sms_by: str = "", nameserver: str = ""
    ) -> None:
        self.name = name
        self.port = reserve_port()
        self.url = f"https://localhost:{self.port}"
        self._web = web
        folder.mkdir()
        config = folder / "homeserver.yaml"
        tls = {
            "tls_certificate_path": str(authority.localhost.chain),
            "tls_private_key_path": str(authority.localhost.key),
        }
        delegates = {"account_threepid_delegates": {"msisdn": sms_by}} if sms_by else {}
        names = {"modules": [{"module": _NAMES, "config": {"address": nameserver}}]} if nameserver else {}
        config.write_text(yaml.safe_dump(_config(name, self.port, folder=folder) | tls | delegates | names))
        _write_signing_key(folder / "signing.key")
        # How an operator makes Synapse trust a private identity server, and homeservers.
        trust = {"SSL_CERT_FILE": str(authority.file)}
        self.program = Program(
            f"Synapse {name}",
            [PYTHON, "-m", "synapse.app.homeserver", "-c", config],
            log=folder / "synapse.log",
            home=folder,
            env=trust | ({"PYTHONPATH": str(_REPOSITORY)} if nameserver else {}),
        )

    def start(self) -> None:
        """Start it, without waiting."""
        self.program.start()

    def wait_until_ready(self) -> None:
        """Wait until it answers clients."""
        url = f"{self.url}/_matrix/client/versions"
        self.program.wait_until(lambda: self._web.answers(url))


def _write_signing_key(path: Path) -> None:
    with path.open("w") as file:
        signedjson.key.write_signing_keys(file, [signedjson.key.generate_signing_key("a_e2e")])


def _config(name: str, port: int, *, folder: Path) -> dict[str, object]:
    plenty = {"per_second": 1000, "burst_count": 1000}
    return {
        "server_name": name,
        "public_baseurl": f"https://localhost:{port}/",
        "listeners": [
            {
                "port": port,
                "tls": True,
                "type": "http",
                "bind_addresses": ["127.0.0.1"],
                "resources": [{"names": ["client", "federation"]}],
            }
        ],
        "database": {"name": "sqlite3", "args": {"database": str(folder / "synapse.db")}},
        "media_store_path": str(folder / "media"),
        "signing_key_path": str(folder / "signing.key"),
        "pid_file": str(folder / "synapse.pid"),
        "macaroon_secret_key": "only for this test",
        "form_secret": "only for this test",
        "report_stats": False,
        # Whoever asks again wants to know what is new.
        "caches": {"sync_response_cache_duration": "0s"},
        "trusted_key_servers": [],
        # The identity server is on loopback, which Synapse otherwise refuses to call.
        "ip_range_whitelist": ["127.0.0.0/8", "::1/128"],
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "bcrypt_rounds": 4,
        "rc_registration": plenty,
        "rc_login": {"address": plenty, "account": plenty, "failed_attempts": plenty},
        "rc_message": plenty,
        "rc_third_party_invite": plenty,
        "rc_invites": {"per_room": plenty, "per_user": plenty, "per_issuer": plenty},
    }
