"""Compares contenders on the traffic scenarios: starts each in its lane, loads it, ends it.

In:     `Setting`: lanes, programs, how much to measure.
Out:    `Compared` by scenario and number of connections.
Limits: the proxy under test has processor 0 for itself, load and application share processor 1.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import documents, peers, relays
from bench.measure import Bulk, GrpcLoad, Load, cpu_ns
from bench.rounds import FLOOR, Compared, Comparison, Contender, Figures, compare
from bench.scenarios import PARTS, Scenario
from bench.sidecars import Sidecars
from bench.stage import PROXY_UID, Lane, lane

OWN, DIRECT, LARGE = "meshdp", "direct", "meshdp, 1000 services"
FRESH_MS = 700  # with fresh connections: the client's ports are free again after a minute only
CALLS_PER_MS = 8  # of gRPC, in place of a time


@dataclass(frozen=True, slots=True)
class Amount:
    """How much to measure."""

    rounds: int
    starts: int
    warm_ms: int
    run_ms: int
    connections: tuple[int, ...] = ()
    large: bool = True  # micro benchmarks of a thousand services, too


@dataclass(slots=True)
class Setting:
    """What every part stands on: a lane for each contender by name, compiled programs, our sidecars by variant."""

    folder: Path
    lanes: dict[str, Lane]
    programs: dict[str, Path]
    amount: Amount
    say: Callable[[str], None]
    until_end: ExitStack
    variants: dict[str, Sidecars] = field(default_factory=dict)

    @property
    def peers(self) -> list[str]:
        """The other proxies that take part."""
        return [name for name in self.lanes if name not in (DIRECT, FLOOR)]

    def sidecars(self, variant: str = documents.USUAL) -> Sidecars:
        """Our sidecars of a variant, in a lane of their own, made when they are first asked for."""
        if variant not in self.variants:
            name = f"{OWN}-{variant}".rstrip("-")
            where = self.until_end.enter_context(lane(name, self.folder, self.programs))
            self.variants[variant] = Sidecars(where, self.folder / name, documents.VARIANTS[variant])
            self.until_end.callback(self.variants[variant].close)
        return self.variants[variant]


def run(setting: Setting, part: str) -> Iterator[tuple[str, Compared]]:
    """Every scenario of a part, with every number of connections."""
    for scenario in PARTS[part]:
        wanted = () if scenario.tcp or scenario.aim.rate else setting.amount.connections
        with ExitStack() as running:
            contenders = started(setting, scenario, running)
            for connections in wanted or scenario.connections:
                details = ", ".join([scenario.path, *(f"{name} {value}" for name, value in scenario.params.items())])
                yield (
                    f"{part}, {details}, {connections} connections",
                    _compare(setting, scenario, connections, contenders),
                )


def started(setting: Setting, scenario: Scenario, running: ExitStack) -> list[Contender]:
    """Everyone who can stand in a scenario, running and listening."""
    names = [*([DIRECT] if scenario.straight else []), FLOOR, OWN, *([LARGE] if scenario.own_twice else [])]
    names += [name for name in setting.peers if peers.able(name, scenario) and not scenario.own_twice]
    return [start(setting, name, scenario, running) for name in names]


def start(setting: Setting, name: str, scenario: Scenario, running: ExitStack) -> Contender:
    """Starts one contender in the places of a scenario, until `running` ends."""
    if name in (OWN, LARGE):
        sidecars = setting.sidecars("large" if name == LARGE else scenario.variant)
        where, processes = sidecars.lane, {end: sidecars.ready(end) for end in scenario.roles}
    elif name == DIRECT:
        where, processes = setting.lanes[name], {}
    elif name == FLOOR:
        where = setting.lanes[name]
        processes = relays.start_relays(where, setting.programs, scenario)
    else:
        where = setting.lanes[name]
        processes = peers.start(name, where, scenario)
    for process in processes.values():
        running.callback(where.stop, process)
    return Contender(name, where, {end: process.pid for end, process in processes.items()})


def certificates(setting: Setting, contender: Contender) -> Path | None:
    """What a load that speaks TLS shows to a contender: a folder; `None` for the floor, which speaks none."""
    if contender.name == FLOOR:
        return None
    if contender.name not in (OWN, LARGE):
        return contender.lane.folder / contender.name
    folder = setting.folder / "client-certificates"
    if not folder.exists():
        folder.mkdir(mode=0o755)
        authority = setting.sidecars().authority
        chain, key = peers.certificate(authority, Sidecars.identity("client"))
        for file, text in (("leaf.pem", chain), ("key.pem", key), ("ca.pem", authority.bundle)):
            (folder / file).write_text(text)
            shutil.chown(folder / file, PROXY_UID, PROXY_UID)
    return folder


def _compare(setting: Setting, scenario: Scenario, connections: int, contenders: list[Contender]) -> Compared:
    amount, aim = setting.amount, scenario.aim
    cost_name = "cpu_per_connection" if aim.fresh else "cpu_per_request"

    def requests(contender: Contender) -> Figures:
        run_ms = min(amount.run_ms, FRESH_MS) if aim.fresh else amount.run_ms
        shape = (connections, amount.warm_ms, run_ms)
        shown = certificates(setting, contender) if aim.tls else None
        load = Load(contender.lane, setting.programs, aim, shape, shown)
        cost_ns, seen = _cost_of(contender, load.run)
        cost = {cost_name: cost_ns / 1e3 / seen["requests"]} if contender.pids else {}
        quantiles = {name: seen[f"{name}_us"] for name in ("p50", "p90", "p99") if f"{name}_us" in seen}
        return {**cost, **quantiles, "requests_per_second": seen["requests"] / seen["seconds"]}

    def calls(contender: Contender) -> Figures:
        load = GrpcLoad(contender.lane, aim, connections, CALLS_PER_MS * amount.run_ms)
        cost_ns, seen = _cost_of(contender, load.run)
        per_second = seen["requests"] / seen["seconds"]
        return {"cpu_per_request": cost_ns / 1e3 / seen["requests"], "requests_per_second": per_second}

    def transfer(contender: Contender) -> Figures:
        bulk = Bulk(contender.lane, setting.programs["bulk"], aim, amount.run_ms)
        cost_ns, seen = _cost_of(contender, bulk.run)
        return {"gb_per_cpu_second": seen["bytes"] / cost_ns, "gb_per_second": seen["bytes"] / 1e9 / seen["seconds"]}

    take, steady = (transfer, "gb_per_cpu_second") if scenario.tcp else (calls if aim.grpc else requests, cost_name)
    params = described(scenario, connections)
    beside = (LARGE, OWN) if scenario.own_twice else None
    what = Comparison(scenario.group, params, take, steady, amount.rounds, beside)
    return compare(what, contenders, lambda text: setting.say(f"{scenario.group} {params}: {text}"))


def described(scenario: Scenario, connections: int) -> dict[str, Any]:
    """What the report says of a scenario beside its group."""
    more = {} if scenario.tcp else {"body_bytes": 1024}
    return {"path": scenario.path, "connections": connections, **more, **scenario.params}


def _cost_of(contender: Contender, load: Callable[[], dict[str, float]]) -> tuple[int, dict[str, float]]:
    """Runs a load; nanoseconds of CPU of all processes of the contender, and what the load saw."""
    before = cpu_ns(contender.pids.values())
    seen = load()
    return cpu_ns(contender.pids.values()) - before, seen
