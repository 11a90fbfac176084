"""Use cases. One public method is one use case; what it writes is one transaction.

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
