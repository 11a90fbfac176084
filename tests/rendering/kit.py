"""What the tests of rendering share."""

from __future__ import annotations

from pathlib import Path

from identity_server.domain.ports import Mail
from identity_server.rendering.mails import SAMPLES, Mails
from identity_server.rendering.templates import Templates

NOW_MS = 1_795_443_600_123
SERVER = "id.example.org"


class StoppedClock:
    def now_ms(self) -> int:
        return NOW_MS


def make_mails(
    templates: Templates | None = None, *, sender: str = "Sydent Validation <noreply@example.org>"
) -> Mails:
    return Mails(templates=templates or Templates.load(server_name=SERVER), clock=StoppedClock(), sender=sender)


def make_mail(
    recipient: str = "alice@example.org",
    *,
    template: str = "verification",
    language: tuple[str, ...] = (),
    brand: str | None = None,
    **variables: str,
) -> Mail:
    return Mail(
        template=template,
        to=recipient,
        message_id="<m1@id.example.org>",
        language=language,
        brand=brand,
        variables={**SAMPLES["verification"], **variables},
    )


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return root
