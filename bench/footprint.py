"""What a sidecar weighs and how fast it starts, beside the other proxies in its place.

In:     a `Setting`.
Out:    rows: memory when ready and after many requests, bytes per idle mTLS connection, milliseconds from exec to
        listening or ready, and to the first answered mTLS request.
Limits: every reading comes from fresh processes. A sidecar is weighed as though alone on the machine (see `Weight`). A
        start is counted from before fork, polled every POLL_S.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from bench import peers, relays
from bench.measure import Load, WrongAnswer, cpu_ns, weigh
from bench.proxies.drivers import Unable
from bench.rounds import FLOOR, Contender, Row, figure_row
from bench.scenarios import OVER_TLS, PAIR, Scenario
from bench.stage import PORT, SERVER_IP, await_listening
from bench.traffic import LARGE, OWN, Setting, certificates, start, started

REQUESTS = 10_000
IDLE_BASE, IDLE_CONNECTIONS = 20, 1000
POLL_S = 0.0005
REST_S = 3.0
QUIET_NS, QUIET_LIMIT_S = 2_000_000, 5
DIRECTORY = "meshdp, directory"

Readings = dict[tuple[str, str, str, str], list[float]]  # by end, subject, metric, unit


def memory(setting: Setting, rounds: int, failed: dict[str, str], absent: dict[str, str]) -> list[Row]:
    """Weighs everyone in both places of the mTLS pair."""
    found: Readings = defaultdict(list)
    for turn in range(rounds):
        for name in (FLOOR, OWN, DIRECTORY, *([LARGE] if setting.amount.large else []), *setting.peers):
            setting.say(f"memory: {name}, fresh processes {turn + 1} of {rounds}")
            with ExitStack() as running:
                own = name == DIRECTORY
                try:
                    contender = _from_directory(setting, running) if own else start(setting, name, PAIR, running)
                    _weigh(setting, contender, found, name)
                except Unable as reason:
                    absent[f"memory: {name}"] = str(reason)
                except (OSError, RuntimeError) as wrong:
                    failed[f"memory: {name}"] = str(wrong)
    return [
        figure_row("memory", {"end": end, **_more(metric)}, (subject, metric, unit), values)
        for (end, subject, metric, unit), values in found.items()
        if f"memory: {subject}" not in failed
    ]


def _more(metric: str) -> dict[str, Any]:
    if metric == "bytes_per_idle_connection":
        return {"connections": IDLE_CONNECTIONS}
    return {"requests": REQUESTS} if "after" in metric else {}


def _from_directory(setting: Setting, running: ExitStack) -> Contender:
    """The server's sidecar compiles for itself; the client's is fed, for it only has to be there."""
    sidecars = setting.sidecars(PAIR.variant)
    chain, key = peers.certificate(sidecars.authority, sidecars.identity("server"))
    server = sidecars.start_from_directory("server", {"cert-chain.pem": chain, "key.pem": key})
    running.callback(sidecars.lane.stop, server)
    sidecars.await_ready("server")
    running.callback(sidecars.lane.stop, sidecars.ready("client"))
    return Contender(OWN, sidecars.lane, {"server": server.pid})


def _weigh(setting: Setting, contender: Contender, found: Readings, subject: str) -> None:
    def note(metric: str, unit: str = "MB") -> None:
        for end, pid in contender.pids.items():
            weight = weigh(pid)
            for kind, size in (("alone", weight.alone), ("pss", weight.pss), ("rss", weight.rss)):
                found[end, subject, f"{kind}_{metric}", unit].append(size / 1e6)

    _settle(contender)
    note("when_ready")
    done = 0.0
    while done < REQUESTS:
        done += Load(contender.lane, setting.programs, PAIR.aim, (16, 0, 300)).run()["requests"]
    note("after_requests")
    if subject == LARGE:
        return  # a connection weighs what it weighs
    found["server", subject, "bytes_per_idle_connection", "B"].append(_idle(setting, contender))


def _idle(setting: Setting, contender: Contender) -> float:
    """Growth of the server's heap for each of many idle mTLS connections that have carried one request.

    The load itself is the client: through the pair, one whose answer is in may serve the next, and fewer are opened.
    """
    shown, pid = certificates(setting, contender), contender.pids["server"]
    first = Load(contender.lane, setting.programs, OVER_TLS, (IDLE_BASE, 0, 0), shown)
    _settle(contender)
    before, open_before = weigh(pid).anonymous, _mtls_connections(contender)
    rest = Load(contender.lane, setting.programs, OVER_TLS, (IDLE_CONNECTIONS, 0, 0), shown)
    _settle(contender)
    after, opened = weigh(pid).anonymous, _mtls_connections(contender) - open_before
    rest.close()
    first.close()
    if opened != IDLE_CONNECTIONS:
        raise WrongAnswer(
            f"expected {IDLE_CONNECTIONS} idle connections in lane {contender.lane.name}, found {opened}: others were"
            f" refused or closed; {contender.lane.last_words()}"
        )
    return (after - before) / opened


def _settle(contender: Contender) -> None:
    """Waits until the processes have next to nothing left to do, and have had time to give back what a burst took."""
    time.sleep(REST_S)
    until = time.monotonic() + QUIET_LIMIT_S
    spent = cpu_ns(contender.pids.values())
    while time.monotonic() < until:
        time.sleep(0.2)
        now = cpu_ns(contender.pids.values())
        if now - spent < QUIET_NS:
            return
        spent = now


def _mtls_connections(contender: Contender) -> int:
    """Connections to the server's end, counted where they leave."""
    command = ["ip", "netns", "exec", contender.lane.namespaces["client"]]
    command += ["ss", "-Htn", "state", "established", "dst", f"{SERVER_IP}:{PORT}"]
    return len(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines())


def starts(setting: Setting, failed: dict[str, str], absent: dict[str, str]) -> list[Row]:
    """Starts the client's place again and again, everyone in turn; the server's runs throughout."""
    found: Readings = defaultdict(list)
    with ExitStack() as running:
        own = [OWN, *([LARGE] if setting.amount.large else [])]
        servers, *missing = started(setting, [*own, *setting.peers], _only("server"), running)
        for kind, reasons in zip((failed, absent), missing, strict=True):
            kind.update({f"start: {name}": reason for name, reason in reasons.items()})
        for turn in range(setting.amount.starts):
            setting.say(f"start: {turn + 1} of {setting.amount.starts}")
            for name in (
                each for each in (FLOOR, *(server.name for server in servers)) if f"start: {each}" not in failed
            ):
                try:
                    _start_own(setting, name, found) if name in own else _start_listener(setting, name, found)
                except (OSError, RuntimeError) as wrong:
                    failed[f"start: {name}"] = str(wrong)
    return [
        figure_row("start", {"end": end}, (subject, metric, unit), values)
        for (end, subject, metric, unit), values in found.items()
        if f"start: {subject}" not in failed
    ]


def _only(end: str) -> Scenario:
    return replace(PAIR, roles={end: PAIR.roles[end]})


def _start_own(setting: Setting, name: str, found: Readings) -> None:
    sidecars = setting.sidecars("large" if name == LARGE else PAIR.variant)
    with ExitStack() as running:
        began = time.monotonic()
        client = sidecars.start("client")
        running.callback(sidecars.lane.stop, client)
        sidecars.await_ready("client", POLL_S)
        ready = time.monotonic()
        sidecars.lane.inside("client", _first_request)
        answered = time.monotonic()
    found["client", name, "exec_to_ready", "ms"].append((ready - began) * 1e3)
    found["client", name, "exec_to_first_mtls_request", "ms"].append((answered - began) * 1e3)


def _start_listener(setting: Setting, name: str, found: Readings) -> None:
    lane, role = setting.lanes[name], PAIR.roles["client"]
    words = relays.command(setting.programs, role) if name == FLOOR else peers.prepare(name, lane, PAIR, "client")
    with ExitStack() as running:
        began = time.monotonic()
        process = lane.start("client", words)
        running.callback(lane.stop, process)
        await_listening(lane, "client", role.port, process, POLL_S)
        listening = time.monotonic()
        if name != FLOOR:
            lane.inside("client", _first_request)
            found["client", name, "exec_to_first_mtls_request", "ms"].append((time.monotonic() - began) * 1e3)
    found["client", name, "exec_to_listening", "ms"].append((listening - began) * 1e3)


def _first_request() -> None:
    address, port = PAIR.aim.address.split(":")
    with socket.create_connection((address, int(port)), timeout=10) as connection:
        connection.sendall(f"GET /item/1 HTTP/1.1\r\nhost: {PAIR.aim.host}\r\n\r\n".encode())
        answer = connection.recv(4096)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise WrongAnswer(f"expected 200 to the first request, found {answer[:200]!r}")
