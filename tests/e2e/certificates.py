"""Certificates for loopback, from one authority that is made for the run.

The one rule: each program gets a certificate for the names that it is reached by, and for no others.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Certificate:
    """The files (PEM) of a certificate."""

    chain: Path
    key: Path


class Authority:
    """Vouches for whatever the tests ask it to.

    Attributes:
        file: its own certificate (PEM), for those who are to trust it.
        localhost: a certificate for localhost.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = trustme.CA()
        self.file = folder / "ca.pem"
        self._made.cert_pem.write_to_path(str(self.file))
        self.localhost = self.issue("localhost", "127.0.0.1")

    @property
    def context(self) -> ssl.SSLContext:
        """Trusts this authority only."""
        return ssl.create_default_context(cafile=self.file)

    def issue(self, *names: str) -> Certificate:
        """A certificate for some names and addresses."""
        leaf = self._made.issue_cert(*names)
        certificate = Certificate(self._folder / f"{names[0]}.pem", self._folder / f"{names[0]}.key")
        leaf.private_key_pem.write_to_path(str(certificate.key))
        for part in leaf.cert_chain_pems:
            part.write_to_path(str(certificate.chain), append=True)
        return certificate
