"""Interleaved rounds: every contender once per round, in random order, compared with the floor of the same round.

In:     contenders that are running, what to take from each, a number of rounds.
Out:    `Row`s: a figure of a contender over the accepted rounds, and its ratio to the floor.
Limits: a round counts only when the floor's own figure lies within FLOOR_TOLERANCE of its median and the machine below
        took less than STEAL_TOLERANCE of the time. Rounds that do not count are repeated, up to as many again.
Fails:  a contender that answers wrongly leaves the comparison, and is named in `Compared.failed`.
Source: spec/performance.md section 4.3.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.measure import WrongAnswer, stolen
from bench.stage import Lane

FLOOR = "floor"
FLOOR_TOLERANCE = 0.10
STEAL_TOLERANCE = 0.02
RESAMPLED = 2000

Figures = dict[str, float]
Round = dict[str, Figures]
UNITS = {
    "cpu_per_request": "µs",
    "cpu_per_connection": "µs",
    "requests_per_second": "1/s",
    "p50": "µs",
    "p90": "µs",
    "p99": "µs",
    "gb_per_cpu_second": "GB/s",
    "gb_per_second": "GB/s",
}


@dataclass(frozen=True, slots=True)
class Contender:
    """What is compared: a name, its lane, its processes by end."""

    name: str
    lane: Lane
    pids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report. `min` is the smallest reading, also where more is better.

    max, ratio_low, ratio_high: the spread: the largest reading; the middle half of the ratios of single rounds.
    """

    group: str
    params: dict[str, Any]
    subject: str
    metric: str
    unit: str
    rounds: int
    median: float
    min: float
    ratio_to_floor: float | None
    max: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the report."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Compared:
    """What the rounds of one comparison gave. failed: who has no figure, and why. absent: who cannot stand there."""

    rows: list[Row]
    refused: int
    failed: dict[str, str]
    absent: dict[str, str] = field(default_factory=dict)

    def with_missing(self, failed: Mapping[str, str], absent: Mapping[str, str]) -> Compared:
        """The same with those who did not even start."""
        return Compared(self.rows, self.refused, {**self.failed, **failed}, {**self.absent, **absent})


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared. `take` loads a contender once; `steady` is the figure by which a floor is judged.

    beside: two contenders of whom the first is shown as a multiple of the second, too, with the bounds of the median.
    """

    group: str
    params: dict[str, Any]
    take: Callable[[Contender], Figures]
    steady: str
    rounds: int
    beside: tuple[str, str] | None = None


def compare(what: Comparison, contenders: Sequence[Contender], say: Callable[[str], None]) -> Compared:
    """Runs the rounds and sums them up."""
    kept: list[Round] = []
    failed: dict[str, str] = {}
    tried = 0
    while tried < 2 * what.rounds and len(steady_rounds(kept, what.steady)) < what.rounds:
        tried += 1
        say(f"round {tried}")
        before = stolen()
        found = _round(what, [each for each in contenders if each.name not in failed], failed)
        after = stolen()
        if FLOOR in found and after[0] - before[0] <= STEAL_TOLERANCE * (after[1] - before[1]):
            kept.append(found)
    steady = steady_rounds(kept, what.steady)
    names = [each.name for each in contenders if each.name not in failed]
    rows = [row for name in names for row in _rows(what, name, steady)] if steady else []
    if what.beside and steady and set(what.beside) <= set(names):
        rows += _multiples(what, steady, *what.beside)
    return Compared(rows, tried - len(steady), failed)


def _multiples(what: Comparison, rounds: Sequence[Round], one: str, other: str) -> list[Row]:
    """The first as a multiple of the second, round by round; and the 95 % interval of that median, by resampling."""
    ratios = [each[one][what.steady] / each[other][what.steady] for each in rounds]
    draw = random.Random(len(ratios))
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLED))
    low, high = medians[int(RESAMPLED * 0.025)], medians[int(RESAMPLED * 0.975)]
    name = f"{what.steady}_over_{other}"
    named = ((name, ratios), (f"{name}_low", [low]), (f"{name}_high", [high]))
    return [figure_row(what.group, what.params, (one, metric, "×"), values) for metric, values in named]


def _round(what: Comparison, contenders: Sequence[Contender], failed: dict[str, str]) -> Round:
    found: Round = {}
    for contender in random.sample(contenders, len(contenders)):
        try:
            found[contender.name] = what.take(contender)
        except WrongAnswer as wrong:
            failed[contender.name] = str(wrong)
    return found


def steady_rounds(rounds: Sequence[Round], figure: str) -> list[Round]:
    """The rounds in which the floor cost what it usually costs."""
    if not rounds:
        return []
    usual = statistics.median(each[FLOOR][figure] for each in rounds)
    return [each for each in rounds if abs(each[FLOOR][figure] - usual) <= FLOOR_TOLERANCE * usual]


def _rows(what: Comparison, name: str, rounds: Sequence[Round]) -> list[Row]:
    rows = []
    for metric in rounds[0][name]:
        values = [each[name][metric] for each in rounds]
        ratios = [each[name][metric] / each[FLOOR][metric] for each in rounds if each[FLOOR][metric]]
        rows.append(figure_row(what.group, what.params, (name, metric, UNITS[metric]), values, ratios))
    return rows


def figure_row(
    group: str,
    params: dict[str, Any],
    what: tuple[str, str, str],
    values: Sequence[float],
    ratios: Sequence[float] = (),
) -> Row:
    """One row from the readings of one (subject, metric, unit)."""
    ratio = round(statistics.median(ratios), 3) if ratios else None
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else (ratio, ratio, ratio)
    median, lowest, highest = (_short(each) for each in (statistics.median(values), min(values), max(values)))
    spread = (None if each is None else round(each, 3) for each in (low, high))
    return Row(group, params, *what, len(values), median, lowest, ratio, highest, *spread)


def _short(value: float) -> float:
    """Five figures are more than any of these measurements has."""
    return float(f"{value:.5g}")
