"""Looking addresses up (Identity Service API, "Association lookup"; MSC2134), and how much each may look up.

hashed_lookup.py        answers from the index     peppers.py         the pepper's life
budgets.py              how much each may look up
asked_addresses.py      what each has asked for already
budget_ledger.py        spends what this process has set aside
charges.py              sets aside more, for many at once
"""
