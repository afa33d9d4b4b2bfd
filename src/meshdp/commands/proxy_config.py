"""`meshdp proxy-config`: what a sidecar's engine has in force, as tables."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from typing import Any

from meshdp.errors import Unreachable, UsageError
from meshdp.local.inspection import sidecars
from meshdp.local.inspection.configuration import KINDS, Filters
from meshdp.local.inspection.sidecars import Sidecar
from meshdp.local.report import Palette, Row, dump, moment, table

EXAMPLES = """\
examples:
  meshdp proxy-config listeners reviews-v1                     what it accepts, and with which TLS
  meshdp proxy-config policies reviews-v1                      who may do what, and the file and line that says so
  meshdp proxy-config endpoints productpage-v1 --fqdn details.default.svc.cluster.local
  meshdp proxy-config clusters productpage-v1 --port 9080 -o json
  meshdp proxy-config certs --admin 127.0.0.1:15000            a sidecar that runs by itself
  meshdp proxy-config all reviews-v1 -o yaml

exit codes: 0 shown, 2 usage, 3 no mesh is up or the sidecar does not answer"""

ALL, CERTS = "all", "certs"


def configure(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.description = "Show what the engine of one sidecar has in force: it is asked, nothing is compiled."
    parser.epilog = EXAMPLES
    shown = ", ".join([*KINDS, CERTS, ALL])
    parser.add_argument("kind", type=_kind, metavar="KIND", help=f"one of: {shown}")
    sidecars.add_options(parser)
    parser.add_argument("--port", type=int, metavar="N", help="only this port")
    parser.add_argument("--fqdn", metavar="HOST", help="only this service, by its full name")
    parser.add_argument("--direction", choices=("inbound", "outbound"), help="only this direction")
    parser.add_argument("--name", metavar="NAME", help="only the policy, route, cluster or workload of this name")


def run(args: Namespace) -> int:
    """Prints the tables, or the same rows for a program."""
    sidecar = _one(args)
    wanted = [*KINDS, CERTS] if args.kind == ALL else [args.kind]
    filters = Filters(args.port, args.fqdn, args.direction, args.name)
    try:
        head, shown = asyncio.run(_collect(sidecar, wanted, filters))
    except sidecars.MALFORMED as error:
        problem = f"what answers for {sidecar.name} is not a sidecar's configuration"
        raise Unreachable(problem, "is its sidecar there? meshdp ps") from error
    if args.output != "table":
        dump({**head, **shown} if args.kind == ALL else shown[args.kind], args.output)
        return 0
    palette = Palette.of(args, sys.stdout)
    if args.kind == ALL:
        print(f"{palette.strong(sidecar.name)} version {head['version'][:12] or 'none'}")
    for kind in wanted:
        if args.kind == ALL:
            print(f"\n{palette.strong(kind)}")
        print(_table(kind, shown[kind]))
    return 0


async def _collect(sidecar: Sidecar, kinds: list[str], filters: Filters) -> tuple[dict[str, Any], dict[str, Any]]:
    """Asks once for everything that the kinds need, so that all rows are of one version."""
    prefixes = ",".join(KINDS[kind][0] for kind in kinds if kind in KINDS)
    config = await sidecar.page(f"/config?sections={prefixes}")
    shown: dict[str, Any] = {}
    for kind in kinds:
        if kind == CERTS:
            shown[kind] = await sidecar.page("/certs")
        else:
            shown[kind] = [row for row in KINDS[kind][2](config["sections"]) if filters.keep(row)]
    since = moment(config.get("since_unix_ms"), 1000)
    return {"workload": sidecar.name, "version": str(config["digest"]), "since": since}, shown


def _table(kind: str, shown: Any) -> str:
    if kind == CERTS:
        return table([{"name": name, "value": value} for name, value in _flat("", shown)])
    hidden = KINDS[kind][1]
    rows: list[Row] = [{key: value for key, value in row.items() if key not in hidden} for row in shown]
    return table(rows) or f"no {kind}"


def _flat(name: str, value: object) -> list[tuple[str, object]]:
    """Every leaf of a page with its dotted name; Unix times are shown as times."""
    if isinstance(value, Mapping):
        return [leaf for key, each in value.items() for leaf in _flat(f"{name}.{key}" if name else key, each)]
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return [leaf for number, each in enumerate(value) for leaf in _flat(f"{name}[{number}]", each)]
    if name.endswith("_unix") and isinstance(value, int):
        return [(name.removesuffix("_unix"), moment(value))]
    return [(name, value)]


def _one(args: Namespace) -> Sidecar:
    _, meant = sidecars.chosen(args)
    if len(meant) == 1:
        return meant[0]
    known = ", ".join(each.name for each in meant) or "none has a sidecar"
    raise UsageError("expected a WORKLOAD", f"choose one of: {known}")


def _kind(word: str) -> str:
    """A kind, in the singular too."""
    known = [*KINDS, CERTS, ALL]
    found = {**{kind: kind for kind in known}, **{_singular(kind): kind for kind in known}}.get(word)
    if found is None:
        raise ArgumentTypeError(f"expected one of {', '.join(known)}, found {word!r}")
    return found


def _singular(kind: str) -> str:
    return kind.replace("policies", "policy").removesuffix("s")
