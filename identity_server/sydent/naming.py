"""The names by which an import remembers how far it has come in a database of Sydent's.

The rule: two databases whose rows have the same numbers have different names, or rows of the second would be taken for
those of the first.
"""

from __future__ import annotations

import hashlib

from identity_server.domain.ports import Randomness
from identity_server.sydent.reading import SydentFile

_NUMBER_BYTES = 8
_LARGEST_NUMBER = 2**31 - 1


def name_of(source: SydentFile) -> str:
    """Tells this database from every other that this server may have imported.

    Sydent numbers its bindings anew when it leaves schema 0, and `exporting.py` numbers all rows anew.
    """
    if source.export_number:
        return name_of_export(source.export_number)
    era = "first" if source.version == 0 else "later"
    return hashlib.sha256(f"sydent {era} {source.pepper()}".encode()).hexdigest()


def name_of_export(number: int) -> str:
    """What a database that was written here is remembered by, when Sydent has gone on with it."""
    return hashlib.sha256(f"export {number}".encode()).hexdigest()


def new_export_number(randomness: Randomness) -> int:
    """A number for SQLite's `application_id`, which Sydent doesn't touch: positive, and practically never the same twice."""
    return 1 + int.from_bytes(randomness.token_bytes(_NUMBER_BYTES), "big") % _LARGEST_NUMBER
