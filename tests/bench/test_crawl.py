"""Crawlers get what the budgets say and not one address more; people who look up their contacts get everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.crawl import Crawl, simulate
from identity_server.domain.budgets import BudgetRules
from tests.support.databases import engine_at, put_migrated

# A hundredth of the real ones, and so of the people's contacts and of the crawler's lists.
SMALL = BudgetRules(
    account=100, account_per_day=20, homeserver_per_day=100, homeserver_per_user=10, network_per_day=1_000
)


@pytest.mark.parametrize(
    "crawl",
    [
        Crawl(1, 1, rules=SMALL, scale=100),
        Crawl(30, 3, rules=SMALL, scale=100),
        Crawl(30, 30, networks=1, rules=SMALL, scale=100),
        Crawl(6, 2, days=4, rotates_on=2, rules=SMALL, scale=100),
    ],
    ids=["one account", "many accounts", "one network", "a new pepper"],
)
async def test_crawlers_never_get_more_and_people_never_less(tmp_path: Path, crawl: Crawl) -> None:
    await put_migrated(tmp_path / "identity.db")
    outcome = await simulate(crawl, lambda: engine_at(tmp_path))
    assert outcome.answered <= crawl.budget
    assert max(outcome.by_account.values()) <= crawl.budget_of_account
    # Little is lost, or they would be held by something else than their budgets.
    assert outcome.answered >= 0.8 * crawl.budget
    assert outcome.kills >= 2 * crawl.days
    assert (outcome.lookups, outcome.refused) == (2 * 90 * crawl.days - 90 * (2 if crawl.rotates_on else 1), 0)
