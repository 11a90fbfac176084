from __future__ import annotations

from xml.etree import ElementTree as ET

from bench.plan import MEMORY, PING_WHILE, by_workers
from bench.plot import to_svg
from bench.report import to_markdown
from bench.results import BARE, HELPED, OURS, TWO_WORKERS, Place, Results

_SMALL, _LARGE = 100_000, 1_000_000


def _results() -> Results:
    results = Results(about={"machine": "a quiet one"})
    for size, speeds in ((_SMALL, (900, 1000, 1100)), (_LARGE, (500, 990, 5000))):
        for speed in speeds:
            results.add(Place(size, "lookup of 1", OURS), {"per_second": speed, "per_core_second": speed})
    results.add(Place(_LARGE, "lookup of 1", HELPED), {"per_second": 90})
    results.add(Place(_LARGE, "lookup of 1", BARE), {"per_second": 1500})
    results.add(Place(_LARGE, PING_WHILE, OURS), {"p99_ms": 5.0})
    results.add(Place(_SMALL, MEMORY, OURS), {"pss_of_all": 77_772_160})
    results.add(Place(_LARGE, MEMORY, OURS), {"pss_of_all": 160 * 1024 * 1024})
    results.missing[Place(_LARGE, by_workers("lookup of 1"), TWO_WORKERS)] = "there is no such thing yet"
    return results


def _line(text: str, start: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_promises_are_judged_by_medians_and_by_the_largest_size() -> None:
    text = to_markdown(_results())

    assert _line(text, "lookup of 1, against Sydent helped")[1:] == [">= 12 x", "11.0 x", "DOES NOT HOLD"]
    assert _line(text, "lookup of 1 costs more")[2:] == ["1.01 %", "holds"]
    assert _line(text, "memory of the parent and one worker")[2:] == ["160 MiB", "DOES NOT HOLD"]
    assert _line(text, "memory per association, beside")[-1] == "66 bytes"


def test_what_was_not_measured_is_not_available_with_its_reason() -> None:
    text = to_markdown(_results())

    assert _line(text, "lookup of 1, 2 workers against 1")[2:] == ["n/a", "n/a"]
    assert _line(text, "p99 of a ping")[2:] == ["n/a", "n/a"]
    assert "there is no such thing yet" in text
    assert to_markdown(Results(about={}))


def test_results_survive_json() -> None:
    results = _results()

    assert Results.from_json(results.to_json()) == results


def test_plot_is_xml_with_a_bar_for_each_server() -> None:
    plot = ET.fromstring(to_svg(_results()))

    bars = plot.findall(".//{*}rect/{*}title")
    assert [bar.text for bar in bars] == [
        f"{BARE}: 1 500 per second",
        f"{OURS}: 990 per second",
        f"{HELPED}: 90 per second",
    ]
    assert ET.fromstring(to_svg(Results(about={}))) is not None
