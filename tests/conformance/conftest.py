"""Ends a run with a table: topic, passed, failed, unsupported.

The topic of a case is the first part of its parametrised id (`authz-verdicts/0005`). A skip whose reason starts with
"unsupported:" counts as unsupported; any other skip is shown under its own column, so that nothing hides.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

_TOPIC = re.compile(r"^tests/conformance/[^\[]*\[([a-z0-9._-]+)/")
_COLUMNS = ("passed", "failed", "unsupported", "skipped")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            topic = _TOPIC.search(getattr(report, "nodeid", ""))
            if topic is None or (outcome == "passed" and report.when != "call"):
                continue
            column = "failed" if outcome == "error" else outcome
            if column == "skipped" and "unsupported:" in str(report.longrepr):
                column = "unsupported"
            counts.setdefault(topic[1], Counter())[column] += 1
    if not counts:
        return
    terminalreporter.section("conformance")
    width = max(len(name) for name in counts)
    terminalreporter.write_line("  ".join([" " * width, *(column.rjust(11) for column in _COLUMNS)]))
    for name, counted in sorted(counts.items()):
        cells = (str(counted[column]).rjust(11) for column in _COLUMNS)
        terminalreporter.write_line("  ".join([name.ljust(width), *cells]))
