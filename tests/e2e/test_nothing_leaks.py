"""After everything that the stories do, the database and the log hold nothing that they must not."""

from __future__ import annotations

import pytest
from unpaddedbase64 import decode_base64

from tests.e2e.conftest import Newcomer
from tests.e2e.identity import IdentityServer
from tests.e2e.mailbox import Mailbox
from tests.support.leaks import Ledger

pytestmark = pytest.mark.e2e


def test_neither_database_nor_log_ever_holds_a_secret(
    newcomer: Newcomer, mailbox: Mailbox, identity_server: IdentityServer, ledger: Ledger
) -> None:
    """Looked at whenever something is under way, not only at the end, when it may have been cleaned up."""
    judy = newcomer("judy")
    judy.join_identity_server()
    proof = judy.ask_for_mail("Judy.Quicksilver@Example.org")
    letter = mailbox.take("judy.quicksilver@example.org")
    page = judy.open_link(letter)
    assert _leaks(identity_server, ledger, owner=judy.user_id) == {}

    judy.press_confirm(page)
    judy.bind(proof)
    assert judy.look_up("judy.quicksilver@example.org") == {"judy.quicksilver@example.org": judy.user_id}
    assert _leaks(identity_server, ledger, owner=judy.user_id) == {}

    judy.unbind_by_session(proof)
    judy.log_out()
    assert _leaks(identity_server, ledger, owner=judy.user_id) == {}


def test_neither_database_nor_log_holds_a_key(identity_server: IdentityServer) -> None:
    keys = Ledger()
    for path in identity_server.place.keys.iterdir():
        # A key file's last word is the key itself, whatever stands before it.
        text = path.read_text().split()[-1]
        keys.note(f"{path.name} in base64", text)
        keys.note(path.name, decode_base64(text))

    assert identity_server.leaks(keys) == {}


def _leaks(server: IdentityServer, ledger: Ledger, *, owner: str) -> dict[str, set[str]]:
    """What was found, by where, once it is plain that the search sees the data and the requests at all."""
    places = server.kept()
    # Matrix IDs and the paths of requests stay readable.
    traces = {"dump": owner.encode(), "files": owner.encode(), "log": b"/validate/email/requestToken"}
    assert [name for name, trace in traces.items() if trace not in places[name]] == []
    return server.leaks(ledger)
