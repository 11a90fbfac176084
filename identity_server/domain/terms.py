"""Terms of service: which policies are in force, and which of them an account still owes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Translation:
    """A policy in one language.

    Attributes:
        name: the title shown to people.
        url: where the text can be read; what an account accepts.
    """

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Policy:
    """One document of the terms, in one version.

    Attributes:
        id: the stable name, a key of `policies` in GET terms.
        version: the version in force.
        translations: by language tag; accepting one counts for all.
    """

    id: str
    version: str
    translations: Mapping[str, Translation]


@dataclass(frozen=True, slots=True)
class Acceptance:
    """That an account accepted one policy, in one version and language, shown at one URL."""

    policy_id: str
    version: str
    language: str
    url: str


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms in force.

    Attributes:
        policies: every document; empty means that there are no terms.
        master_version: set by Sydent's YAML, where the account's stored version gates access;
            None where each policy's own version does.
    """

    policies: tuple[Policy, ...] = ()
    master_version: str | None = None

    @property
    def fingerprint(self) -> str:
        """Tells these terms from any for which everybody is asked anew."""
        versions = sorted(f"{policy.id}\0{policy.version}" for policy in self.policies)
        return hashlib.sha256("\n".join([self.master_version or "", *versions]).encode()).hexdigest()

    def find(self, url: str) -> Acceptance | None:
        """What accepting `url` means, or None if it is no document in force."""
        for policy in self.policies:
            for language, translation in policy.translations.items():
                if translation.url == url:
                    return Acceptance(policy.id, policy.version, language, url)
        return None

    def missing(self, accepted: Collection[Acceptance]) -> tuple[Policy, ...]:
        """The policies of which no language has been accepted.

        Under a master version, a document counts by its URL alone, as it does for Sydent: a new master
        version with the old URLs asks again, but earlier agreements still count towards the answer.
        """
        if self.master_version is None:
            versions = {(each.policy_id, each.version) for each in accepted}
            return tuple(policy for policy in self.policies if (policy.id, policy.version) not in versions)
        urls = {each.url for each in accepted}
        return tuple(
            policy
            for policy in self.policies
            if not any(translation.url in urls for translation in policy.translations.values())
        )

    def satisfied(self, *, accepted: Collection[Acceptance], agreed_master_version: str | None) -> bool:
        """Whether an account with these acceptances may use the server."""
        if not self.policies:
            return True
        if self.master_version is not None:
            return agreed_master_version == self.master_version
        return not self.missing(accepted)


NO_TERMS = Terms()
"""A server without terms."""
