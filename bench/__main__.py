"""`python -m bench`: measure, print the tables, write JSON and a plot."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import uvloop

from bench.checking import WrongAnswer
from bench.databases import SYDENT_PYTHON, CannotPrepare
from bench.plan import Options, Plan, told
from bench.plot import to_svg
from bench.report import to_markdown
from bench.results import Results
from bench.sinks import open_world
from tests.e2e.processes import ProgramFailed

_HERE = Path(__file__).parent
_RESULTS = _HERE / "results"
_RUNS = _HERE / ".data" / "runs"
_QUICK = Options(sizes=(10_000,), seconds=1, rounds=1)


@click.command()
@click.option("--n", "sizes", type=int, multiple=True, help="Associations; may be repeated.  [100000, 1000000]")
@click.option("--seconds", type=click.IntRange(1, 60), help="Of each measurement.  [2]")
@click.option("--rounds", type=click.IntRange(1, 20), help="How often each is repeated.  [3]")
@click.option("--only", multiple=True, help="Only cells whose name contains this; may be repeated.")
@click.option("--slow", is_flag=True, help="Also what takes Sydent minutes at a million.")
@click.option("--quick", is_flag=True, help="A minute's smoke test: 10 000 associations, one round of a second each.")
@click.option("--name", default="latest", show_default=True, help="Of the files in bench/results.")
def main(
    sizes: tuple[int, ...],
    seconds: int | None,
    rounds: int | None,
    only: tuple[str, ...],
    slow: bool,  # noqa: FBT001 - click passes flags so
    quick: bool,  # noqa: FBT001
    name: str,
) -> None:
    """Compare this server with the real Sydent and with a bare handler, on the same data."""
    _require_programs()
    usual = _QUICK if quick else Options(sizes=(100_000, 1_000_000), seconds=2, rounds=3)
    options = Options(
        sizes=tuple(sorted(sizes)) or usual.sizes,
        seconds=seconds or usual.seconds,
        rounds=rounds or usual.rounds,
        only=only,
        slow=slow,
    )
    results = Results(about=_about(options))
    problem = ""
    try:
        uvloop.run(_measure(options, results))
    except* WrongAnswer as wrong:
        click.echo(f"VOID: a server told something untrue: {told(wrong)}", err=True)
        sys.exit(1)
    except* (CannotPrepare, ProgramFailed) as failed:
        problem = told(failed)
    except* KeyboardInterrupt:
        problem = "interrupted"
    # What was measured before something failed is still true.
    if results.rounds:
        _write(results, name)
        click.echo(to_markdown(results))
    if problem:
        raise click.ClickException(f"the run ended early: {problem}")


async def _measure(options: Options, results: Results) -> None:
    _RUNS.mkdir(parents=True, exist_ok=True)
    async with open_world(_RUNS.parent) as surroundings:
        plan = Plan(options, surroundings=surroundings, folder=_RUNS, results=results, say=_teller())
        await plan.run()


def _teller() -> Callable[[str], None]:
    started = time.monotonic()
    return lambda text: click.echo(f"[{time.monotonic() - started:6.1f} s] {text}", err=True)


def _write(results: Results, name: str) -> None:
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / f"{name}.json").write_text(json.dumps(results.to_json(), indent=1) + "\n")
    (_RESULTS / f"{name}.md").write_text(to_markdown(results))
    (_RESULTS / f"{name}.svg").write_text(to_svg(results))


def _about(options: Options) -> dict[str, str]:
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "machine": f"{os.cpu_count()} cores, {processor}, Linux {platform.release()}",
        "Python": platform.python_version(),
        "aiohttp": importlib.metadata.version("aiohttp"),
        "uvloop": importlib.metadata.version("uvloop"),
        "measured": f"{options.rounds} rounds of {options.seconds:g} s each, medians",
    }


def _require_programs() -> None:
    """What `make bench` installs.

    Raises:
        click.ClickException: something isn't there, or too few files may be open.
    """
    if shutil.which("wrk") is None or not SYDENT_PYTHON.exists():
        raise click.ClickException("wrk or Sydent is missing: run bench/install-needs, or `make bench`.")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))


if __name__ == "__main__":
    main()
