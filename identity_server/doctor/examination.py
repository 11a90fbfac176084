"""Everything that is looked at, in the order in which it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import structlog

from identity_server.config import Config
from identity_server.doctor.data import examine_data
from identity_server.doctor.findings import Finding, fault
from identity_server.doctor.homeserver import examine_homeserver
from identity_server.doctor.messages import examine_mail, examine_texts
from identity_server.doctor.patient import Patient, Questions, admit
from identity_server.doctor.public_url import examine_client_domain, examine_public_url
from identity_server.doctor.settings import examine_clock, examine_settings

_log = structlog.get_logger(__name__)

Examination = Callable[[Patient], Awaitable[list[Finding]]]

EXAMINATIONS: Final[tuple[tuple[str, Examination], ...]] = (
    ("configuration", examine_settings),
    ("database", examine_data),
    ("public URL", examine_public_url),
    ("apps", examine_client_domain),
    ("homeserver", examine_homeserver),
    ("mail", examine_mail),
    ("texts", examine_texts),
    # Compares with what the others have seen.
    ("clock", examine_clock),
)


async def examine(config: Config, questions: Questions) -> AsyncIterator[Finding]:
    """Look everything over; a fault of ours in one place doesn't hide what is wrong in another."""
    async with admit(config, questions) as patient:
        for about, examination in EXAMINATIONS:
            try:
                findings = await examination(patient)
            except Exception as error:  # noqa: BLE001 - a doctor who faints is of no help
                _log.debug("doctor.failed", about=about, exc_info=True)
                findings = [
                    fault(about, f"it can't be looked at: {type(error).__name__}", fix="report this as a bug")
                ]
            for finding in findings:
                yield finding
