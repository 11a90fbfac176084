"""A Sydent as an operator has it, with terms and a brand of their own, and its move to this server.

The one rule: the move is what docs/migrating-from-sydent.md says, and nothing beyond it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.identity import IdentityServer, Place
from tests.e2e.processes import reserve_port
from tests.e2e.web import Web
from tests.sydent.real import Sydent

MAIL_SUBJECT = "Harbour office: is this address yours?"
INVITE_GREETING = "The harbour office has a berth for you"
PAGE_HEADING = "Harbour office"
TERMS_URLS = ("https://example.org/harbour-rules-3-en.html", "https://example.org/harbour-privacy-1-de.html")

_TERMS = f"""
master_version: "harbour 3"
docs:
  rules:
    version: "3"
    langs:
      en: {{name: "Harbour rules", url: "{TERMS_URLS[0]}"}}
  privacy:
    version: "1"
    langs:
      de: {{name: "Datenschutz im Hafen", url: "{TERMS_URLS[1]}"}}
"""

# One template in each of the two forms that Sydent knows.
_VERIFICATION = f"""\
From: {{{{ from|safe }}}}
To: {{{{ to|safe }}}}
Date: {{{{ date|safe }}}}
Message-ID: {{{{ messageid|safe }}}}
Subject: {MAIL_SUBJECT}
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="{{{{ multipart_boundary|safe }}}}"

--{{{{ multipart_boundary|safe }}}}
Content-Type: text/plain; charset=UTF-8

Ahoi! Von {{{{ ipaddress|safe }}}} aus wurde gefragt. Über die Brücke: {{{{ link|safe }}}}
--{{{{ multipart_boundary|safe }}}}
Content-Type: text/html; charset=UTF-8

<p>Ahoi! <a href="{{{{ link }}}}">Über die Brücke</a></p>
--{{{{ multipart_boundary|safe }}}}--
"""
_INVITE = """\
From: %(from)s
To: %(to)s
Date: %(date)s
Message-ID: %(messageid)s
Subject: %(subject_header_value)s
MIME-Version: 1.0
Content-Type: text/plain; charset=UTF-8

{greeting}: %(sender_display_name)s %(bracketed_verified_sender)sinvites to %(bracketed_room_name)sand hopes to see you.
%(web_client_location)s/#/room/%(room_id_forurl)s?email=%(to_forurl)s&signurl={signurl}&room_name=%(room_name_forurl)s
"""
_SIGN_URL = (
    "https%%3A%%2F%%2F{host}%%3A{port}%%2F_matrix%%2Fidentity%%2Fapi%%2Fv1%%2Fsign-ed25519"
    "%%3Ftoken%%3D%(token)s%%26private_key%%3D%(ephemeral_private_key)s"
)
_PAGE = f"<!doctype html>\n<style>p {{ width: 100%% }}</style>\n<h1>{PAGE_HEADING}</h1><p>%(message)s</p>\n"


class OldInstallation:
    """A Sydent behind a reverse proxy.

    Args:
        folder: its own folder.
        name: its server name, host and port of the proxy.
        smtp_port: where its relay listens, on loopback.

    Attributes:
        port: where it listens, without TLS; so does whoever takes its place.
        sydent: the program.
        database: its database.
    """

    def __init__(self, folder: Path, *, name: str, smtp_port: int) -> None:
        self._folder = folder
        self.port = reserve_port()
        self.database = folder / "sydent.db"
        for path, text in _files(name).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        self._conf = folder / "sydent.conf"
        self._conf.write_text(self._first_conf(name, smtp_port=smtp_port))
        self.sydent = Sydent(self._conf, port=self.port)

    def _first_conf(self, name: str, *, smtp_port: int) -> str:
        """As the operator wrote it. There is no key in it: Sydent makes one, and rewrites the file with everything."""
        return f"""\
[general]
server.name = {name}
pidfile.path = {self._folder}/sydent.pid
terms.path = {self._folder}/terms.yaml
templates.path = {self._folder}/res
brand.default = harbour
ip.whitelist = 127.0.0.0/8,::1/128

[db]
db.file = {self.database}

[http]
clientapi.http.bind_address = 127.0.0.1
clientapi.http.port = {self.port}
client_http_base = https://{name}
obey_x_forwarded_for = true
# The homeserver of these tests is vouched for by an authority that no system knows.
federation.verifycerts = false

[email]
email.from = Harbour office <office@example.org>
email.invite.subject = %(sender_display_name)s waits for you in the harbour
email.hostname = localhost
email.smtphost = 127.0.0.1
email.smtpport = {smtp_port}
"""

    def stop(self) -> None:
        """As `systemctl stop` does."""
        self.sydent.program.stop()

    def prepare_move(self, folder: Path, *, web: Web) -> IdentityServer:
        """Give the server that is to take over Sydent's configuration, and change what has to be changed in the copy."""
        place = Place(folder=folder, listener=f"http://127.0.0.1:{self.port}")
        changes = {"pidfile.path": "", "db.file": f"{place.database}"}
        return IdentityServer(place, _changed(self._conf.read_text(), changes, key_dir=place.keys), web=web)


def _files(name: str) -> Mapping[str, str]:
    host, _, port = name.partition(":")
    invite = _INVITE.format(greeting=INVITE_GREETING, signurl=_SIGN_URL.format(host=host, port=port))
    return {
        "terms.yaml": _TERMS,
        "res/harbour/verification_template.eml.j2": _VERIFICATION,
        "res/harbour/invite_template.eml": invite,
        "res/harbour/verify_response_template.html": _PAGE,
    }


def _changed(conf: str, changes: Mapping[str, str], *, key_dir: Path) -> str:
    """A conf with other values for some keys, and `crypto.key_dir`, which Sydent doesn't know."""
    for key, value in changes.items():
        conf = re.sub(rf"(?m)^{re.escape(key)} *=.*$", f"{key} = {value}", conf)
    assert conf.count("[crypto]\n") == 1, "Sydent has not written its key"
    return conf.replace("[crypto]\n", f"[crypto]\nkey_dir = {key_dir}\n")
