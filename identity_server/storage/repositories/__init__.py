"""Rows that become domain objects, and back: one repository per table, or for the few that belong together.

accounts.py             accounts and access tokens
consent.py              who has accepted which terms
validation_sessions.py
associations.py         and the feed of their changes
invites.py              ephemeral_keys.py
peppers.py              budgets.py                 rate_limits.py
visits.py               refusals.py
jobs.py                 the outbox                 chores.py          when upkeep was last done
audit.py                entries of the journal     audit_chain.py     links them
"""
