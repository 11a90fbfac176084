"""Every path through a validation session: whatever anybody does in whatever order, it isn't validated without the token
that was mailed for it, and nothing is bound without a validated session, its secret, and one's own Matrix ID.

A machine draws steps at random, right and wrong ones, and knows what should come of each.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fire.report import Proof
from tests.support.harness import Harness, Reply, User, running

T = TypeVar("T")

_DAY_MS = 86_400_000
_USERS = ("@alice:example.org", "@bob:elsewhere.example")
_ADDRESSES = ("first@example.com", "second@example.com")
_SECRETS = ("the_first_secret", "the_second_secret")
_CONFIRM = "/_matrix/identity/confirm"
_PLENTY = {
    "EMAIL__EMAIL_RATELIMIT_SENDER_BURST": "100000",
    "EMAIL__EMAIL_RATELIMIT_ADDRESS_PER_DAY": "100000",
    "EMAIL__EMAIL_RATELIMIT_ADDRESS_PER_ACCOUNT_AND_DAY": "100000",
}


@dataclass
class Session:
    """What the machine knows of a session.

    Attributes:
        tokens: those that were mailed for it, with the times of their ends.
        over_at_ms: when it ends.
    """

    sid: str
    address: str
    secret: str
    by: User
    over_at_ms: int
    tokens: dict[str, int] = field(default_factory=dict)
    is_validated: bool = False


class Machine(RuleBasedStateMachine):
    """People with good and bad intentions."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._sessions: list[Session] = []
        self._attempt = 0
        self._owners: dict[str, str] = {}

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    @initialize()
    def start(self) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._server: Harness = self._run(self._stack.enter_async_context(running(folder, settings=_PLENTY)))
        self._users = [self._run(self._server.register(user_id)) for user_id in _USERS]

    def teardown(self) -> None:
        self._run(self._stack.aclose())
        self._loop.close()

    @property
    def _now_ms(self) -> int:
        return self._server.clock.ms

    def _is_live(self, session: Session) -> bool:
        return self._now_ms < session.over_at_ms

    # --- what people do -----------------------------------------------------------------------

    @rule(user=st.sampled_from([0, 1]), address=st.sampled_from(_ADDRESSES), secret=st.sampled_from(_SECRETS))
    def ask_for_a_mail(self, user: int, address: str, secret: str) -> None:
        self._attempt += 1
        by = self._users[user]
        reply = self._run(self._server.request_token(by, address, secret=secret, attempt=self._attempt))
        assert reply.status == 200, reply.json
        sid = reply.json["sid"]
        session = next((each for each in self._sessions if each.sid == sid), None)
        if session is None:
            session = Session(sid, address, secret, by, self._now_ms + _DAY_MS)
            self._sessions.append(session)
        # Nobody is given the session of another address or another secret.
        assert (session.address, session.secret) == (address, secret)
        session.tokens[self._server.mail.last_token] = self._now_ms + _DAY_MS

    @precondition(lambda self: self._sessions)
    @rule(
        which=st.integers(0, 99),
        token_of=st.integers(0, 99),
        secret=st.sampled_from([None, *_SECRETS]),
        how=st.sampled_from(["POST", "GET"]),
        spoils=st.booleans(),
    )
    def submit(self, which: int, token_of: int, secret: str | None, how: str, *, spoils: bool) -> None:
        session = self._pick(which)
        token = list(self._pick(token_of).tokens)[-1]
        token = token[:-1] + ("A" if token[-1] != "A" else "B") if spoils else token
        secret = secret or session.secret
        query = {"sid": session.sid, "client_secret": secret, "token": token}
        path = "validate/email/submitToken"
        if how == "POST":
            reply = self._run(self._server.post(path, query, as_=self._users[which % 2]))
        else:
            reply = self._run(self._server.get(path, params=query))
        is_right = secret == session.secret and self._now_ms < session.tokens.get(token, 0) and self._is_live(session)
        self._expect(reply, is_right)
        if is_right:
            self._validate(session)

    @precondition(lambda self: self._sessions)
    @rule(which=st.integers(0, 99), presses=st.booleans(), spoils=st.booleans())
    def open_the_mailed_link(self, which: int, *, presses: bool, spoils: bool) -> None:
        session = self._pick(which)
        token = list(session.tokens)[-1]
        wanted = token[::-1] if spoils else token
        if not presses:
            # As scanners do; the invariant sees that nothing has changed.
            self._run(self._server.get(_CONFIRM, params={"token": wanted}))
            return
        reply = self._run(self._server.post(_CONFIRM, data={"token": wanted}))
        is_right = wanted == token and self._is_live(session)
        is_right = is_right and (session.is_validated or self._now_ms < session.tokens[token])
        self._expect(reply, is_right)
        if is_right:
            self._validate(session)

    @precondition(lambda self: self._sessions)
    @rule(
        which=st.integers(0, 99),
        user=st.sampled_from([0, 1]),
        mxid=st.sampled_from(_USERS),
        secret=st.sampled_from([None, *_SECRETS]),
    )
    def bind(self, which: int, user: int, mxid: str, secret: str | None) -> None:
        session, by = self._pick(which), self._users[user]
        secret = secret or session.secret
        reply = self._run(self._server.bind(by, session.sid, secret=secret, mxid=mxid))
        is_right = (
            session.is_validated
            and self._is_live(session)
            and secret == session.secret
            and mxid == by.user_id
            and by is session.by
        )
        self._expect(reply, is_right)
        if is_right:
            self._owners[session.address] = mxid

    @precondition(lambda self: self._sessions)
    @rule(
        which=st.integers(0, 99),
        mxid=st.sampled_from(_USERS),
        address=st.sampled_from(_ADDRESSES),
        secret=st.sampled_from([None, *_SECRETS]),
    )
    def unbind(self, which: int, mxid: str, address: str, secret: str | None) -> None:
        session = self._pick(which)
        secret = secret or session.secret
        body = {
            "sid": session.sid,
            "client_secret": secret,
            "mxid": mxid,
            "threepid": {"medium": "email", "address": address},
        }
        reply = self._run(self._server.post("3pid/unbind", body))
        may = (
            session.is_validated
            and self._is_live(session)
            and secret == session.secret
            and address == session.address
        )
        assert reply.status < 500
        assert may or reply.status != 200, reply.json
        if may and self._owners.get(address) == mxid:
            assert reply.status == 200, reply.json
            del self._owners[address]

    @rule(hours=st.integers(1, 30))
    def let_time_pass(self, hours: int) -> None:
        self._server.clock.advance(hours=hours)

    # --- what must be so ----------------------------------------------------------------------

    @invariant()
    def only_what_was_proven_is_validated(self) -> None:
        for session in self._sessions[-6:]:
            for secret in _SECRETS:
                query = f"3pid/getValidated3pid?sid={session.sid}&client_secret={secret}"
                reply = self._run(self._server.get(query, as_=self._users[0]))
                is_right = secret == session.secret and session.is_validated and self._is_live(session)
                self._expect(reply, is_right)

    @invariant()
    def only_what_was_bound_is_found(self) -> None:
        if self._sessions:
            for address in _ADDRESSES:
                assert self._run(self._server.find(self._users[0], address)) == self._owners.get(address)

    def _pick(self, which: int) -> Session:
        return self._sessions[which % len(self._sessions)]

    def _validate(self, session: Session) -> None:
        if not session.is_validated:
            session.is_validated = True
            session.over_at_ms = self._now_ms + _DAY_MS

    @staticmethod
    def _expect(reply: Reply, is_right: bool) -> None:
        if is_right:
            assert reply.status == 200, reply.json
        else:
            assert 400 <= reply.status < 500, reply.json


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_no_path_leads_around_the_proof(proof: Proof) -> None:
    paths = proof.rounds(quick=15, full=500)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=paths,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    proof.record(
        "Steps in any order, right and wrong: asking, submitting, the mailed link, binding, unbinding, time",
        times=paths,
        outcome="no session was validated without its token; none was bound but by whoever had asked, with its secret, to"
        " their own Matrix ID",
    )
