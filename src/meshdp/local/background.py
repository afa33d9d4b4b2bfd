"""Moves a command to the background once it has something to report; the person in front sees everything until then.

In:      a function that calls `report(code, log)` when its start has come to an end, well or badly.
Out:     that code, to the caller in front; what is printed later goes to the log.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from meshdp.errors import MeshdpError

Report = Callable[[int, Path], None]


def detach(live: Callable[[Report], int]) -> int:
    """Runs `live` in a process of its own session; returns what it reports, or its exit code if it ends before that."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()
        _finish(live, writer)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as answer:
            said = answer.read(1)
    except KeyboardInterrupt:  # the terminal's Ctrl-C does not reach another session
        os.kill(child, signal.SIGINT)
        os.waitpid(child, 0)
        raise
    if said:
        return said[0]
    _, status = os.waitpid(child, 0)
    return abs(os.waitstatus_to_exitcode(status)) or 1


def _finish(live: Callable[[Report], int], writer: int) -> None:
    """The background process's life. Never returns: it must not run its caller's endings a second time."""

    def report(code: int, log: Path) -> None:
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for standard in (1, 2):
            os.dup2(output, standard)
        os.write(writer, bytes([code]))
        os.close(writer)

    code = 1
    try:
        code = live(report)
    except MeshdpError as error:
        print(f"meshdp up: {error}" + (f"\n  hint: {error.hint}" if error.hint else ""), file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    finally:
        bug = sys.exc_info()[1]
        if bug is not None:
            sys.excepthook(type(bug), bug, bug.__traceback__)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
