"""Run by Sydent's own Python: lets the real Sydent write its database, and prints what a client would know.

    .venv-sydent/bin/python fill_sydent.py < steps.json

The one rule: nothing here writes a row by itself; Sydent's own classes do.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import Any

from sydent.config import SydentConfig
from sydent.db.accounts import AccountStore
from sydent.db.invite_tokens import JoinTokenStore
from sydent.db.terms import TermsStore
from sydent.db.threepid_associations import GlobalAssociationStore
from sydent.db.valsession import ThreePidValSessionStore
from sydent.sydent import Sydent, get_config_file_path
from sydent.threepid import threePidAssocFromDict


class Steps:
    """What can be done; each answers with what its caller would be told."""

    def __init__(self, sydent: Any) -> None:
        self._sydent = sydent

    def bind(self, medium: str, address: str, mxid: str) -> Any:
        return self._sydent.threepidBinder.addBinding(medium, address, mxid)

    def unbind(self, medium: str, address: str, mxid: str) -> None:
        self._sydent.threepidBinder.removeBinding({"medium": medium, "address": address}, mxid)

    def replicate(self, association: dict[str, Any], origin: str, origin_id: int) -> None:
        parsed = threePidAssocFromDict(association)
        GlobalAssociationStore(self._sydent).addAssociation(parsed, json.dumps(association), origin, origin_id)

    def account(self, user_id: str, created_ms: int, consent: str | None, token: str) -> None:
        accounts = AccountStore(self._sydent)
        accounts.storeAccount(user_id, created_ms, consent)
        accounts.addToken(user_id, token)

    def agree(self, user_id: str, urls: list[str]) -> None:
        TermsStore(self._sydent).addAgreedUrls(user_id, urls)

    def invite(self, address: str, room_id: str, sender: str, token: str, public_key: str) -> None:
        invites = JoinTokenStore(self._sydent)
        invites.storeToken("email", address, room_id, sender, token)
        invites.storeEphemeralPublicKey(public_key)

    def session(self, medium: str, address: str, client_secret: str, validated: bool) -> Any:
        sessions = ThreePidValSessionStore(self._sydent)
        session, token = sessions.getOrCreateTokenSession(medium, address, client_secret)
        if validated:
            sessions.setValidated(session.id, True)
        return {"sid": str(session.id), "token": token.token}


def main() -> None:
    # Sydent tells there of a key that it has made.
    with redirect_stdout(sys.stderr):
        config = SydentConfig()
        config.parse_config_file(get_config_file_path())
        steps = Steps(Sydent(config))
        answers = [getattr(steps, name)(*arguments) for name, *arguments in json.load(sys.stdin)]
    json.dump(answers, sys.stdout)


main()
