"""What a fed sidecar weighs and how fast it starts.

In:     `Sidecars` of one lane, the load generator.
Out:    memory after many requests, bytes per idle mTLS connection, milliseconds from exec to ready and to a request.
Limits: each figure comes from fresh processes. A start is counted from before fork to the first 200, polled every
        POLL_S; the first request is sent the moment the sidecar is ready.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Aim, Load, private_bytes, pss_bytes, rss_bytes
from bench.sidecars import SERVICE_HOST, SERVICE_IP, Sidecars
from bench.stage import PORT

REQUESTS = 10_000
IDLE_BASE, IDLE_CONNECTIONS = 20, 500
POLL_S = 0.0005
MESH = Aim(f"{SERVICE_IP}:{PORT}", SERVICE_HOST)


@dataclass(frozen=True, slots=True)
class Start:
    """Medians and quarters in milliseconds."""

    starts: int
    ready_ms: float
    fastest_ready_ms: float
    ready_spread_ms: tuple[float, float]
    request_ms: float
    request_spread_ms: tuple[float, float]
    first_request_ms: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes."""

    fresh_pss: dict[str, int]
    used_pss: dict[str, int]
    used_rss: dict[str, int]
    used_anonymous: dict[str, int]
    per_idle_connection: dict[str, float]
    connections: int


def starts(sidecars: Sidecars, count: int) -> Start:
    """Starts the client's sidecar again and again; the server's runs throughout."""
    server = sidecars.ready("server")
    ready, request = [], []
    for _ in range(count):
        began = time.monotonic()
        client = sidecars.start("client")
        sidecars.await_ready("client", POLL_S)
        ready.append((time.monotonic() - began) * 1e3)
        sidecars.lane.inside("client", _first_request)
        request.append((time.monotonic() - began) * 1e3)
        sidecars.lane.stop(client)
    sidecars.lane.stop(server)
    first = [total - until_ready for total, until_ready in zip(request, ready, strict=True)]
    return Start(
        starts=count,
        ready_ms=statistics.median(ready),
        fastest_ready_ms=min(ready),
        ready_spread_ms=_quarters(ready),
        request_ms=statistics.median(request),
        request_spread_ms=_quarters(request),
        first_request_ms=statistics.median(first),
    )


def _quarters(values: list[float]) -> tuple[float, float]:
    quarters = statistics.quantiles(values, n=4, method="inclusive")
    return quarters[0], quarters[2]


def _first_request() -> None:
    address, port = MESH.address.split(":")
    with socket.create_connection((address, int(port)), timeout=10) as connection:
        connection.sendall(f"GET /item/1 HTTP/1.1\r\nhost: {MESH.host}\r\n\r\n".encode())
        answer = connection.recv(4096)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"expected 200 to the first request, found {answer[:200]!r}")


def footprint(sidecars: Sidecars, load: Path) -> Footprint:
    """Weighs both sidecars fresh, after REQUESTS requests, and with idle connections."""
    processes = {end: sidecars.ready(end) for end in ("server", "client")}
    fresh = {end: pss_bytes(process.pid) for end, process in processes.items()}
    _requests(sidecars, load)
    used = {end: pss_bytes(process.pid) for end, process in processes.items()}
    rss = {end: rss_bytes(process.pid) for end, process in processes.items()}
    anonymous = {end: private_bytes(process.pid) for end, process in processes.items()}
    per_connection, connections = _idle(sidecars, load, processes)
    for process in processes.values():
        sidecars.lane.stop(process)
    return Footprint(fresh, used, rss, anonymous, per_connection, connections)


def _requests(sidecars: Sidecars, load: Path) -> None:
    """At least REQUESTS requests over 16 connections."""
    done = 0
    while done < REQUESTS:
        done += Load(sidecars.lane, load, MESH, (16, 0, 500)).run().requests


def _idle(
    sidecars: Sidecars, load: Path, processes: dict[str, subprocess.Popen[bytes]]
) -> tuple[dict[str, float], int]:
    """Growth of the heap for each of many idle connections that have carried one request."""
    first = Load(sidecars.lane, load, MESH, (IDLE_BASE, 0, 0))
    before = {end: private_bytes(process.pid) for end, process in processes.items()}
    open_before = _mtls_connections(sidecars)
    rest = Load(sidecars.lane, load, MESH, (IDLE_CONNECTIONS, 0, 0))
    time.sleep(0.5)
    after = {end: private_bytes(process.pid) for end, process in processes.items()}
    opened = _mtls_connections(sidecars) - open_before
    rest.close()
    first.close()
    return {end: (after[end] - before[end]) / max(1, opened) for end in processes}, opened


def _mtls_connections(sidecars: Sidecars) -> int:
    """Connections between the two sidecars, counted where they arrive."""
    command = ["ip", "netns", "exec", sidecars.lane.namespaces["client"]]
    command += ["ss", "-Htn", "state", "established", "dst", f"10.99.0.2:{PORT}"]
    return len(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines())
