"""How long a run takes: an estimate before it, and what each part took, on stderr and in the report.

In:     a `Setting`, names of parts.
Out:    seconds.
Limits: an estimate of a quiet machine with REPEATED of the rounds refused; the most that it can be is twice the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.scenarios import PARTS, Scenario
from bench.traffic import FRESH_MS, Setting, contenders_of

REPEATED = 0.15
LOAD_S, START_S = 0.2, 0.5  # to start a load and to end it; to start a contender
FRESH_WAIT_S = 0.4
INSTRUCTIONS_S = 120  # and to compile the large mesh
WEIGHING_S = 16.0  # rests of REST_S and more, 10,000 requests, a thousand connections
STARTED_S = 0.3
MICRO_PER_SECOND, KERNELS_S = 35, 60


def estimate(setting: Setting, part: str) -> float:
    """Seconds that a part takes."""
    amount, others = setting.amount, len(setting.peers)
    large = int(amount.large)
    if part in PARTS:
        more = INSTRUCTIONS_S if part == "scale" else 0
        return sum(_scenario(setting, scenario) for scenario in PARTS[part]) + more
    if part == "memory":
        return max(1, amount.rounds // 2) * (3 + large + others) * WEIGHING_S
    if part == "start":
        return amount.starts * (2 + large + others) * STARTED_S
    return amount.run_ms / 1000 * MICRO_PER_SECOND if part == "micro" else KERNELS_S


def _scenario(setting: Setting, scenario: Scenario) -> float:
    amount, contenders = setting.amount, len(contenders_of(setting, scenario))
    wanted = () if scenario.tcp or scenario.aim.rate else amount.connections
    run_ms = min(amount.run_ms, FRESH_MS) if scenario.aim.fresh else amount.run_ms * scenario.longer
    each = (amount.warm_ms + run_ms) / 1000 + LOAD_S + (FRESH_WAIT_S if scenario.aim.fresh else 0)
    rounds = amount.rounds * (1 + REPEATED) * len(wanted or scenario.connections)
    return contenders * (START_S + rounds * each)


@contextmanager
def timed(setting: Setting, parts: Sequence[str], part: str, took: dict[str, float]) -> Iterator[None]:
    """Says what a part is expected to take, and notes what it took."""
    expected, place = estimate(setting, part), f"part {parts.index(part) + 1} of {len(parts)}"
    setting.say(f"{place}: {part}, about {span(expected)}")
    began = time.monotonic()
    try:
        yield
    finally:
        took[part] = round(time.monotonic() - began, 1)
    left = sum(estimate(setting, each) for each in parts[parts.index(part) + 1 :])
    setting.say(f"{part} took {span(took[part])}, expected {span(expected)}; about {span(left)} left")


def span(seconds: float) -> str:
    """A length of time, for people."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
