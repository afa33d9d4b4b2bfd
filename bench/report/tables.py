"""The rows of a group as a table that fits a terminal: one line for each place and subject, a column for each metric.

In:     rows of one group.
Out:    lines of Markdown, columns aligned, what all rows share said once above.
Limits: quantiles and sizes that explain nothing beside the others stay in the JSON (HIDDEN). Groups of unlike metrics
        (LISTED) have a line for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.rounds import Row

STEADY = ("cpu_per_request", "cpu_per_connection", "gb_per_cpu_second")
LISTED = ("micro", "kernels")
HIDDEN = ("p90", "pss_when_ready", "rss_when_ready", "pss_after_requests")
# Parameters that belong to one metric alone and are told in its heading.
OF_METRICS = {"memory": ("requests", "connections")}
HEADS = {
    "cpu_per_request": "CPU µs/request",
    "cpu_per_connection": "CPU µs/connection",
    "requests_per_second": "1/s",
    "gb_per_cpu_second": "GB/CPU-second",
    "gb_per_second": "GB/s",
    "p50": "p50 µs",
    "p99": "p99 µs",
    "instructions_per_request": "instructions/request",
    "cpu_per_request_over_meshdp": "CPU × small mesh (95 %)",
    "instructions_per_request_over_meshdp": "instructions × small mesh",
    "alone_when_ready": "ready MB",
    "alone_after_requests": "10,000 requests MB",
    "rss_after_requests": "resident MB",
    "bytes_per_idle_connection": "idle connection B",
    "exec_to_ready": "exec to ready ms",
    "exec_to_listening": "exec to listening ms",
    "exec_to_first_mtls_request": "exec to first mTLS request ms",
}


def of_group(group: str, rows: Sequence[Row]) -> list[str]:
    """The whole table."""
    dropped = OF_METRICS.get(group, ())
    params = [{name: value for name, value in row.params.items() if name not in dropped} for row in rows]
    names = list(dict.fromkeys(name for each in params for name in each))
    shared = [name for name in names if len({str(each.get(name, "")) for each in params}) == 1]
    varied = [name for name in names if name not in shared]
    rounds = sorted({row.rounds for row in rows if "_over_" not in row.metric})
    said = [f"{name.replace('_', ' ')} {params[0][name]}" for name in shared]
    said += [f"rounds that count: {' to '.join(map(str, dict.fromkeys((rounds[0], rounds[-1]))))}"] if rounds else []
    head, lines = _listed(rows, varied) if group in LISTED else _folded(rows, params, varied)
    return [", ".join(said) + ".", "", *aligned(head, lines)]


def _listed(rows: Sequence[Row], varied: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    head = [*varied, "subject", "metric", "median", "unit"]
    return head, [[*_values(row.params, varied), row.subject, row.metric, _spread(row), row.unit] for row in rows]


def _folded(
    rows: Sequence[Row], params: Sequence[dict[str, Any]], varied: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    metrics = sorted(
        dict.fromkeys(row.metric for row in rows if _shown(row.metric)), key=lambda each: each not in STEADY
    )
    compared = any(row.ratio_to_floor is not None for row in rows)
    head = [*varied, "subject"]
    for metric in metrics:
        head += [HEADS.get(metric, metric.replace("_", " ")), *(["× floor"] if metric in STEADY and compared else [])]
    places: dict[tuple[str, ...], dict[str, Row]] = {}
    for row, own in zip(rows, params, strict=True):
        places.setdefault((*_values(own, varied), row.subject), {})[row.metric] = row
    lines = [
        [*place, *(cell for metric in metrics for cell in _cells(found, metric, compared=compared))]
        for place, found in places.items()
    ]
    return head, lines


def _shown(metric: str) -> bool:
    return metric not in HIDDEN and not metric.endswith(("_low", "_high"))


def _cells(found: dict[str, Row], metric: str, *, compared: bool) -> Iterator[str]:
    row = found.get(metric)
    low, high = (found.get(f"{metric}_{bound}") for bound in ("low", "high"))
    if row is None:
        yield ""
    elif low and high:
        yield f"{number(row.median)} ({number(low.median)}–{number(high.median)})"
    else:
        yield number(row.median) if metric in ("p50", "p99", "requests_per_second") else _spread(row)
    if metric in STEADY and compared:
        yield _ratio(row) if row else ""


def _ratio(row: Row) -> str:
    if row.ratio_to_floor is None:
        return ""
    middle = "" if row.ratio_low is None else f" ({row.ratio_low:.2f}–{row.ratio_high:.2f})"
    return f"{row.ratio_to_floor:.2f}{middle}"


def _spread(row: Row) -> str:
    if row.rounds == 1 or row.max is None:
        return number(row.median)
    return f"{number(row.median)} ({number(row.min)}–{number(row.max)})"


def _values(params: dict[str, Any], names: Sequence[str]) -> list[str]:
    return [str(params.get(name, "")) for name in names]


def number(value: float) -> str:
    """Three figures, or all before the point; no exponent."""
    digits = max(0, 3 - len(str(int(abs(value))))) if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def aligned(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A table whose columns stand below each other in a terminal, too."""
    wide = [max(3, *(len(line[place]) for line in (head, *lines))) for place in range(len(head))]
    rule = ["-" * width for width in wide]
    padded = ([cell.ljust(width) for cell, width in zip(line, wide, strict=True)] for line in (head, rule, *lines))
    return ["| " + " | ".join(cells) + " |" for cells in padded]
