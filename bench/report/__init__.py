"""The report: one JSON document for programs, and the same as tables for people.

In:     rows, the machine, what was refused and what failed; or a report that was written before.
Out:    `Report`, its JSON, its Markdown (`tables` makes the tables, `notes` has the reasons).
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.report import tables
from bench.report.goals import GOALS, MISSED, NOT_MEASURED, peers_in
from bench.report.notes import ELSEWHERE, NOTES
from bench.rounds import Row

WIDTH = 140
METHOD = (
    "CPU is the processes' own accounting (schedstat of every thread), the kernel's work for them included. Contenders"
    " take turns within a round, in random order, and a ratio is to the floor of the same round: a relay in C that"
    " looks at nothing, what any proxy on kernel TCP pays. A round whose floor is more than 10 % off its median, or in"
    " which more than 2 % of the time was stolen, is refused and repeated. A contender with one wrong answer"
    " has no figure.",
    "Every contender stands between the same network namespaces with the same redirection rules and addresses, with one"
    " worker, keep-alive, no access log and no resumption; the proxy has processor 0, load and application share"
    " processor 1. Requests are GET with a 1 KB answer. In a closed loop on two processors requests per second and"
    " latencies only show that a run was sane.",
    "Memory is that of all processes of one sidecar as though alone on the machine: pages of files that only they run"
    " count whole, the distribution's libraries by their share.",
)
SUBJECTS = {
    "meshdp": ("our sidecar as `meshdp up` starts it, fed by the control plane: metrics on, policies in force inbound"),
    "meshdp, directory": "the same compiling its own configuration from a folder of YAML, as outside `meshdp up`",
    "meshdp, 1000 services": "the same in a mesh of 1,000 services with 10,000 endpoints and 100 policies",
    "floor": "the relay in C, in plaintext; two of them where there is a pair; for bulk one that splices",
    "direct": "no proxy and no rules: what the load and the application take themselves",
    "nginx, haproxy, envoy": (
        "configured for speed by their users' means (`bench/proxies`); nginx speaks HTTP/1.1 where others share"
    ),
}


@dataclass(slots=True)
class Report:
    """Everything one run found."""

    machine: dict[str, str]
    commit: str
    options: str
    rows: list[Row] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The document."""
        return {
            "commit": self.commit,
            "machine": self.machine,
            "method": {
                "text": " ".join(METHOD),
                "options": self.options,
                "refused": self.refused,
                "failed": self.failed,
                "absent": self.absent,
                "took_s": self.took,
            },
            "rows": [row.as_dict() for row in self.rows],
        }

    def write(self, stem: Path) -> None:
        """Writes the JSON and the Markdown beside it."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".json").write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")
        stem.with_suffix(".md").write_text(self.markdown())

    def markdown(self, manual: str = "../README.md") -> str:
        """All of it, for people. manual: where `bench/README.md` is from the page."""
        lines = ["# Performance", "", *self._origin(manual), "", "## Goals", ""]
        lines += [*textwrap.wrap(GOALS_SAY, WIDTH), "", *self._goals(), *self._reasons(), *_elsewhere(), ""]
        lines += ["## How it was measured", "", *self._method(), "", "## The tables", "", *_subjects()]
        for group in dict.fromkeys(row.group for row in self.rows):
            rows = [row for row in self.rows if row.group == group]
            lines += ["", f"### {TITLES.get(group, group)}", "", *tables.of_group(group, rows)]
        return "\n".join(lines) + "\n"

    def _origin(self, manual: str) -> list[str]:
        text = (
            f"What meshdp's sidecar costs, beside other proxies in its place. Written by `make bench` from commit"
            f" {self.commit} ({self.options}) on one machine: compare ratios, not microseconds. How to repeat it:"
            f" [bench/README.md]({manual})."
        )
        return textwrap.wrap(text, WIDTH)

    def _goals(self) -> list[str]:
        peers = peers_in(self.rows)
        return tables.aligned((*GOAL_HEAD, *peers, ""), [goal.line(self.rows, peers) for goal in GOALS])

    def _reasons(self) -> Iterator[str]:
        """Why figures are missed or missing. A goal that is reached has nothing to explain."""
        for verdict, title in ((MISSED, "Missed, and why"), (NOT_MEASURED, "Not measured")):
            goals = [goal for goal in GOALS if goal.verdict(self.rows) == verdict]
            if goals:
                yield from ("", f"### {title}", "")
            explained = [goal for goal in goals if verdict == MISSED or goal.key in UNMEASURABLE]
            for key in dict.fromkeys(goal.key for goal in explained):
                what = "; ".join(goal.what for goal in goals if goal.key == key)
                yield from _bullet(f"**{what}.** {NOTES.get(key, NO_NOTE)}")
            if rest := len(goals) - len(explained):
                yield from _bullet(f"{rest} figures of parts that were not run, or in which somebody has no figure.")

    def _method(self) -> Iterator[str]:
        for paragraph in METHOD:
            yield from (*textwrap.wrap(paragraph, WIDTH), "")
        yield from (f"* {name}: {value}" for name, value in self.machine.items())
        if self.took:
            parts = ", ".join(f"{part} {seconds / 60:.1f}" for part, seconds in self.took.items())
            took = f"minutes: {sum(self.took.values()) / 60:.0f} in all; {parts}"
            yield from _bullet(took)
        some = "; ".join(f"{count} in {name}" for name, count in self.refused.items() if count)
        yield from _bullet(f"refused rounds: {some or 'none'}")
        for name, reason in self.failed.items():
            yield f"* no figure for {name}: {reason.splitlines()[0]}"
        for name, reason in self.absent.items():
            yield f"* not in {name}: {reason.splitlines()[0]}"


def _bullet(text: str) -> list[str]:
    return textwrap.wrap(f"* {text}", WIDTH, subsequent_indent="  ")


def _subjects() -> Iterator[str]:
    yield from textwrap.wrap(TABLES_SAY, WIDTH)
    yield ""
    for name, meaning in SUBJECTS.items():
        yield from _bullet(f"`{name}`: {meaning}.")


def _elsewhere() -> Iterator[str]:
    yield from ("", "### Shown by tests instead", "")
    yield from tables.aligned(("figure", "where"), [[what, f"`{where}`"] for what, where in ELSEWHERE])


def read(path: Path) -> Report:
    """A report that was written before.

    Raises:
        ValueError: it is something else.
    """
    try:
        found = json.loads(path.read_text())
        method = found["method"]
        rows = [Row(**row) for row in found["rows"]]
        more = (method.get("absent", {}), method.get("took_s", {}))  # reports before these were noted have neither
        return Report(
            found["machine"], found["commit"], method["options"], rows, method["refused"], method["failed"], *more
        )
    except (KeyError, TypeError) as missing:
        raise ValueError(f"{path}: expected a report of `make bench`, found something without {missing}") from missing


GOAL_HEAD = ("what", "goal", "meshdp")
NO_NOTE = "No reason is written yet (`bench/report/notes.py`)."
UNMEASURABLE = ("handshake_resumed",)
GOALS_SAY = (
    "Every figure that DESIGN section 7 and issue 5 name, from the run that this page shows. Ratios of CPU are to the"
    " floor of the same rounds, or to the peer that is named; what others have stands beside it where it is the same"
    " figure."
)
TABLES_SAY = (
    "A cell is a median over rounds, with the smallest and largest reading in brackets; `× floor` is the median of the"
    " ratios of single rounds, with their middle half. `bench/results/latest.json` has every row. Who is who:"
)
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
