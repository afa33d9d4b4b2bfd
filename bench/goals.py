"""The goals of DESIGN section 7 beside what the report says.

In:     the rows of a report. Out: one line for each goal: what was found, what others have, whether it is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.rounds import Row

OWN, DIRECTORY = "meshdp", "meshdp, directory"
PEERS = ("nginx", "haproxy", "envoy")

Find = Callable[[Sequence[Row], str], float | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """What is aimed at: a figure of one of our subjects, at most or at least `bound`."""

    what: str
    sign: str
    bound: float
    unit: str
    find: Find
    subject: str = OWN
    beside: bool = True  # the same figure makes sense for the other proxies

    def line(self, rows: Sequence[Row]) -> list[str]:
        """The cells of its line in the table."""
        found = self.find(rows, self.subject)
        others = [self.find(rows, peer) if self.beside else None for peer in PEERS]
        return [
            self.what,
            f"{self.sign} {self.bound:g}{self.unit}",
            _cell(found),
            *map(_cell, others),
            self._met(found),
        ]

    def _met(self, found: float | None) -> str:
        if found is None:
            return "not measured"
        return "reached" if (found <= self.bound if self.sign == "≤" else found >= self.bound) else "**missed**"


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def row_of(rows: Sequence[Row], group: str, metric: str, subject: str, **params: object) -> Row | None:
    """The one row of a group that has these parameters."""
    for row in rows:
        if (row.group, row.metric, row.subject) == (group, metric, subject) and params.items() <= row.params.items():
            return row
    return None


def _ratio(group: str, metric: str, **params: object) -> Find:
    def find(rows: Sequence[Row], subject: str) -> float | None:
        row = row_of(rows, group, metric, subject, **params)
        return row.ratio_to_floor if row else None

    return find


def _median(group: str, metric: str, **params: object) -> Find:
    def find(rows: Sequence[Row], subject: str) -> float | None:
        row = row_of(rows, group, metric, subject, **params)
        return row.median if row else None

    return find


def _over(find: Find, *others: str) -> Find:
    """A figure as a multiple of the best of others."""

    def found(rows: Sequence[Row], subject: str) -> float | None:
        own = find(rows, subject)
        theirs = [value for other in others if (value := find(rows, other)) is not None]
        return own / max(theirs) if own is not None and theirs else None

    return found


def _added_over(other: str) -> Find:
    """What a hop adds to the time of a request at one connection, as a multiple of what another proxy adds."""
    p50 = _median("http1_hop", "p50", path="inbound", connections=1)

    def found(rows: Sequence[Row], subject: str) -> float | None:
        own, theirs, direct = (p50(rows, name) for name in (subject, other, "direct"))
        if own is None or theirs is None or direct is None or theirs <= direct:
            return None
        return (own - direct) / (theirs - direct)

    return found


BULK = _ratio("tcp_bulk", "gb_per_cpu_second")
BULK_MTLS = _ratio("tcp_mtls_bulk", "gb_per_cpu_second")
CPU = "cpu_per_request"
GOALS = (
    Goal("one HTTP/1.1 hop, inbound, 16 connections: CPU, ratio to the floor", "≤", 1.15, "",
         _ratio("http1_hop", CPU, path="inbound", connections=16)),
    Goal("one HTTP/1.1 hop, inbound, 64 connections", "≤", 1.20, "",
         _ratio("http1_hop", CPU, path="inbound", connections=64)),
    Goal("one HTTP/1.1 hop, outbound, 16 connections", "≤", 1.15, "",
         _ratio("http1_hop", CPU, path="outbound", connections=16)),
    Goal("one HTTP/1.1 hop, outbound, 64 connections", "≤", 1.20, "",
         _ratio("http1_hop", CPU, path="outbound", connections=64)),
    Goal("mTLS pair, 64 connections: CPU, ratio to two relays in plaintext", "≤", 1.45, "",
         _ratio("mtls_pair", CPU, connections=64)),
    Goal("new connection over a warm pair, CPU, multiple of nginx's", "≤", 1.0, "",
         _over(_ratio("new_connection", "cpu_per_connection"), "nginx"), beside=False),
    Goal("plain TCP bulk, GB per CPU-second, multiple of Envoy's", "≥", 1.9, "", _over(BULK, "envoy"), beside=False),
    Goal("plain TCP bulk, multiple of HAProxy's (spliced)", "≥", 1.3, "", _over(BULK, "haproxy"), beside=False),
    Goal("TCP over mTLS bulk through the pair, multiple of the best peer's", "≥", 1.3, "", _over(BULK_MTLS, *PEERS),
         beside=False),
    Goal("memory of a fed sidecar after 10,000 requests, alone", "≤", 20, " MB",
         _median("memory", "alone_after_requests", end="server")),
    Goal("memory of a sidecar that compiles its own directory, alone", "≤", 24, " MB",
         _median("memory", "alone_after_requests", end="server"), DIRECTORY, beside=False),
    Goal("memory of an idle mTLS connection, server side", "≤", 9000, " B",
         _median("memory", "bytes_per_idle_connection", end="server")),
    Goal("exec to ready (others: to listening)", "≤", 60, " ms", _median("start", "exec_to_ready"), beside=False),
    Goal("exec to the first proxied mTLS request", "≤", 60, " ms", _median("start", "exec_to_first_mtls_request")),
    Goal("latency added at one connection, one hop, multiple of Envoy's", "≤", 0.5, "", _added_over("envoy"),
         beside=False),
    Goal("latency added at one connection, one hop, multiple of HAProxy's", "≤", 1.0, "", _added_over("haproxy"),
         beside=False),
    Goal("swap of one endpoint at 1,000 services, bytes to in force", "≤", 1, " ms",
         _median("micro", "swap_one_endpoint", services=1000), beside=False),
    Goal("whole swap at 1,000 services", "≤", 20, " ms", _median("micro", "swap_whole", services=1000), beside=False),
)  # fmt: skip

NOT_YET = (
    ("mTLS pair over HTTP/2 between sidecars (≤ 1.25 / 1.15 / 0.95 at 1 / 16 / 64 connections)", "comes with HTTP/2"),
    (
        "CPU of a new mTLS connection, full, hybrid, resumed (≤ 0.30 / 0.33 / 0.17 of nginx)",
        "needs a load that speaks TLS",
    ),
    ("memory and start with 1,000 services and 10,000 endpoints (≤ 30 MB, ≤ 150 ms)", "the feed of the bench is small"),
)
