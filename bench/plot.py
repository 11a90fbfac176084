"""Draws the speeds of the largest size: bars on a logarithmic scale, one group a cell.

The rule: plain SVG by hand, readable on light and dark pages; the numbers stand beside the bars.
"""

from __future__ import annotations

from html import escape
from math import floor, log10

from bench.plan import BIND, INVITE, WHILE_BINDING
from bench.results import BARE, HELPED, OURS, Results

_CELLS = (
    *("ping", "account", "hash_details"),
    *("lookup of 1", "lookup of 100", "lookup of 1000", "lookup of 10000"),
    *(WHILE_BINDING, BIND, INVITE),
)
_SERVERS = ((BARE, "bare"), (OURS, "ours"), (HELPED, "theirs"))
_WIDTH = 820
_LEFT = 230
_RIGHT = 80
_TOP = 78
_BAR = 13
_GAP = 3
_BETWEEN = 16
_FONT = 'font-family="system-ui, sans-serif" font-size="13"'
_STYLE = """
    text { fill: #24292f } .quiet { fill: #6e7781 } .grid { stroke: #d0d7de }
    .ours { fill: #0a7d5a } .theirs { fill: #c2641a } .bare { fill: #afb8c1 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .quiet { fill: #8d96a0 } .grid { stroke: #30363d }
      .ours { fill: #3fb68b } .theirs { fill: #e0863a } .bare { fill: #57606a }
    }
"""


def to_svg(results: Results) -> str:
    """The plot; one that says so if nothing was measured."""
    size = max(results.sizes, default=0)
    groups = [(cell, [(name, colour, results.get(size, cell, name)) for name, colour in _SERVERS]) for cell in _CELLS]
    groups = [(cell, bars) for cell, bars in groups if any(value for _, _, value in bars)]
    values = [value for _, bars in groups for _, _, value in bars if value]
    first, last = (floor(log10(min(values))), log10(max(values))) if values else (0, 1.0)
    parts: list[str] = []
    y = _TOP
    for cell, bars in groups:
        drawn = [bar for bar in bars if bar[2]]
        middle = y + len(drawn) * (_BAR + _GAP) / 2 + 4
        parts.append(f'<text x="{_LEFT - 12}" y="{middle:.0f}" text-anchor="end">{escape(cell)}</text>')
        for name, colour, value in drawn:
            assert value is not None, "only those that were measured are drawn"
            width = max(2.0, _x(value, first, last) - _LEFT)
            told = _told(value)
            parts.append(
                f'<rect class="{colour}" x="{_LEFT}" y="{y}" width="{width:.0f}" height="{_BAR}" rx="2">'
                f"<title>{escape(f'{name}: {told} per second')}</title></rect>"
                f'<text class="quiet" x="{_LEFT + width + 6:.0f}" y="{y + _BAR - 2}" font-size="11">{told}</text>'
            )
            y += _BAR + _GAP
        y += _BETWEEN
    height = y + 10
    grid = [_line(10**power, first, last, height) for power in range(first, floor(last) + 1)]
    title = f"Requests per second with {_told(size)} associations, one process"
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" {_FONT} role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            f'<text x="16" y="26" font-size="17" font-weight="600">{escape(title)}</text>',
            *_legend(),
            *grid,
            *parts,
            "</svg>\n",
        )
    )


def _x(value: float, first: float, last: float) -> float:
    share = (log10(value) - first) / (last - first) if last > first else 1.0
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _line(value: float, first: float, last: float, height: int) -> str:
    x = _x(value, first, last)
    return (
        f'<line class="grid" x1="{x:.0f}" x2="{x:.0f}" y1="{_TOP - 8}" y2="{height - 12}"/>'
        f'<text class="quiet" x="{x:.0f}" y="{_TOP - 14}" font-size="11" text-anchor="middle">{_told(value)}</text>'
    )


def _legend() -> list[str]:
    x, parts = 16, []
    for name, colour in _SERVERS:
        parts.append(
            f'<rect class="{colour}" x="{x}" y="38" width="12" height="12" rx="2"/>'
            f'<text x="{x + 18}" y="49">{escape(name)}</text>'
        )
        x += 40 + 8 * len(name)
    return parts


def _told(value: float) -> str:
    if value >= 10:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.2g}"
