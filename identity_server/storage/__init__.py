"""The database. Rows become domain objects here and nowhere else.

    database.py             transaction(), read(), claim(): a use case with all repositories
    repositories/           one per table, or for the few that belong together
    schema/                 every table, and migrations at start
    engines/                SQLite and PostgreSQL
    sealing/                seals and blinds, and the root keys that they hang on
    erasure/                where a person's data is, and its removal
    moving/                 all of it into another database, and from or to Sydent's

What these share:

    connection.py           what repositories run their statements on
    bulk.py                 many rows at once          activity.py        what a process has done with it
    notifications.py        what other machines hear of a commit
    stamps.py               what other processes of this machine hear of it
    file_place.py           whether a file still is where it was opened

Between the folders imports go without a circle:

    engines <- schema <- sealing <- repositories <- erasure, moving <- database.py
"""

from identity_server.storage.engines.without_orm import import_engine

# Before any module of this folder imports the package as a whole.
import_engine()
