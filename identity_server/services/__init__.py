"""Use cases. One public method is one use case; what it writes is one transaction.

Who asks, and what they have agreed to:

    accounts.py             registration, access tokens, logout
    terms.py                what is in force, and who has accepted it
    unaccepted_terms.py     warns and erases whoever doesn't
    homeserver_requests.py  which homeserver has signed a request

Proving an address:

    validation.py           by mail
    phone_validation.py     by text message
    session_requests.py     the steps that these two share
    slow_codes.py           hashes and compares what was texted

Binding it, and who is told:

    associations.py         bind, unbind, who may know
    bind_notices.py         the homeserver             owner_notices.py   the owner of the address
    invitations.py          invites that wait for it   invite_mails.py    their mails
    public_keys.py          which keys are ours

Looking it up:

    lookup.py               answers from the index
    lookup_budgets.py       how much each may look up
    asked_addresses.py      what each has asked for already
    budget_ledger.py        spends what this process has set aside
    charges.py              sets aside more, for many at once
    peppers.py              the pepper's life

What people and homeservers decide about what is held:

    visits.py               the privacy page           phone_visits.py    how a visit begins for a phone number
    refusals.py             mails that are wanted no more
    erasure.py              removes people             waiting_jobs.py    finds them in the outbox
    erasure_requests.py     homeservers that want it

What operators do and read:

    account_desk.py  invite_desk.py  audit_desk.py     about Matrix IDs, invites, the journal
    backlog.py              what waits in the outbox
    audit_check.py          whether the journal is as it was left
    journal.py              links, signs and prunes it
    root_key.py             replaces the root key
    vital_signs.py          how the data is            health.py          whether this process can serve

What use cases share:

    outbox.py               that there is one          mail_jobs.py  text_jobs.py   what is written into it
    limits.py               every limit, by whom it counts
    client_limits.py        those that count networks
    stamped_cache.py        remembers what the database said
    sweeping.py             removes a million rows in small steps

The rule: no network inside a transaction, and no HTTP here.
"""

from __future__ import annotations

from dataclasses import dataclass

from identity_server.services.accounts import Accounts
from identity_server.services.associations import Associations
from identity_server.services.erasure_requests import ErasureRequests
from identity_server.services.health import Health
from identity_server.services.homeserver_requests import HomeserverRequests
from identity_server.services.invitations import Invitations
from identity_server.services.journal import Journal
from identity_server.services.limits import Limits
from identity_server.services.lookup import Lookup
from identity_server.services.lookup_budgets import LookupBudgets
from identity_server.services.peppers import Peppers
from identity_server.services.phone_validation import PhoneValidation
from identity_server.services.phone_visits import PhoneVisits
from identity_server.services.public_keys import PublicKeys
from identity_server.services.terms import TermsOfService
from identity_server.services.unaccepted_terms import UnacceptedTerms
from identity_server.services.validation import Validation
from identity_server.services.visits import Visits
from identity_server.services.vital_signs import VitalSigns


@dataclass(frozen=True, slots=True)
class Services:
    """All use cases, as handlers and workers find them."""

    accounts: Accounts
    associations: Associations
    erasure_requests: ErasureRequests
    health: Health
    homeserver_requests: HomeserverRequests
    invitations: Invitations
    journal: Journal
    limits: Limits
    lookup: Lookup
    lookup_budgets: LookupBudgets
    peppers: Peppers
    phone_validation: PhoneValidation
    phone_visits: PhoneVisits
    public_keys: PublicKeys
    terms: TermsOfService
    unaccepted_terms: UnacceptedTerms
    validation: Validation
    visits: Visits
    vital_signs: VitalSigns
