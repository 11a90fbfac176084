"""Use cases. One public method is one use case; what it writes is one transaction.

What the Identity Service API asks for:

    authentication/         who is asking: accounts and their tokens, homeservers and their signatures
    terms/                  what they have to accept, and what becomes of those who don't
    validation/             proving an address, by mail or text message
    associations/           binding it, and who is told
    invites/                to addresses that aren't bound yet
    lookup/                 finding people by hashes of their addresses, within their budgets
    keys/                   which keys are ours; and how the root key is replaced

What people, homeservers and operators decide about what is held:

    privacy/                the privacy page, and what is handed out to whoever asks
    erasure/                removes everything about somebody
    audit/                  the audit journal

What use cases share:

    outbox/                 mails, texts and notices that go out after a commit
    limits.py               every limit, by whom it counts
    client_limits.py        those that count networks
    sweeping.py             removes a million rows in small steps

How the server is:

    vital_signs.py          its data                   health.py          whether this process can serve

A desk.py is for commands, and works beside a running server. Between the folders imports go without a circle:

    outbox, audit, lookup, keys, authentication <- validation, associations <- invites, erasure, privacy <- terms

The rule: no network inside a transaction, and no HTTP here.
"""

from __future__ import annotations

from dataclasses import dataclass

from identity_server.services.associations.binding import Associations
from identity_server.services.audit.journal import Journal
from identity_server.services.authentication.accounts import Accounts
from identity_server.services.authentication.homeservers import HomeserverRequests
from identity_server.services.erasure.requests import ErasureRequests
from identity_server.services.health import Health
from identity_server.services.invites.inviting import Invitations
from identity_server.services.keys.public import PublicKeys
from identity_server.services.limits import Limits
from identity_server.services.lookup.budgets import LookupBudgets
from identity_server.services.lookup.hashed_lookup import Lookup
from identity_server.services.lookup.peppers import Peppers
from identity_server.services.privacy.phone_visits import PhoneVisits
from identity_server.services.privacy.visits import Visits
from identity_server.services.terms.acceptance import TermsOfService
from identity_server.services.terms.unaccepted import UnacceptedTerms
from identity_server.services.validation.email import Validation
from identity_server.services.validation.phone import PhoneValidation
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
