from __future__ import annotations

from dataclasses import replace

import pytest

from identity_server.domain.errors import SessionExpired, SessionNotValidated
from identity_server.domain.validation import SESSION_LIFETIME_MS
from tests.support import make
from tests.support.fakes import START_MS


def test_session_lives_a_day_from_its_creation_and_a_day_from_its_validation() -> None:
    session = make.session()
    assert session.live_threepid(START_MS + SESSION_LIFETIME_MS - 1) == make.email()
    with pytest.raises(SessionExpired):
        session.live_threepid(START_MS + SESSION_LIFETIME_MS)
    validated = make.session(validated_at_ms=START_MS + 1000)
    assert validated.validated_threepid(START_MS + SESSION_LIFETIME_MS + 999) == (make.email(), START_MS + 1000)
    with pytest.raises(SessionExpired):
        validated.validated_threepid(START_MS + SESSION_LIFETIME_MS + 1000)


def test_session_must_be_validated_to_be_used() -> None:
    with pytest.raises(SessionNotValidated):
        make.session().validated_threepid(START_MS)


def test_wiped_session_is_expired() -> None:
    with pytest.raises(SessionExpired):
        replace(make.session(), threepid=None).live_threepid(START_MS)
