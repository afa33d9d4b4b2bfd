"""`meshdp ps`: what a mesh on this machine runs."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from meshdp.local.report import Palette, instance_row, show
from meshdp.local.state import running

EXAMPLES = """\
examples:
  meshdp ps
  meshdp ps -o json"""


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
                print(palette.bad(f"{each.namespace}/{each.name}: {message}"), file=sys.stderr)
    for finding in state.findings:
        print(finding, file=sys.stderr)
    return 0 if state.ready else 1
