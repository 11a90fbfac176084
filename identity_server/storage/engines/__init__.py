"""SQLite and PostgreSQL, as this server wants them.

opening.py              where the database is, and the settings that this server relies on
sqlite.py               connections                sqlite_transactions.py   several writers in one commit
sqlite_file.py          who opens the file, and whether it is still there
postgresql.py           connections with limits, and its errors
outside.py              statements that no transaction may hold
without_orm.py          SQLAlchemy without what isn't used
"""
