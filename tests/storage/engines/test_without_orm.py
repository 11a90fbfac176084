from __future__ import annotations

from tests.support.programs import outcome


def test_who_asks_for_sessions_after_all_is_told_why_there_are_none() -> None:
    program = """
import identity_server.storage
from sqlalchemy.ext.asyncio import AsyncSession
try:
    AsyncSession()
except RuntimeError as error:
    print(error)
"""
    assert "ORM isn't loaded" in outcome(program)


def test_the_orm_itself_can_still_be_loaded() -> None:
    program = """
import identity_server.storage
import sqlalchemy.ext.asyncio.session as session, sqlalchemy.orm
print(issubclass(session.AsyncSession, session.ReversibleProxy))
"""
    assert outcome(program).strip() == "True"


def test_who_has_the_package_already_keeps_it() -> None:
    program = """
from sqlalchemy.ext.asyncio import AsyncSession
import identity_server.storage, sqlalchemy.ext.asyncio.session as session
print(session.AsyncSession is AsyncSession)
"""
    assert outcome(program).strip() == "True"
