"""`meshdp ps`: what a mesh on this machine runs."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from meshdp.errors import printable
from meshdp.local.report import Palette, instance_row, show
from meshdp.local.state import running

EXAMPLES = """\
examples:
  meshdp ps
  meshdp ps -o json

`meshdp proxy-status` says more about the sidecars.
exit codes: 0 everything is ready, 1 something is not, 3 no mesh is up"""


def configure(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.description = "List the instances of a running mesh: processes, address, configuration in force, restarts."
    parser.epilog = EXAMPLES
    parser.add_argument("--mesh", metavar="NAME", help="which mesh, when several are up")


def run(args: Namespace) -> int:
    """Prints one row an instance; 1 when something is not as it should be."""
    _, state = running(args.mesh)
    show([instance_row(each) for each in state.instances], args.output)
    palette = Palette.of(args, sys.stderr)
    for each in state.instances:
        for message in (each.message, each.refusal):
            if message:
                for line in f"{each.namespace}/{each.name}: {message}".split("\n"):
                    print(palette.bad(printable(line)), file=sys.stderr)
    for finding in state.findings:
        print(printable(finding), file=sys.stderr)
    return 0 if state.ready else 1
