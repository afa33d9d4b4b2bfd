"""Prints answers the way every command of a local mesh does: a table for people, JSON or YAML for programs.

In:      rows of plain values and the common options `-o` and `--no-color`.
Out:     text on standard output; progress on standard error when a program reads the answer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import TextIO

import yaml

from meshdp.errors import printable
from meshdp.local.state import InstanceState

Row = dict[str, object]
FORMS = ("table", "json", "yaml")


class Palette:
    """Colours, or none where nobody would see them."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled

    @classmethod
    def of(cls, args: Namespace, stream: TextIO) -> Palette:
        """Colours for a terminal, unless an option or NO_COLOR says no."""
        return cls(enabled=stream.isatty() and not args.no_color and "NO_COLOR" not in os.environ)

    def good(self, text: str) -> str:
        return self._painted(text, "32")

    def bad(self, text: str) -> str:
        return self._painted(text, "31")

    def faint(self, text: str) -> str:
        return self._painted(text, "2")

    def strong(self, text: str) -> str:
        return self._painted(text, "1")

    def _painted(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._enabled else text


class Voice:
    """Says what happens: on standard output, unless that is kept for an answer that a program reads."""

    def __init__(self, args: Namespace) -> None:
        self._stream = sys.stdout if args.output == "table" else sys.stderr
        self.palette = Palette.of(args, self._stream)

    def say(self, line: str) -> None:
        """One line, at once."""
        print(line, file=self._stream, flush=True)


def show(rows: Sequence[Row], form: str) -> None:
    """Prints rows in the form asked for; all rows have the same keys."""
    if form == "table":
        print(table(rows))
    else:
        dump(list(rows), form)


def dump(answer: object, form: str) -> None:
    """Prints an answer for a program."""
    if form == "json":
        print(json.dumps(answer, indent=2))
    else:
        print(yaml.safe_dump(answer, sort_keys=False, allow_unicode=True), end="")


def instance_row(state: InstanceState) -> Row:
    """What `ps` and `up` show of an instance."""
    return {
        "workload": f"{state.namespace}/{state.name}",
        "address": state.address,
        "pid": state.pid or None,
        "sidecar": state.sidecar_pid if state.sidecar else None,
        "digest": state.digest[:12],
        "ready": state.ready,
        "state": state.phase,
        "restarts": state.restarts,
        "exit_code": state.exit_code,
    }


def table(rows: Sequence[Row]) -> str:
    """Aligned columns under upper-case headings; lists are joined, what is missing is a dash."""
    if not rows:
        return ""
    cells = [[name.upper().replace("_", " ") for name in rows[0]]]
    cells += [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in cells]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return printable(", ".join(f"{name}={text}" for name, text in value.items())) or "-"
    if isinstance(value, list | tuple):
        return printable(", ".join(map(str, value))) or "-"
    return printable(str(value))


def moment(unix: int | float | None, divisor: int = 1) -> str | None:
    """A time as programs read it (RFC 3339, UTC); None stays None."""
    return None if unix is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix / divisor))


def duration(seconds: float) -> str:
    """A span in its two largest units: 4s, 3m12s, 5h03m, 2d07h; what is over is marked so."""
    whole = int(abs(seconds))
    if seconds <= -1:
        return f"{duration(whole)} ago"
    for unit, next_unit, size, next_size in (("d", "h", 86400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // next_size:02}{next_unit}"
    return f"{whole}s"
