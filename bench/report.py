"""The report: one JSON document for programs, and the same as tables for people.

In:     rows, the machine, what was refused and what failed; or a report that was written before.
Out:    `Report`, its JSON, its Markdown.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.goals import GOALS, NOT_YET, PEERS
from bench.rounds import FLOOR, Row

METHOD = (
    "CPU is the processes' own accounting (schedstat of every thread), kernel work included. Contenders take turns"
    " within a round, in random order; a ratio is to the floor relay of the same round; shown are medians, and the"
    " smallest reading. A round whose floor is more than 10 % off its median, or in which more than 2 % of the time was"
    " stolen, is refused and repeated. Every contender stands between the same namespaces with the same redirection"
    " rules and addresses, has one worker, keep-alive and no access log; proxy on processor 0, load and application on"
    " processor 1. HTTP: GET with a 1 KB answer; http1 inbound: plaintext client to an in-mesh application"
    " (PERMISSIVE, two policies; others: one rule); outbound: to an application outside the mesh; pair_…: two"
    " proxies with mutual TLS between them, against two relays in plaintext. connect_warm: the pair, each"
    " request on a connection of its own; handshake: the same with mutual TLS from the client. Bulk: one connection,"
    " after 64 MiB that are compared byte by byte; for GB per CPU-second more is better. Memory: `alone` is the"
    " proportional set size as though no other program ran the same files. A contender with one wrong"
    " answer has no figure."
)


@dataclass(slots=True)
class Report:
    """Everything one run found."""

    machine: dict[str, str]
    commit: str
    options: str
    rows: list[Row] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The document."""
        return {
            "commit": self.commit,
            "machine": self.machine,
            "method": {"text": METHOD, "options": self.options, "refused": self.refused, "failed": self.failed},
            "rows": [row.as_dict() for row in self.rows],
        }

    def write(self, stem: Path) -> None:
        """Writes the JSON and the Markdown beside it."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".json").write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")
        stem.with_suffix(".md").write_text(self.markdown())

    def markdown(self, manual: str = "../README.md") -> str:
        """All of it, for people: the goals first, then every row. manual: where `bench/README.md` is from the page."""
        lines = ["# Performance", "", *self._origin(manual), "", "## Goals of DESIGN section 7", ""]
        lines += _table(GOAL_HEAD, [goal.line(self.rows) for goal in GOALS])
        lines += ["", "Not measured yet:", "", *(f"* {what}: {why}" for what, why in NOT_YET)]
        for group in dict.fromkeys(row.group for row in self.rows):
            lines += ["", f"## {TITLES.get(group, group)}", ""]
            lines += _table(ROW_HEAD, [_cells(row) for row in self.rows if row.group == group])
        lines += ["", "## Method and machine", "", *textwrap.wrap(METHOD, 148), ""]
        lines += [f"* {name}: {value}" for name, value in self.machine.items()]
        lines += [f"* refused rounds: {self._refusals()}", *self._failures()]
        return "\n".join(lines) + "\n"

    def _origin(self, manual: str) -> list[str]:
        text = (
            f"Written by `make bench` from commit {self.commit} ({self.options}). Numbers of one machine: compare"
            f" ratios. How to repeat it: [bench/README.md]({manual})."
        )
        return textwrap.wrap(text, 148)

    def _refusals(self) -> str:
        some = [f"{count} in {name}" for name, count in self.refused.items() if count]
        return "; ".join(some) or "none"

    def _failures(self) -> Iterator[str]:
        for name, reason in self.failed.items():
            yield f"* no figure for {name}: {reason.splitlines()[0]}"


def read(path: Path) -> Report:
    """A report that was written before.

    Raises:
        ValueError: it is something else.
    """
    try:
        found = json.loads(path.read_text())
        method = found["method"]
        rows = [Row(**row) for row in found["rows"]]
        return Report(found["machine"], found["commit"], method["options"], rows, method["refused"], method["failed"])
    except (KeyError, TypeError) as missing:
        raise ValueError(f"{path}: expected a report of `make bench`, found something without {missing}") from missing


def _cells(row: Row) -> list[str]:
    params = ", ".join(f"{name} {value}" for name, value in row.params.items())
    ratio = "" if row.ratio_to_floor is None else f"{row.ratio_to_floor:.2f}"
    return [params, row.subject, row.metric, f"{row.median:g} {row.unit}", f"{row.min:g}", ratio, str(row.rounds)]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines)]


GOAL_HEAD = ("what", "goal", "meshdp", *PEERS, "")
ROW_HEAD = ("parameters", "subject", "metric", "median", "min", f"ratio to {FLOOR}", "rounds")
TITLES = {
    "http1": "One HTTP/1.1 hop",
    "http1_tls": "One HTTP/1.1 hop that ends mutual TLS (ratio to a plaintext relay)",
    "pair_http1": "The pair: mutual TLS between two proxies, HTTP/1.1 inside",
    "pair_h2": "The pair: mutual TLS between two proxies, HTTP/2 inside (nginx: HTTP/1.1)",
    "grpc": "Unary gRPC through the pair",
    "tcp_bulk": "Plain TCP, bulk",
    "tls_bulk": "TCP over mutual TLS, bulk, through the pair",
    "handshake": "A new mutual TLS connection with one request, on the server",
    "connect_warm": "A new connection over a warm pair, with one request",
    "latency": "Latency through the pair at a fixed rate, from when a request was due",
    "peers_4_16": "The pair over HTTP/2 to 4 and 16 peers",
    "workers_2": "The pair over HTTP/2 with two workers on one processor",
    "scale": "1,000 services, 10,000 endpoints and 100 policies beside the small mesh",
    "memory": "Memory",
    "start": "Start",
    "micro": "Compile, swap, decide (Python side, pytest-benchmark)",
    "kernels": "Two kernels in Rust, Cython and Python",
}
