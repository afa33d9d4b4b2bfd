"""The goals of DESIGN section 7 beside what the report says.

In:     the rows of a report. Out: one line for each goal: what was found, what others have, whether it is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.rounds import Row

OWN, DIRECTORY, LARGE = "meshdp", "meshdp, directory", "meshdp, 1000 services"
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


def _best_over(find: Find, *others: str) -> Find:
    """As `_over`, where less is better."""

    def found(rows: Sequence[Row], subject: str) -> float | None:
        own = find(rows, subject)
        theirs = [value for other in others if (value := find(rows, other)) is not None]
        return own / min(theirs) if own is not None and theirs else None

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


def _hop(path: str, connections: int, bound: float) -> Goal:
    what = f"one HTTP/1.1 hop, {path}, {connections} connections: CPU, ratio to the floor"
    return Goal(what, "≤", bound, "", _ratio("http1", CPU, path=path, connections=connections))


def _shared(connections: int, bound: float) -> Goal:
    what = f"mTLS pair over HTTP/2, {connections} connections: CPU, ratio to two relays in plaintext"
    return Goal(what, "≤", bound, "", _ratio("pair_h2", CPU, connections=connections))


def _hybrid_over_nginx(rows: Sequence[Row], subject: str) -> float | None:
    own = row_of(rows, "handshake", PER_CONNECTION, subject, key_exchange="X25519MLKEM768")
    full = row_of(rows, "handshake", PER_CONNECTION, "nginx", key_exchange="X25519")
    return own.median / full.median if own and full else None


GOALS = (
    *(_hop(path, count, bound) for path in ("inbound", "outbound") for count, bound in ((16, 1.15), (64, 1.2))),
    Goal("mTLS pair, one TLS connection for each, 64 connections: ratio to two relays", "≤", 1.45, "",
         _ratio("pair_http1", CPU, connections=64)),
    _shared(1, 1.25), _shared(16, 1.15), _shared(64, 0.95),
    Goal("mTLS pair over HTTP/2, 64 connections, multiple of the best other proxy", "≤", 0.37, "",
         _best_over(_median("pair_h2", CPU, connections=64), *PEERS), beside=False),
    Goal("new mTLS connection on the server, X25519: CPU, multiple of nginx's", "≤", 0.30, "",
         _over(_median("handshake", PER_CONNECTION, key_exchange="X25519"), "nginx"), beside=False),
    Goal("new mTLS connection on the server, X25519MLKEM768: CPU, multiple of nginx's with X25519", "≤", 0.33, "",
         _hybrid_over_nginx, beside=False),
    Goal("new connection over a warm pair, CPU, multiple of nginx's", "≤", 1.0, "",
         _over(_ratio("connect_warm", PER_CONNECTION), "nginx"), beside=False),
    Goal("plain TCP bulk, GB per CPU-second, multiple of Envoy's", "≥", 1.9, "", _over(BULK, "envoy"), beside=False),
    Goal("plain TCP bulk, multiple of HAProxy's (spliced)", "≥", 1.3, "", _over(BULK, "haproxy"), beside=False),
    Goal("TCP over mTLS bulk through the pair, multiple of the best peer's", "≥", 1.3, "", _over(TLS_BULK, *PEERS),
         beside=False),
    Goal("memory of a fed sidecar after 10,000 requests, alone", "≤", 20, " MB",
         _median("memory", "alone_after_requests", end="server")),
    Goal("memory of a sidecar that compiles its own directory, alone", "≤", 24, " MB",
         _median("memory", "alone_after_requests", end="server"), DIRECTORY, beside=False),
    Goal("memory of an idle mTLS connection, server side", "≤", 9000, " B",
         _median("memory", "bytes_per_idle_connection", end="server")),
    Goal("resident memory with 1,000 services and 10,000 endpoints", "≤", 30, " MB",
         _median("memory", "rss_after_requests", end="client"), LARGE, beside=False),
    Goal("exec to ready (others: to listening)", "≤", 60, " ms", _median("start", "exec_to_ready"), beside=False),
    Goal("exec to the first proxied mTLS request", "≤", 60, " ms", _median("start", "exec_to_first_mtls_request")),
    Goal("the same with 1,000 services and 10,000 endpoints", "≤", 150, " ms",
         _median("start", "exec_to_first_mtls_request"), LARGE, beside=False),
    Goal("latency added at one connection, one hop, multiple of Envoy's", "≤", 0.5, "", _added_over("envoy"),
         beside=False),
    Goal("latency added at one connection, one hop, multiple of HAProxy's", "≤", 1.0, "", _added_over("haproxy"),
         beside=False),
    Goal("swap of one endpoint at 1,000 services, bytes to in force", "≤", 1, " ms",
         _median("micro", "swap_one_endpoint", services=1000), beside=False),
    Goal("whole swap at 1,000 services", "≤", 20, " ms", _median("micro", "swap_whole", services=1000), beside=False),
    *(
        Goal(f"CPU with 1,000 services and 100 policies, {path}: multiple of the small mesh, upper bound of 95 %",
             "≤", 1.08, "", _median("scale", f"{CPU}_over_{OWN}_high", path=path), LARGE, beside=False)
        for path in ("inbound", "outbound")
    ),
)  # fmt: skip

NOT_YET = (
    ("CPU of a resumed mTLS connection (≤ 0.17 of nginx)", "resumption is off and there is no switch for it yet"),
)
