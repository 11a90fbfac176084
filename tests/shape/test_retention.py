"""Nothing is stored that the schedule of retention doesn't know, and nothing is promised that isn't done."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from click.testing import CliRunner

from identity_server.__main__ import main
from identity_server.config import load
from identity_server.domain.retention import Form, Kept, Lifetimes, retention_schedule
from identity_server.storage.schema.tables import metadata
from identity_server.wiring.settings import retention_lifetimes

PRIVACY = Path(__file__).parents[2] / "docs" / "privacy.md"
SCHEDULES = [
    retention_schedule(Lifetimes()),
    retention_schedule(Lifetimes(phone_months=6, keeps_delivered_invites=True, unaccepted_ms=1)),
]
FINGERPRINTS = {Form.KEYED, Form.DIGEST, Form.SLOW}
# What a column is called says how it is kept (storage/schema/tables.py).
SEALED, HASHED = ("sealed_",), ("_digest", "_blind", "_hash", "commitments", "audit_chain.hash")
# These say by which key, or are random and part of what is hashed.
BESIDES = ("key_id", "salt")


def fits(column: str, forms: tuple[Form, ...]) -> bool:
    name = column.partition(".")[2]
    if name in BESIDES:
        return True
    if name.startswith(SEALED):
        return Form.SEALED in forms
    return bool(FINGERPRINTS.intersection(forms)) if column.endswith(HASHED) else Form.READABLE in forms


def test_every_column_of_every_table_is_in_the_schedule_and_no_other() -> None:
    columns = {f"{table.name}.{column.name}" for table in metadata.sorted_tables for column in table.columns}
    for schedule in SCHEDULES:
        assert {column for row in schedule for column in row.columns} == columns


def test_columns_are_kept_as_the_schedule_says() -> None:
    wrong = [
        column
        for schedule in SCHEDULES
        for row in schedule
        for part in row.parts
        for column in part.columns
        if not fits(column, part.forms)
    ]
    assert wrong == []


def test_what_is_sealed_or_a_keyed_hash_is_about_people() -> None:
    keys = "retired_keys.sealed_keys"
    for row in SCHEDULES[0]:
        if keys not in row.columns and {Form.SEALED, Form.KEYED} & {
            form for part in row.parts for form in part.forms
        }:
            assert row.is_personal, row.what


def says_when(row: Kept) -> bool:
    """Whether a time is told if there is one, and there is one if it is told."""
    return ("%(time)s" in row.until) == (row.at_most_ms is not None)


def test_every_row_says_why_and_until_when() -> None:
    for schedule in SCHEDULES:
        for row in schedule:
            assert row.why
            assert says_when(row), row.what
        assert max(Counter(row.what for row in schedule).values()) == 1


def test_the_times_of_the_schedule_are_those_of_the_configuration() -> None:
    assert retention_lifetimes(load(None, environ={})) == Lifetimes()
    environ = {
        "GENERAL__ACCESS_TOKEN_LIFETIME_DAYS": "7",
        "GENERAL__DELETE_TOKENS_ON_BIND": "false",
        "SMS__MSISDN_REVALIDATE_AFTER_MONTHS": "18",
        "AUDIT__KEEP_DAYS": "400",
        "LOOKUP__PEPPER_ROTATION_DAYS": "10",
        "LOOKUP__PEPPER_GRACE_SECONDS": "60",
        "EMAIL__EMAIL_RATELIMIT_SENDER_BURST": "100",
        "EMAIL__EMAIL_RATELIMIT_SENDER_RATE_HZ": "0.001",
        "GENERAL__ENABLE_V1_ACCESS": "true",
        "GENERAL__TERMS_PATH": "terms",
        "GENERAL__TERMS_ERASE_UNACCEPTED_AFTER_DAYS": "90",
    }
    day_ms = 86_400_000
    set_so = load(None, environ={f"IDENTITY_SERVER__{name}": value for name, value in environ.items()})
    assert retention_lifetimes(set_so) == Lifetimes(
        token_unused_ms=7 * day_ms,
        phone_months=18,
        audit_ms=400 * day_ms,
        pepper_ms=10 * day_ms + 60_000,
        limit_ms=100_000_000,
        network_limit_ms=100_000_000,
        keeps_delivered_invites=True,
        unaccepted_ms=90 * day_ms,
    )


def test_the_documentation_shows_the_schedule_in_force_by_default(tmp_path: Path) -> None:
    conf = tmp_path / "sydent.conf"
    conf.write_text("[general]\n")
    printed = CliRunner().invoke(main, ["retention", "-c", str(conf)])
    assert printed.exit_code == 0
    assert f"\n\n{printed.output}\n<!-- End of the schedule. -->" in PRIVACY.read_text(encoding="utf-8")
