"""The database. Rows become domain objects here and nowhere else.

The whole of it:

    database.py             transaction(), read(), claim(): a use case with all repositories
    connection.py           what repositories run their statements on
    engine.py               where it is, and the settings that this server relies on
    tables.py               every table                schema.py          migrations at start
    bulk.py                 many rows at once          activity.py        what a process has done with it
    notifications.py        what other machines hear of a commit
    stamps.py               what other processes of this machine hear of it

SQLite and PostgreSQL:

    sqlite.py               connections                sqlite_transactions.py   several writers in one commit
    sqlite_upgrade.py       the copy before migrations, and who may make it
    postgresql.py           connections with limits, and its errors
    outside.py              statements that no transaction may hold
    without_orm.py          SQLAlchemy without what isn't used

What isn't stored as it is:

    sealing.py              seals, blinds, digests     key_ring.py        the root keys
    server_keys.py          what the database knows of them
    resealing.py            how rows come to hang on another one

The repositories:

    accounts.py             accounts and access tokens
    consent.py              who has accepted which terms
    validation_sessions.py
    associations.py         and the feed of their changes
    invites.py              ephemeral_keys.py
    peppers.py              budgets.py                 rate_limits.py
    visits.py               refusals.py
    jobs.py                 the outbox                 chores.py          when upkeep was last done
    audit.py                entries of the journal     audit_chain.py     links them

All of it at once:

    erasures.py             where a person's data is   remains.py         what is left of it in files
    copying.py              into another database      imports.py  exports.py   from Sydent and to it
"""

from identity_server.storage.without_orm import import_engine

# Before any module of this folder imports the package as a whole.
import_engine()
