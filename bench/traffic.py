"""Compares contenders on the traffic scenarios: starts each in its lane, loads it, ends it.

In:     `Setting`: lanes, programs, how much to measure.
Out:    `Compared` by scenario and number of connections.
Limits: the proxy under test has processor 0 for itself, load and application share processor 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import peers, relays
from bench.measure import Bulk, Load, cpu_ns
from bench.rounds import FLOOR, Compared, Comparison, Contender, Figures, compare
from bench.scenarios import SCENARIOS, Scenario
from bench.sidecars import Sidecars
from bench.stage import Lane

OWN, DIRECT = "meshdp", "direct"
FRESH_MS = 700  # with fresh connections: the client's ports are free again after a minute only


@dataclass(frozen=True, slots=True)
class Amount:
    """How much to measure."""

    rounds: int
    starts: int
    warm_ms: int
    run_ms: int
    connections: tuple[int, ...] = ()
    large: bool = True  # micro benchmarks of a thousand services, too


@dataclass(frozen=True, slots=True)
class Setting:
    """What every part stands on: a lane for each contender by name, compiled programs, our sidecars."""

    lanes: dict[str, Lane]
    programs: dict[str, Path]
    sidecars: Sidecars
    amount: Amount
    say: Callable[[str], None]

    @property
    def peers(self) -> list[str]:
        """The other proxies that take part."""
        return [name for name in self.lanes if name not in (DIRECT, FLOOR, OWN)]


def run(setting: Setting, part: str) -> Iterator[tuple[str, Compared]]:
    """Every number of connections of one scenario."""
    scenario = SCENARIOS[part]
    wanted = setting.amount.connections
    counts = tuple(each for each in wanted if not scenario.tcp) or scenario.connections
    with ExitStack() as running:
        contenders = started(setting, scenario, running)
        for connections in counts:
            name = f"{part}, {connections} connection{'s' if connections > 1 else ''}"
            yield name, _compare(setting, scenario, connections, contenders)


def started(setting: Setting, scenario: Scenario, running: ExitStack) -> list[Contender]:
    """Everyone who can stand in a scenario, running and listening."""
    direct = [DIRECT] if scenario.straight else []
    names = [*direct, FLOOR, OWN, *(name for name in setting.peers if peers.able(name, scenario))]
    return [start(setting, name, scenario, running) for name in names]


def start(setting: Setting, name: str, scenario: Scenario, running: ExitStack) -> Contender:
    """Starts one contender in the places of a scenario, until `running` ends."""
    where = setting.lanes[name]
    if name == DIRECT:
        processes = {}
    elif name == FLOOR:
        processes = relays.start_relays(where, setting.programs, scenario)
    elif name == OWN:
        processes = {end: setting.sidecars.ready(end) for end in scenario.roles}
    else:
        processes = peers.start(name, where, scenario)
    for process in processes.values():
        running.callback(where.stop, process)
    return Contender(name, where, {end: process.pid for end, process in processes.items()})


def _compare(setting: Setting, scenario: Scenario, connections: int, contenders: list[Contender]) -> Compared:
    amount = setting.amount
    cost_name = "cpu_per_connection" if scenario.aim.fresh else "cpu_per_request"

    def requests(contender: Contender) -> Figures:
        run_ms = min(amount.run_ms, FRESH_MS) if scenario.aim.fresh else amount.run_ms
        shape = (connections, amount.warm_ms, run_ms)
        load = Load(contender.lane, setting.programs["load"], scenario.aim, shape)
        cost_ns, seen = _cost_of(contender, load.run)
        cost = {cost_name: cost_ns / 1e3 / seen["requests"]} if contender.pids else {}
        return {
            **cost,
            "p50": seen["p50_us"],
            "p99": seen["p99_us"],
            "requests_per_second": seen["requests"] / seen["seconds"],
        }

    def transfer(contender: Contender) -> Figures:
        bulk = Bulk(contender.lane, setting.programs["bulk"], scenario.aim, amount.run_ms)
        cost_ns, seen = _cost_of(contender, bulk.run)
        return {"gb_per_cpu_second": seen["bytes"] / cost_ns, "gb_per_second": seen["bytes"] / 1e9 / seen["seconds"]}

    take, steady = (transfer, "gb_per_cpu_second") if scenario.tcp else (requests, cost_name)
    params = {"path": scenario.path, "connections": connections, **({} if scenario.tcp else {"body_bytes": 1024})}
    what = Comparison(scenario.group, params, take, steady, amount.rounds)
    return compare(what, contenders, lambda text: setting.say(f"{scenario.group} {params}: {text}"))


def _cost_of(contender: Contender, load: Callable[[], dict[str, float]]) -> tuple[int, dict[str, float]]:
    """Runs a load; nanoseconds of CPU of all processes of the contender, and what the load saw."""
    before = cpu_ns(contender.pids.values())
    seen = load()
    return cpu_ns(contender.pids.values()) - before, seen
