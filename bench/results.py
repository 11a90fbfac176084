"""What was measured, by size, cell and server: every round of it.

The rule: rounds are kept as they came; medians are taken when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

OURS = "ours"
HELPED = "Sydent helped"
INSTALLED = "Sydent as installed"
BARE = "bare handler"
TWO_WORKERS = "ours, 2 workers"

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Place:
    """Where figures belong."""

    associations: int
    cell: str
    server: str


@dataclass(slots=True)
class Results:
    """All figures of a run.

    Attributes:
        about: the machine, the versions, the options.
        rounds: the figures of each round.
        missing: why there are none.
        checked: how many answers of each server have been compared in full.
    """

    about: Mapping[str, Any]
    rounds: dict[Place, list[Figures]] = field(default_factory=dict)
    missing: dict[Place, str] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)

    def add(self, place: Place, figures: Figures) -> None:
        self.rounds.setdefault(place, []).append(figures)

    def get(self, associations: int, cell: str, server: str, figure: str = "per_second") -> float | None:
        """The median over the rounds; None where it wasn't measured."""
        rounds = self.rounds.get(Place(associations, cell, server), [])
        values = [each[figure] for each in rounds if figure in each]
        return median(values) if values else None

    @property
    def others_share(self) -> float:
        """How much of one core strangers on the machine used meanwhile, in the median."""
        values = [
            each["others_share"] for rounds in self.rounds.values() for each in rounds if "others_share" in each
        ]
        return median(values) if values else 0.0

    @property
    def sizes(self) -> list[int]:
        return sorted({place.associations for place in (*self.rounds, *self.missing)})

    def cells(self, associations: int) -> list[str]:
        """Those that were measured at a size, in the order of the run."""
        return list(dict.fromkeys(place.cell for place in self.rounds if place.associations == associations))

    def to_json(self) -> dict[str, Any]:
        return {
            "about": dict(self.about),
            "checked_answers": self.checked,
            "figures": [
                {
                    "associations": place.associations,
                    "cell": place.cell,
                    "server": place.server,
                    "median": {name: self.get(*_key(place), name) for name in rounds[0]},
                    "rounds": [dict(each) for each in rounds],
                }
                for place, rounds in self.rounds.items()
            ],
            "missing": [
                {"associations": place.associations, "cell": place.cell, "server": place.server, "why": why}
                for place, why in self.missing.items()
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Results:
        """What `to_json` has written."""
        results = cls(about=content["about"], checked=dict(content["checked_answers"]))
        for each in content["figures"]:
            results.rounds[_place(each)] = each["rounds"]
        for each in content["missing"]:
            results.missing[_place(each)] = each["why"]
        return results


def _key(place: Place) -> tuple[int, str, str]:
    return place.associations, place.cell, place.server


def _place(content: Mapping[str, Any]) -> Place:
    return Place(content["associations"], content["cell"], content["server"])


def ratio(above: float | None, below: float | None) -> float | None:
    """None where one of them wasn't measured."""
    return None if above is None or not below else above / below
