"""The figures as a table for people.

In:     what `run` measured. Out: text.
"""

from __future__ import annotations

from typing import Any

from bench.footprint import Footprint, Start
from bench.rounds import Comparison

METHOD = (
    "CPU is the processes' own accounting (schedstat of every thread), kernel work included. Contenders take"
    " turns within a round, in random order; a ratio is to the floor relay of the same round; medians with the"
    " middle half in brackets. A round whose floor is more than 10 % off its median, or in which more than 2 % of"
    " the time was stolen, is refused. Every contender stands between the same namespaces with the same"
    " redirection rules. GET with a 1 KB answer, keep-alive, one worker, proxy on processor 0, load and"
    " application on processor 1. inbound: plaintext client to an in-mesh application (PERMISSIVE, two policies);"
    " outbound: to an application outside the mesh; pair: both sidecars, mutual TLS between them, against two"
    " relays in plaintext."
)
HEADER = f"{'scenario':<10}{'conns':>6} {'contender':<10}{'ratio':>7} {'middle half':>14} {'CPU µs/req':>11}"
HEADER += f" {'each':>15}{'req/s':>9}{'p50 µs':>8}{'p99 µs':>8}  rounds"


def table(found: dict[str, Any]) -> str:
    """Everything that was measured, one line each."""
    lines = [f"{name}: {value}" for name, value in found["machine"].items()]
    lines += ["", *_wrapped(found["method"]), ""]
    if found["comparisons"]:
        lines += [HEADER, *(line for each in found["comparisons"] for line in _comparison(each)), ""]
    if "memory" in found:
        lines += [*_memory(found["memory"]), ""]
    if "start" in found:
        lines += _start(found["start"])
    return "\n".join(lines)


def _comparison(found: Comparison) -> list[str]:
    rounds = f"{found.rounds} ({found.refused} refused)"
    if not found.lines:
        return [f"{found.scenario:<10}{found.connections:>6} no steady round; {rounds}"]
    lines = []
    for line in found.lines:
        spread = f"[{line.ratio_spread[0]:.2f}, {line.ratio_spread[1]:.2f}]"
        each = " + ".join(f"{value:.1f}" for value in line.cpu_us_each)
        lines.append(
            f"{found.scenario:<10}{found.connections:>6} {line.contender:<10}{line.ratio:>7.2f} {spread:>14}"
            f" {line.cpu_us:>11.1f} {each:>15}{line.rps:>9.0f}{line.p50_us:>8.0f}{line.p99_us:>8.0f}  {rounds}"
        )
    return lines


def _memory(found: Footprint) -> list[str]:
    lines = []
    for end, used in found.used_pss.items():
        whose = " with the application's own connection that each belongs to" if end == "client" else ""
        lines.append(
            f"memory of the fed {end} sidecar: {_mb(found.fresh_pss[end])} MB when ready, {_mb(used)} MB after 10,000"
            f" requests (proportional set size; resident {_mb(found.used_rss[end])} MB,"
            f" anonymous {_mb(found.used_anonymous[end])} MB);"
            f" {found.per_idle_connection[end] / 1000:.1f} KB for each of {found.connections} idle mTLS connections"
            f"{whose}"
        )
    return lines


def _start(found: Start) -> list[str]:
    ready, request = found.ready_spread_ms, found.request_spread_ms
    return [
        f"start of a fed sidecar, median of {found.starts}: exec to 200 on 15021 {found.ready_ms:.0f} ms"
        f" [{ready[0]:.0f}, {ready[1]:.0f}] (fastest {found.fastest_ready_ms:.0f}),"
        f" to the first answered mTLS request {found.request_ms:.0f} ms"
        f" [{request[0]:.0f}, {request[1]:.0f}], of which that request {found.first_request_ms:.1f} ms"
    ]


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f}"


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 118)
