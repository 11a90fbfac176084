"""SQLite and PostgreSQL, as this server wants them.

opening.py              where the database is, and the settings that this server relies on
sqlite.py               connections                sqlite_transactions.py   several writers in one commit
sqlite_file.py          the file, and how it is opened
postgresql.py           connections with limits, and its errors
outside.py              statements that no transaction may hold
without_orm.py          SQLAlchemy without what isn't used
"""
