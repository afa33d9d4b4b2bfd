"""`meshdp proxy-status`: which configuration each sidecar runs, since when, and what is wrong with it."""

from __future__ import annotations

import asyncio
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from meshdp.errors import Refused, Unreachable, printable
from meshdp.local.inspection import sidecars, status
from meshdp.local.report import Palette, dump, table
from meshdp.local.state import MeshState

EXAMPLES = """\
examples:
  meshdp proxy-status                              every sidecar of the mesh
  meshdp proxy-status reviews-v1 -o json           one, for a program
  meshdp proxy-status --admin 127.0.0.1:15000      a sidecar that runs by itself

STATE is SYNCED (has what the mesh wants), STALE (has not yet, or has lost its feed), REFUSED (said no to it: the reason
stands below), WAITING (has none), UNREACHABLE, or SERVING (runs by itself). CERT is what is left of its certificate.

exit codes: 0 all in order, 1 a sidecar is not or a document has errors, 2 usage, 3 no mesh or no sidecar answers"""


def configure(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.description = "Say of each sidecar which version is in force, since when, and what is wrong with it."
    parser.epilog = EXAMPLES
    sidecars.add_options(parser)


def run(args: Namespace) -> int:
    """Prints one row a sidecar, then what is wrong."""
    mesh, meant = sidecars.chosen(args)
    statuses = asyncio.run(status.look_at(meant))
    findings = list(mesh.findings) if mesh else []
    if args.output == "table":
        _show(statuses, findings, Palette.of(args, sys.stdout))
    else:
        dump(_answer(mesh, statuses, findings), args.output)
    if statuses and all(each.state == "UNREACHABLE" for each in statuses):
        return Unreachable.exit_code
    has_errors = any(_ERROR.search(finding) for finding in findings)
    return Refused.exit_code if has_errors or not all(each.is_fine for each in statuses) else 0


def _answer(mesh: MeshState | None, statuses: Sequence[status.Status], findings: list[str]) -> dict[str, object]:
    return {
        "mesh": mesh.mesh if mesh else None,
        "sidecars": [each.row() for each in statuses],
        "findings": findings,
    }


def _show(statuses: Sequence[status.Status], findings: list[str], palette: Palette) -> None:
    print(table([each.table_row() for each in statuses]) or "no workload of this mesh has a sidecar")
    for each in statuses:
        for complaint in each.complaints:
            print(palette.bad(printable(f"{each.sidecar.name}: {complaint}")))
    for finding in findings:
        print(printable(finding))
    if findings:
        print(palette.faint("`meshdp check PATH` says how to cure them; what could be read before stays in force"))


_ERROR = re.compile(r":\d+: error MDP\d{4}")
