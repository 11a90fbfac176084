"""The tables, and how a database comes to have them.

tables.py               every table                upgrade.py         migrations at start
sqlite_upgrade.py       the copy before them, and who may make it
"""
