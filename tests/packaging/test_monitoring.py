"""The dashboard and the alerts in contrib/: they ask for what there is, and a running server answers every question."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from identity_server.api.routes import INTERNAL_ROUTES, ROUTES, V1_ACCESS, V1_ALWAYS, V1_ASSOCIATIONS, V1_LOOKUP
from identity_server.config import all_sections
from identity_server.metrics.table import HTTP_REQUESTS, METRICS, Kind
from tests.e2e.processes import PATIENCE_SECONDS
from tests.processes.conftest import REPOSITORY, TOKEN, Server
from tests.processes.conftest import server as _server
from tests.support.harness import hashed

promql = pytest.importorskip("promql_parser", reason="the environment is older than requirements-dev.lock")

server = _server

DASHBOARD = json.loads((REPOSITORY / "contrib/grafana/identity-server.json").read_text())
ALERTS = yaml.safe_load((REPOSITORY / "contrib/prometheus/alerts.yaml").read_text())["groups"][0]["rules"]
SCRAPE = yaml.safe_load((REPOSITORY / "contrib/prometheus/prometheus.yaml").read_text())["scrape_configs"][0]

JOB = SCRAPE["job_name"]
# What Grafana puts in the place of its variables.
_VARIABLES = {"$__rate_interval": "1m", "$__interval": "30s", "$job": JOB, "$instance": ".*"}
_PROMETHEUS_OWN = {"job", "instance"}
_PATTERNS = {
    route.path
    for table in (ROUTES, V1_ALWAYS, V1_ACCESS, V1_ASSOCIATIONS, V1_LOOKUP, INTERNAL_ROUTES)
    for route in table
}
_LABELS: dict[str, dict[str, tuple[str, ...]]] = {
    series: {
        **{label.name: label.values for label in metric.labels},
        **({"le": ()} if series.endswith("_bucket") else {}),
    }
    for metric in METRICS
    for series in metric.series
} | {"up": {}}
"""Of every series that there is, the labels with their values, as far as these are known."""


def panels() -> Iterator[dict[str, Any]]:
    return (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def filled_in(expression: str) -> str:
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def questions() -> dict[str, str]:
    """Every query of the dashboard, by where it stands."""
    annotations = {each["name"]: each["expr"] for each in DASHBOARD["annotations"]["list"]}
    targets = {
        f"{panel['title']} {target['refId']}": target["expr"] for panel in panels() for target in panel["targets"]
    }
    return {where: filled_in(expression) for where, expression in (annotations | targets).items()}


QUESTIONS = questions()
CONDITIONS = {rule["alert"]: rule["expr"] for rule in ALERTS}


def parts(expression: str) -> list[Any]:
    """Everything that an expression is made of."""
    found: list[Any] = []
    promql.walk(promql.parse(expression), found.append)
    return found


def selectors(expression: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """What an expression asks for: names of series, with what is asked of their labels (name, operator, value)."""
    for part in parts(expression):
        if isinstance(part, promql.MatrixSelector):
            part = part.vector_selector  # noqa: PLW2901 - the part that has the name
        elif not isinstance(part, promql.VectorSelector):
            continue
        yield part.name, [(each.name, _operator(each.op), each.value) for each in part.matchers.matchers]


def _operator(kind: Any) -> str:
    named = {"=": "Equal", "!=": "NotEqual", "=~": "Re", "!~": "NotRe"}
    return next(operator for operator, name in named.items() if kind == getattr(promql.MatchOp, name))


def grouped_by(expression: str) -> set[str]:
    """The labels that an expression adds up or compares by."""
    labels: set[str] = set()
    for part in parts(expression):
        modifier = getattr(part, "modifier", None)
        matching = getattr(modifier, "matching", modifier)
        labels |= set(getattr(matching, "labels", ())) | set(getattr(modifier, "group_labels", ()) or ())
    return labels


def left_by(expression: str) -> set[str]:
    """The labels that the answer may have."""
    by = [
        set(part.modifier.labels)
        for part in parts(expression)
        if isinstance(part, promql.AggregateExpr)
        and part.modifier is not None
        and part.modifier.type == promql.AggModifierType.By
    ]
    return set().union(*by) if by else _PROMETHEUS_OWN.union(*(_LABELS[name] for name, _ in selectors(expression)))


@pytest.mark.parametrize("where", [*QUESTIONS, *CONDITIONS])
def test_what_is_asked_for_exists(where: str) -> None:
    expression = (QUESTIONS | CONDITIONS)[where]
    asked = list(selectors(expression))
    assert asked
    for name, matchers in asked:
        assert name in _LABELS, f"there is no {name}"
        for label, operator, value in matchers:
            if label in _PROMETHEUS_OWN:
                continue
            assert label in _LABELS[name], f"{name} has no label {label}"
            known = _PATTERNS if label == "route" else _LABELS[name][label]
            if known:
                assert any(_matches(operator, value, each) for each in known), f"{label}{operator}{value}"
                assert not all(_matches(operator, value, each) for each in known), (
                    f"{label}{operator}{value} says nothing"
                )
    existing = set().union(*(_LABELS[name] for name, _ in asked)) | _PROMETHEUS_OWN
    assert grouped_by(expression) <= existing


def _matches(operator: str, wanted: str, value: str) -> bool:
    found = value == wanted if operator in {"=", "!="} else re.fullmatch(wanted, value) is not None
    return found != operator.startswith("!")


def test_choices_are_made_of_what_exists() -> None:
    """Of the dashboard's variables: without values in them, every panel is empty."""
    asked = [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    assert asked
    for query in asked:
        series = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (?:job|instance)\)", query)
        assert series, query
        assert series[1] in _LABELS, query


def test_legends_name_labels_that_are_left() -> None:
    for panel in panels():
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= left_by(filled_in(target["expr"])), panel["title"]


def test_everything_that_is_measured_is_on_the_dashboard() -> None:
    shown = {name for expression in QUESTIONS.values() for name, _ in selectors(expression)}
    # The last is what the index's lag is computed from.
    assert {metric.name for metric in METRICS if shown.isdisjoint(metric.series)} == {"index_followed"}


def test_counters_are_asked_how_fast_they_grow() -> None:
    counted = {metric.full_name for metric in METRICS if metric.kind is Kind.COUNTER} | set(HTTP_REQUESTS.series)
    for expression in (*QUESTIONS.values(), *CONDITIONS.values()):
        for part in parts(expression):
            for argument in getattr(part, "args", ()):
                if isinstance(argument, promql.VectorSelector):
                    assert argument.name not in counted, expression
        grown = re.findall(r"(?:rate|increase)\((\w+)", expression)
        for name, _ in selectors(expression):
            assert (name in counted) == (name in grown) or "changes(" in expression, expression


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert taken.isdisjoint(cells), panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_alerts_say_what_they_mean_and_what_to_do(rule: Mapping[str, Any]) -> None:
    assert rule["alert"].startswith("IdentityServer")
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    texts = rule["annotations"]
    assert texts.keys() == {"summary", "cause", "action"}
    assert set(re.findall(r"\$labels\.(\w+)", texts["summary"])) <= left_by(rule["expr"])
    for text in texts.values():
        for name in re.findall(r"\bIdentityServer\w+", text):
            assert name in CONDITIONS, f"there is no alert {name}"
        # What looks like an event of the log or a key of the configuration is one.
        for word in re.findall(r"(?<![\w./$])[a-z]\w*\.[a-z]\w*(?:\.\w+)*", text):
            assert word in _WORDS, f"there is no {word}"


def _events() -> Iterator[str]:
    for path in (REPOSITORY / "identity_server").rglob("*.py"):
        yield from re.findall(r'"([a-z_]+\.[a-z_]+)"', path.read_text())


_WORDS = (
    {*_events(), "docs/operating.md", "operating.md", "prometheus.yml", "sms.account_problem", "sms.postponed"}
    | {key.name for section in all_sections() for key in section.keys.values()}
    | {f"{section.name}.{key.name}" for section in all_sections() for key in section.keys.values()}
    | {"country.ratelimit", "smsrule.N"}
)


async def test_running_server_answers_every_question(server: Server) -> None:
    server.start(workers=2)
    await server.add_account()
    await ask_a_bit_of_everything(server)
    deadline = time.monotonic() + PATIENCE_SECONDS
    # What another worker has counted is seen a second later.
    while (unanswered := unanswered_by(await scraped(server))) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    assert unanswered == []


Samples = list[tuple[str, dict[str, str]]]


def unanswered_by(samples: Samples) -> list[str]:
    """What is asked for by the dashboard, or known to the alerts or the table, and isn't there."""
    unanswered = [
        f"{where}: {name} with {matchers}"
        for where, expression in QUESTIONS.items()
        for name, matchers in selectors(expression)
        if not any(
            sample == name and all(_matches(how, value, labels.get(label, "")) for label, how, value in matchers)
            for sample, labels in samples
        )
    ]
    # Faults and the like don't happen to order: of the alerts, at least the series are there.
    there = {sample for sample, _ in samples} | {"up"}
    wanted = {name for expression in CONDITIONS.values() for name, _ in selectors(expression)}
    return unanswered + sorted(wanted - there) + [each.name for each in METRICS if there.isdisjoint(each.series)]


async def ask_a_bit_of_everything(server: Server) -> None:
    v2 = f"{server.base}/_matrix/identity/v2"
    openid = {"access_token": "x", "token_type": "Bearer", "matrix_server_name": "127.0.0.1:1", "expires_in": 3600}
    mail = {"client_secret": "s3cret", "email": "somebody@example.org", "send_attempt": 1}
    async with ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        async with session.get(f"{v2}/hash_details") as response:
            pepper = (await response.json())["lookup_pepper"]
        query = {"algorithm": "sha256", "pepper": pepper, "addresses": [hashed("somebody@example.org", pepper)]}
        # Nobody is there to ask about the token of OpenID, and nobody takes the mail.
        for path, body, status in (
            ("lookup", query, 200),
            ("account/register", openid, 503),
            ("validate/email/requestToken", mail, 200),
        ):
            async with session.post(f"{v2}/{path}", json=body) as response:
                assert response.status == status, await response.text()


async def scraped(server: Server) -> Samples:
    """Every series with its labels, as Prometheus would know it."""
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    async with ClientSession() as session, session.get(url) as response:
        page = await response.text()
    own = {"job": JOB, "instance": "127.0.0.1:9091"}
    families = text_string_to_metric_families(page)
    return [(sample.name, {**sample.labels, **own}) for family in families for sample in family.samples]
