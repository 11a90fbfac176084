"""A visit to the privacy page: the time in which whoever reads an address's messages sees what is held about it.

Its token is all that a visitor shows, on every step, so no visit leaves anything behind in a browser.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from identity_server.domain.durations import HOUR_MS
from identity_server.domain.errors import TokenExpired, TokenIncorrect
from identity_server.domain.identifiers import Threepid
from identity_server.domain.validation import CODE_LIFETIME_MS

VISIT_LIFETIME_MS = HOUR_MS
"""How long the link in the mail works, and with it everything on the page behind it."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Someone's wish to see what is held about an address.

    Attributes:
        is_proven: whether the token alone shows that its holder reads what is sent to the address: it does where it
            was sent there, and where a code was that has been entered.
        code_hash: of the code that was texted, until it was right.
        code_tries: how often a code was tried; counted before it is compared.
    """

    threepid: Threepid
    is_proven: bool
    created_at_ms: int
    expires_at_ms: int
    code_hash: str | None = field(default=None, repr=False)
    code_tries: int = 0

    @classmethod
    def by_mail(cls, threepid: Threepid, *, now_ms: int) -> Visit:
        """One whose token goes to the address itself."""
        return cls(threepid, is_proven=True, created_at_ms=now_ms, expires_at_ms=now_ms + VISIT_LIFETIME_MS)

    @classmethod
    def by_text(cls, threepid: Threepid, *, code_hash: str, now_ms: int) -> Visit:
        """One whose token stays in the browser, and whose code goes to the number."""
        expires_at_ms = now_ms + VISIT_LIFETIME_MS
        return cls(threepid, is_proven=False, created_at_ms=now_ms, expires_at_ms=expires_at_ms, code_hash=code_hash)

    def sent_code(self, now_ms: int) -> str:
        """The hash of the code that may still be entered.

        Raises:
            TokenExpired: it is over, or has done its work, or there never was one.
        """
        if self.code_hash is None or now_ms >= self.created_at_ms + CODE_LIFETIME_MS:
            raise TokenExpired
        return self.code_hash

    def proven_threepid(self, now_ms: int) -> Threepid:
        """The address of a visit that isn't over, and whose holder has proved to be its owner.

        Raises:
            TokenExpired: it is over.
            TokenIncorrect: nothing has been proved yet.
        """
        if now_ms >= self.expires_at_ms:
            raise TokenExpired
        if not self.is_proven:
            raise TokenIncorrect
        return self.threepid
