"""Compares contenders on the traffic scenarios: starts each in its lane, loads it, ends it.

In:     `Setting`: lanes, programs, how much to measure.
Out:    `Compared` by scenario and number of connections.
Limits: the proxy under test has processor 0 for itself, load and application share processor 1.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench import documents, peers, relays
from bench.measure import Bulk, GrpcLoad, Load, cpu_ns
from bench.proxies.drivers import Unable
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


class Started(NamedTuple):
    """What came of starting contenders."""

    contenders: list[Contender]
    failed: dict[str, str]
    absent: dict[str, str]


def run(setting: Setting, part: str) -> Iterator[tuple[str, Compared]]:
    """Every scenario of a part, with every number of connections."""
    for scenario in PARTS[part]:
        wanted = () if scenario.tcp or scenario.aim.rate else setting.amount.connections
        with ExitStack() as running:
            contenders, *missing = started(setting, contenders_of(setting, scenario), scenario, running)
            for connections in wanted or scenario.connections:
                details = ", ".join([scenario.path, *(f"{name} {value}" for name, value in scenario.params.items())])
                compared = _compare(setting, scenario, connections, contenders)
                yield f"{part}, {details}, {connections} connections", compared.with_missing(*missing)


def contenders_of(setting: Setting, scenario: Scenario) -> list[str]:
    """Everyone who can stand in a scenario, as far as is known before they are started."""
    if scenario.own_twice:
        return [FLOOR, OWN, LARGE]
    straight = [DIRECT] if scenario.straight else []
    return [*straight, FLOOR, OWN, *(name for name in setting.peers if peers.able(name, scenario))]


def started(setting: Setting, names: Sequence[str], scenario: Scenario, running: ExitStack) -> Started:
    """Starts them: who runs and listens; why others failed; why others say that they cannot stand there."""
    found = Started([], {}, {})
    for name in names:
        try:
            found.contenders.append(start(setting, name, scenario, running))
        except Unable as reason:
            found.absent[name] = str(reason)
        except (OSError, RuntimeError) as failure:
            if name == FLOOR:
                raise  # nothing can be compared
            found.failed[name] = str(failure)
    return found


def start(setting: Setting, name: str, scenario: Scenario, running: ExitStack) -> Contender:
    """Starts one contender in the places of a scenario, until `running` ends."""
    processes: dict[str, subprocess.Popen[Any]] = {}
    if name in (OWN, LARGE):
        sidecars = setting.sidecars("large" if name == LARGE else scenario.variant)
        where = sidecars.lane
        for end in scenario.roles:
            processes[end] = sidecars.start(end)
            running.callback(where.stop, processes[end])
            sidecars.await_ready(end)
        return Contender(name, where, {end: process.pid for end, process in processes.items()})
    where = setting.lanes[name]
    if name == FLOOR:
        processes |= relays.start_relays(where, setting.programs, scenario)
    elif name != DIRECT:
        processes |= peers.start(name, where, scenario)
    for process in processes.values():
        running.callback(where.stop, process)
    return Contender(name, where, {end: process.pid for end, process in processes.items()})


def certificates(setting: Setting, contender: Contender) -> Path | None:
    """What a load that speaks TLS shows to a contender: a folder; `None` for the floor, which speaks none."""
    if contender.name == FLOOR:
        return None
    if contender.name not in (OWN, LARGE):
        return contender.lane.folder / contender.name
    folder = setting.folder / f"{contender.lane.name}-client"
    if not folder.exists():
        folder.mkdir(mode=0o755)
        authority = next(each.authority for each in setting.variants.values() if each.lane is contender.lane)
        chain, key = peers.certificate(authority, Sidecars.identity("client"))
        for file, text in (("leaf.pem", chain), ("key.pem", key), ("ca.pem", authority.bundle)):
            (folder / file).write_text(text)
            shutil.chown(folder / file, PROXY_UID, PROXY_UID)
    return folder


def _compare(setting: Setting, scenario: Scenario, connections: int, contenders: list[Contender]) -> Compared:
    amount, aim = setting.amount, scenario.aim
    cost_name = "cpu_per_connection" if aim.fresh else "cpu_per_request"

    def requests(contender: Contender) -> Figures:
        run_ms = min(amount.run_ms, FRESH_MS) if aim.fresh else int(amount.run_ms * scenario.longer)
        shape = (connections, amount.warm_ms, run_ms)
        shown = certificates(setting, contender) if aim.tls else None
        load = Load(contender.lane, setting.programs, aim, shape, shown)
        cost_ns, seen = _cost_of(contender, load.run)
        cost = {cost_name: cost_ns / 1e3 / seen["requests"]} if contender.pids else {}
        quantiles = {name: seen[f"{name}_us"] for name in ("p50", "p90", "p99") if f"{name}_us" in seen}
        return {**cost, **quantiles, "requests_per_second": seen["requests"] / seen["seconds"]}

    def calls(contender: Contender) -> Figures:
        load = GrpcLoad(contender.lane, aim, connections, int(CALLS_PER_MS * amount.run_ms * scenario.longer))
        cost_ns, seen = _cost_of(contender, load.run)
        per_second = seen["requests"] / seen["seconds"]
        return {"cpu_per_request": cost_ns / 1e3 / seen["requests"], "requests_per_second": per_second}

    def transfer(contender: Contender) -> Figures:
        bulk = Bulk(contender.lane, setting.programs["bulk"], aim, int(amount.run_ms * scenario.longer))
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
