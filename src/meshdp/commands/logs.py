"""`meshdp logs`: what a workload's command, or its sidecar, has written."""

from __future__ import annotations

import json
import os
import select
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from meshdp.errors import UsageError
from meshdp.local import logs
from meshdp.local.state import Folder, instance_named, running

EXAMPLES = """\
examples:
  meshdp logs details-v1                        the application
  meshdp logs details-v1 --sidecar --tail 20    its sidecar, access log included
  meshdp logs details-v1 --sidecar -f           as it comes
  meshdp logs details-v1 --sidecar -o json      one object a line; what is not JSON is {"line": …}

exit codes: 0 shown, 2 usage, 3 no mesh is up"""

Write = Callable[[bytes], object]


def configure(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.description = "Print what a workload wrote to standard output and standard error, as it wrote it."
    parser.epilog = EXAMPLES
    parser.add_argument("--mesh", metavar="NAME", help="which mesh, when several are up")
    parser.add_argument("workload", metavar="WORKLOAD", help="NAME or NAMESPACE/NAME, as `meshdp ps` shows it")
    parser.add_argument("--sidecar", action="store_true", help="its sidecar's log: access log and events")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C or the mesh's end")
    parser.add_argument("--tail", type=_count, metavar="N", help="begin with the last N lines")


def run(args: Namespace) -> int:
    """Copies the log to standard output."""
    folder, mesh = running(args.mesh)
    instance = instance_named(mesh, args.workload)
    if args.sidecar and not instance.sidecar:
        problem = f"{instance.namespace}/{instance.name} is outside the mesh: it has no sidecar"
        raise UsageError(problem, f"what it wrote itself: meshdp logs {instance.name}")
    command_log, sidecar_log = folder.logs_of(instance.namespace, instance.name)
    path = sidecar_log if args.sidecar else command_log
    out = sys.stdout.buffer
    write = out.write if args.output == "table" else Lines(out, args.output).write
    _copy(path, args.tail, write, folder if args.follow else None)
    return 0


def _copy(path: Path, tail: int | None, write: Write, followed: Folder | None) -> None:
    """Writes what is there; with a folder also what comes, as long as its mesh is up and somebody reads."""
    if not path.exists():
        return
    with logs.opened(path) as log:
        begin = logs.start(log.fileno())
        log.seek(begin if tail is None else max(begin, _start_of_last(log, tail)))
        while True:
            while piece := log.read(_PIECE_BYTES):
                write(piece)
            sys.stdout.buffer.flush()
            if followed is None or not followed.held or _reader_is_gone(_FOLLOW_S):
                return


def _reader_is_gone(wait_s: float) -> bool:
    """Whether who read us (`| head`) ends within this time: a log that stays silent would never tell."""
    output = select.poll()
    output.register(sys.stdout, 0)
    return bool(output.poll(wait_s * 1000))


def _start_of_last(log: BinaryIO, lines: int) -> int:
    """Where the last lines begin, found from the end, so that a long log costs no more than a short one."""
    position = log.seek(0, os.SEEK_END)
    left = lines + 1  # the newline before the first of them; the last byte of a whole log is one, too
    if position == 0 or lines == 0:
        return position
    if _byte_at(log, position - 1) != b"\n":
        left -= 1
    while position > 0:
        start = max(0, position - _PIECE_BYTES)
        log.seek(start)
        piece = log.read(position - start)
        end = len(piece)
        while (end := piece.rfind(b"\n", 0, end)) >= 0:
            left -= 1
            if left == 0:
                return start + end + 1
        position = start
    return 0


def _byte_at(log: BinaryIO, position: int) -> bytes:
    log.seek(position)
    return log.read(1)


class Lines:
    """Turns a log's bytes into one object a line; a line that has not ended yet is kept, up to `LINE_LIMIT_BYTES`."""

    def __init__(self, out: BinaryIO, form: str) -> None:
        self._out = out
        self._form = form
        self._rest = b""

    def write(self, piece: bytes) -> None:
        """Takes bytes as they come."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LINE_LIMIT_BYTES:
            whole, self._rest = [*whole, self._rest], b""
        for line in whole:
            self._out.write(self._shaped(_object(line)).encode())

    def _shaped(self, found: dict[str, object]) -> str:
        if self._form == "json":
            return json.dumps(found) + "\n"
        import yaml

        return str(yaml.safe_dump(found, explicit_start=True, sort_keys=False))


def _object(line: bytes) -> dict[str, object]:
    if line.startswith(b"{"):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
    return {"line": line.decode(errors="replace")}


def _count(word: str) -> int:
    if not word.isdecimal():
        raise ArgumentTypeError(f"expected a number of lines, found {word!r}")
    return int(word)


LINE_LIMIT_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16
_FOLLOW_S = 0.1
