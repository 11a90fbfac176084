"""Proof under fire: what the server promises, while it, its database, its relay and its neighbours are being broken.

The one rule: every effect that was acknowledged is written into a ledger by whoever got the answer (`load.py`), and
compared with what the server says after the fire. Nothing is switched on inside the server for it: what has to be
broken within a process is broken by the launcher of the tests (`launcher.py`).

A few rounds run with the other tests. `make fire` runs as many as were promised, and writes what came of it into
docs/reliability.md (`report.py`).
"""
