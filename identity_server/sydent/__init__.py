"""Moving from Sydent, and back to it.

    reading.py     Sydent's database, as typed rows; never written to
    addresses.py   addresses in the one form that this server knows, a million at a time
    bindings.py    of all that Sydent says about an address, the newest
    importing.py   rows of Sydent become rows here
    exporting.py   rows here become a database that Sydent opens
    naming.py      by which name an import remembers how far it has come in which database
    report.py      what became of every row
    progress.py    how far it has come

The one rule: every row that is read is accounted for, and no address leaves these modules in a text.
"""
