"""Interleaved rounds: every contender once per round, in random order, compared with the floor of the same round.

In:     contenders that are running, one scenario, a number of connections.
Out:    `Comparison`: per contender CPU per request, its ratio to the floor, what the load saw.
Limits: a round counts only when the floor's own cost lies within FLOOR_TOLERANCE of its median and the machine below
        took less than STEAL_TOLERANCE of the time. What remains is stated, never hidden.
Source: spec/performance.md section 4.3.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Aim, Load, Result, measured, stolen
from bench.stage import Lane

FLOOR = "floor"
FLOOR_TOLERANCE = 0.10
STEAL_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Contender:
    """What is compared: a name, its lane, its processes."""

    name: str
    lane: Lane
    pids: list[int]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    rounds: int
    warm_ms: int
    run_ms: int
    load: Path


@dataclass(frozen=True, slots=True)
class Reading:
    """One contender in one round."""

    cpu_us: list[float]
    result: Result

    @property
    def total_us(self) -> float:
        """CPU per request of all its processes together."""
        return sum(self.cpu_us)


Round = dict[str, Reading]


@dataclass(frozen=True, slots=True)
class Line:
    """One contender over all accepted rounds."""

    contender: str
    cpu_us: float
    cpu_us_each: list[float]
    ratio: float
    ratio_spread: tuple[float, float]
    rps: float
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One scenario at one number of connections."""

    scenario: str
    connections: int
    rounds: int
    refused: int
    lines: list[Line]


def compare(scenario: str, aim: Aim, connections: int, contenders: Sequence[Contender], plan: Plan) -> Comparison:
    """Runs the rounds and sums them up."""
    kept: list[Round] = []
    refused = 0
    for _ in range(plan.rounds):
        before = stolen()
        found = _round(aim, connections, contenders, plan)
        after = stolen()
        if after[0] - before[0] > STEAL_TOLERANCE * (after[1] - before[1]):
            refused += 1
        else:
            kept.append(found)
    steady = _steady(kept)
    refused += len(kept) - len(steady)
    lines = [_line(contender.name, steady) for contender in contenders] if steady else []
    return Comparison(scenario, connections, len(steady), refused, lines)


def _round(aim: Aim, connections: int, contenders: Sequence[Contender], plan: Plan) -> Round:
    found: Round = {}
    for contender in random.sample(contenders, len(contenders)):
        load = Load(contender.lane, plan.load, aim, (connections, plan.warm_ms, plan.run_ms))
        result, cpu_us = measured(load, contender.pids)
        found[contender.name] = Reading(cpu_us, result)
    return found


def _steady(rounds: Sequence[Round]) -> list[Round]:
    """The rounds in which the floor cost what it usually costs."""
    if not rounds:
        return []
    usual = statistics.median(each[FLOOR].total_us for each in rounds)
    return [each for each in rounds if abs(each[FLOOR].total_us - usual) <= FLOOR_TOLERANCE * usual]


def _line(name: str, rounds: Sequence[Round]) -> Line:
    readings = [each[name] for each in rounds]
    ratios = [each[name].total_us / each[FLOOR].total_us for each in rounds]
    quarters = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else [ratios[0]] * 3
    each_process = zip(*(reading.cpu_us for reading in readings), strict=True)
    return Line(
        contender=name,
        cpu_us=statistics.median(reading.total_us for reading in readings),
        cpu_us_each=[statistics.median(values) for values in each_process],
        ratio=statistics.median(ratios),
        ratio_spread=(quarters[0], quarters[2]),
        rps=statistics.median(reading.result.rps for reading in readings),
        p50_us=statistics.median(reading.result.p50_us for reading in readings),
        p99_us=statistics.median(reading.result.p99_us for reading in readings),
    )
