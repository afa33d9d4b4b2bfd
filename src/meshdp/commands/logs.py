"""`meshdp logs`: what a workload's command, or its sidecar, has written."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from meshdp.local import logs
from meshdp.local.state import Folder, instance_named, running

EXAMPLES = """\
examples:
  meshdp logs details-v1                 the application
  meshdp logs details-v1 --sidecar       its sidecar, access log included"""


def configure(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.description = "Print what a workload wrote to standard output and standard error."
    parser.epilog = EXAMPLES
    parser.add_argument("--mesh", metavar="NAME", help="which mesh, when several are up")
    parser.add_argument("workload", metavar="WORKLOAD", help="NAME or NAMESPACE/NAME, as `meshdp ps` shows it")
    parser.add_argument("--sidecar", action="store_true", help="its sidecar's log: access log and events")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C or the mesh's end")


def run(args: Namespace) -> int:
    """Copies the log to standard output."""
    folder, mesh = running(args.mesh)
    instance = instance_named(mesh, args.workload)
    command_log, sidecar_log = folder.logs_of(instance.namespace, instance.name)
    path = sidecar_log if args.sidecar else command_log
    _copy(path, folder if args.follow else None)
    return 0


def _copy(path: Path, followed: Folder | None) -> None:
    """Writes what is there; with a folder also what comes, as long as its mesh is up."""
    if not path.exists():
        return
    with path.open("rb") as log:
        log.seek(logs.start(log.fileno()))
        while True:
            while piece := log.read(1 << 16):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            if followed is None or not followed.held:
                return
            time.sleep(_FOLLOW_S)


_FOLLOW_S = 0.1
