"""The goals of DESIGN section 7 and of the issues beside what the report says: one `Goal` for every figure.

In:     the rows of a report.
Out:    one line for each goal: what was found, what others have, whether it is reached. `notes` has the reasons by key.
Limits: a figure without a bound is one that the design wants reported beside another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.report.tables import number
from bench.rounds import Row

OWN, DIRECTORY, LARGE = "meshdp", "meshdp, directory", "meshdp, 1000 services"
PEERS = ("nginx", "haproxy", "envoy")
OURS_OR_NONE = ("meshdp", "floor", "direct")

Find = Callable[[Sequence[Row], str], float | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """What is aimed at: a figure of one of our subjects, at most or at least `bound`.

    key: names it in `notes`. sign: "" where the figure is only reported.
    """

    key: str
    what: str
    sign: str
    bound: float
    unit: str
    find: Find
    subject: str = OWN
    beside: bool = True  # the same figure makes sense for the other proxies

    def line(self, rows: Sequence[Row], peers: Sequence[str] = PEERS) -> list[str]:
        """The cells of its line in the table."""
        others = [self.find(rows, peer) if self.beside else None for peer in peers]
        bound = f"{self.sign} {self.bound:g}{self.unit}" if self.sign else "–"
        return [self.what, bound, _cell(self.find(rows, self.subject)), *map(_cell, others), self.verdict(rows)]

    def verdict(self, rows: Sequence[Row]) -> str:
        """One of the four words below."""
        found = self.find(rows, self.subject)
        if found is None:
            return NOT_MEASURED
        if not self.sign:
            return REPORTED
        return REACHED if (found <= self.bound if self.sign == "≤" else found >= self.bound) else MISSED


NOT_MEASURED, REPORTED, REACHED, MISSED = "not measured", "reported", "reached", "**missed**"


def peers_in(rows: Sequence[Row]) -> list[str]:
    """The usual peers, and whoever joined them."""
    compared = (row for row in rows if row.group != "kernels")  # their subjects are languages
    joined = {row.subject: None for row in compared if row.subject.partition(",")[0] not in OURS_OR_NONE}
    return [*PEERS, *(name for name in joined if name not in PEERS)]


def _cell(value: float | None) -> str:
    return "–" if value is None else number(value)


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


def _over(find: Find, *others: str, best: Callable[[Sequence[float]], float] = max) -> Find:
    """A figure as a multiple of the best of others, or of all peers. best: `min` where less is better."""

    def found(rows: Sequence[Row], subject: str) -> float | None:
        own = find(rows, subject)
        theirs = [value for other in others or peers_in(rows) if (value := find(rows, other)) is not None]
        return own / best(theirs) if own is not None and theirs else None

    return found


def _added_over(other: str) -> Find:
    """What a hop adds to the time of a request at one connection, as a multiple of what another proxy adds."""
    p50 = _median("http1", "p50", path="inbound", connections=1)

    def found(rows: Sequence[Row], subject: str) -> float | None:
        own, theirs, direct = (p50(rows, name) for name in (subject, other, "direct"))
        if own is None or theirs is None or direct is None or theirs <= direct:
            return None
        return (own - direct) / (theirs - direct)

    return found


BULK = _ratio("tcp_bulk", "gb_per_cpu_second")
TLS_BULK = _ratio("tls_bulk", "gb_per_cpu_second")
CPU = "cpu_per_request"
PER_CONNECTION = "cpu_per_connection"
INSTRUCTIONS = f"instructions_per_request_over_{OWN}"
PAIR_CPU = _median("pair_h2", CPU, connections=64)


def _counted(connections: int) -> str:
    return f"{connections} connection{'s' if connections > 1 else ''}"


def _hop(path: str, connections: int, bound: float) -> Goal:
    what = f"one HTTP/1.1 hop, {path}, {_counted(connections)}: CPU over the floor's"
    return Goal(f"hop_{path}", what, "≤", bound, "", _ratio("http1", CPU, path=path, connections=connections))


def _shared(connections: int, bound: float) -> Goal:
    what = f"mTLS pair over HTTP/2, {_counted(connections)}: CPU over two plaintext relays'"
    return Goal(f"pair_h2_{connections}", what, "≤", bound, "", _ratio("pair_h2", CPU, connections=connections))


def _new_connection(kind: str, bound: float, **params: object) -> Goal:
    """Of the server; everyone is compared with what nginx pays for a full handshake with X25519."""

    def find(rows: Sequence[Row], subject: str) -> float | None:
        own = row_of(rows, "handshake", PER_CONNECTION, subject, **params)
        full = row_of(rows, "handshake", PER_CONNECTION, "nginx", key_exchange="X25519")
        return own.median / full.median if own and full else None

    return Goal(
        f"handshake_{kind}", f"new mTLS connection on the server, {kind}: CPU over nginx's full", "≤", bound, "", find
    )


def _pair(key: str, what: str, group: str, **params: object) -> Goal:
    return Goal(key, f"{what}: CPU over two plaintext relays'", "", 0, "", _ratio(group, CPU, **params))


def _one(key: str, what: str, bound: str, find: Find, subject: str = OWN) -> Goal:
    """A figure that makes no sense for others, or is a comparison with them itself. bound: as `≤ 24 MB`, or nothing."""
    sign, number_of, unit = (*bound.split(), "", "", "")[:3]
    return Goal(key, what, sign, float(number_of or 0), f" {unit}".rstrip(), find, subject, beside=False)


GOALS = (
    *(_hop(path, count, bound) for path in ("inbound", "outbound") for count, bound in ((16, 1.15), (64, 1.2))),
    Goal("pair_http1", "mTLS pair, a TLS connection for each of 64: CPU over two plaintext relays'", "≤", 1.45, "",
         _ratio("pair_http1", CPU, connections=64)),
    _shared(1, 1.25), _shared(16, 1.15), _shared(64, 0.95),
    _pair("pair_h2_peers", "mTLS pair over HTTP/2 to 4 peers, 64 connections", "peers_4_16", peers=4),
    _pair("pair_h2_peers", "mTLS pair over HTTP/2 to 16 peers, 64 connections", "peers_4_16", peers=16),
    _pair("pair_h2_workers", "mTLS pair over HTTP/2, two workers, 64 connections", "workers_2"),
    _one("pair_h2_nginx", "mTLS pair over HTTP/2, 64 connections: CPU over nginx's", "≤ 0.37",
         _over(PAIR_CPU, "nginx")),
    _one("pair_h2_best", "mTLS pair over HTTP/2, 64 connections: CPU over the best peer's", "",
         _over(PAIR_CPU, best=min)),
    _new_connection("full", 0.30, key_exchange="X25519"),
    _new_connection("hybrid", 0.33, key_exchange="X25519MLKEM768"),
    _new_connection("resumed", 0.17, resumed=True),
    _one("tcp_bulk_envoy", "plain TCP bulk, GB per CPU-second: over Envoy's", "≥ 1.9", _over(BULK, "envoy")),
    _one("tcp_bulk_haproxy", "plain TCP bulk, GB per CPU-second: over HAProxy's", "≥ 1.3", _over(BULK, "haproxy")),
    _one("tls_bulk", "TCP over mTLS bulk through the pair: over the best peer's", "≥ 1.3", _over(TLS_BULK)),
    _one("connect_warm", "new connection over a warm pair: CPU over nginx's", "≤ 1.0",
         _over(_ratio("connect_warm", PER_CONNECTION), "nginx")),
    _one("latency_envoy", "latency added at one connection, one hop: over Envoy's", "≤ 0.5", _added_over("envoy")),
    _one("latency_haproxy", "latency added at one connection, one hop: over HAProxy's", "≤ 1.0",
         _added_over("haproxy")),
    _one("memory_directory", "memory after 10,000 requests, own directory", "≤ 24 MB",
         _median("memory", "alone_after_requests", end="server"), DIRECTORY),
    Goal("memory_fed", "memory after 10,000 requests, fed", "≤", 20, " MB",
         _median("memory", "alone_after_requests", end="server")),
    Goal("memory_idle", "memory of an idle mTLS connection, server side", "≤", 9000, " B",
         _median("memory", "bytes_per_idle_connection", end="server")),
    _one("memory_large", "resident memory, 1,000 services and 10,000 endpoints", "≤ 30 MB",
         _median("memory", "rss_after_requests", end="client"), LARGE),
    _one("swap_one", "endpoint change at 1,000 services, received to in force", "≤ 1 ms",
         _median("micro", "swap_one_endpoint", services=1000)),
    _one("swap_whole", "whole swap at 1,000 services", "≤ 20 ms", _median("micro", "swap_whole", services=1000)),
    _one("start_ready", "exec to ready", "≤ 60 ms", _median("start", "exec_to_ready")),
    Goal("start_request", "exec to the first proxied mTLS request", "≤", 60, " ms",
         _median("start", "exec_to_first_mtls_request")),
    _one("start_large", "the same with 1,000 services and 10,000 endpoints", "≤ 150 ms",
         _median("start", "exec_to_first_mtls_request"), LARGE),
    *(
        goal
        for path in ("inbound", "outbound")
        for goal in (
            _one("scale_instructions", f"1,000 services, 100 policies, {path}: instructions over the small mesh's",
                 "≤ 1.03", _median("scale", INSTRUCTIONS, path=path), LARGE),
            _one("scale_cpu", f"1,000 services, 100 policies, {path}: CPU over the small mesh's, 95 % bound", "≤ 1.08",
                 _median("scale", f"{CPU}_over_{OWN}_high", path=path), LARGE),
        )
    ),
)  # fmt: skip
