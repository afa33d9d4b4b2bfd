"""`meshdp certs`: the certificates of a mesh on this machine, and how they turn over."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import signal
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from meshdp.errors import MeshdpError, Refused
from meshdp.local.control import Call, ask
from meshdp.local.report import FORMS, Row, Voice, show
from meshdp.local.state import running

EXAMPLES = """\
examples:
  meshdp certs show                        who has which certificate, until when, under which root
  meshdp certs rotate productpage-v1       one sidecar renews now
  meshdp certs rotate --root               a new root in three phases; only connections older than --settle are cut
  meshdp certs serve --socket /run/mesh/csr.sock --identity spiffe://cluster.local/ns/default/sa/web --authority ca/
"""
_FINGERPRINT_SHOWN = 12


def configure(parser: ArgumentParser) -> None:
    """Declares the actions and their options."""
    parser.description = "Show a mesh's certificates, renew them, rotate the root, or sign for a lone sidecar."
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    shown = _action(actions, "show", "list every sidecar's certificate")
    rotated = _action(actions, "rotate", "make sidecars renew now, or replace the root")
    for each in (shown, rotated):
        each.add_argument("--mesh", metavar="NAME", help="which mesh, when several are up")
        each.add_argument("workload", nargs="?", metavar="WORKLOAD", help="NAME or NAMESPACE/NAME; without it all")
    rotated.add_argument("--root", action="store_true", help="replace the root, then every certificate")
    rotated.add_argument(
        "--settle",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long its connections may last (10)",
    )
    rotated.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="how long to wait (60)")
    served = _action(actions, "serve", "sign the requests of one workload until a signal")
    served.add_argument("--socket", required=True, metavar="PATH", help="where its sidecar connects (--csr-socket)")
    served.add_argument("--identity", required=True, metavar="SPIFFE-ID", help="whom every certificate names")
    served.add_argument("--authority", required=True, metavar="DIR", help="keeps the root; made when it is not there")
    served.add_argument("--owner", type=int, metavar="UID", help="who may connect (the user of this command)")
    served.add_argument("--certificate-life", type=int, default=3600, metavar="SECONDS", help="of each (3600)")


def _action(actions: argparse._SubParsersAction[ArgumentParser], name: str, what: str) -> ArgumentParser:
    """One action, with the options that every verb has."""
    parser = actions.add_parser(name, help=what, description=what)
    parser.add_argument("-o", "--output", choices=FORMS, default=argparse.SUPPRESS, help="form of the answer")
    parser.add_argument("--no-color", action="store_true", default=argparse.SUPPRESS, help="plain text")
    return parser


def run(args: Namespace) -> int:
    """Does what the action says."""
    if args.action == "serve":
        return _serve(args)
    folder, _ = running(args.mesh)
    if args.action == "show":
        return _show(args, ask(folder.control, "certs", workload=args.workload))
    return _rotate_root(args, folder.control) if args.root else _rotate(args, folder.control)


def _show(args: Namespace, answer: Call) -> int:
    """The table; 1 when a sidecar has an alarm."""
    rows = [dict(row) for row in answer["workloads"]]
    if args.output == "table":
        show([_row(row) for row in rows], args.output)
        voice = Voice(args)
        bundle = ", ".join(root[:_FINGERPRINT_SHOWN] for root in answer["roots"])
        voice.say(f"root {answer['signer'][:_FINGERPRINT_SHOWN]} signs; the bundle holds {bundle}; {answer['phase']}")
        for line in answer["waits_for"]:
            voice.say(f"  waits for {line}")
    else:
        show(rows, args.output)
    return 1 if any(row["alarm"] or row["error"] for row in rows) else 0


def _row(facts: Call) -> Row:
    """What fits into a line."""
    return {
        "workload": facts["workload"],
        "identity": facts["identity"],
        "serial": facts["serial"][:_FINGERPRINT_SHOWN],
        "not_before": _moment(facts["not_before"]),
        "not_after": _moment(facts["not_after"]),
        "remaining_s": facts["remaining_s"],
        "renewals": facts["renewals"],
        "issuer": facts["issuer"][:_FINGERPRINT_SHOWN],
        "roots": " ".join(root[:_FINGERPRINT_SHOWN] for root in facts["roots"]),
        "alarm": facts["alarm"],
        "error": facts["error"],
    }


def _moment(unix_s: int) -> str:
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if unix_s else ""


def _rotate(args: Namespace, control: Path) -> int:
    """Asks, then waits until every sidecar asked has another certificate."""
    voice = Voice(args)
    before = _serials(ask(control, "certs", workload=args.workload))
    asked: list[str] = ask(control, "certs-rotate", workload=args.workload)["asked"]
    deadline = time.monotonic() + args.timeout
    while True:
        answer = ask(control, "certs", workload=args.workload)
        now = _serials(answer)
        left = [name for name in asked if now.get(name) in ("", before.get(name))]
        if not left:
            voice.say(f"{len(asked)} renewed")
            return _show(args, answer)
        if time.monotonic() > deadline:
            raise Refused(f"not renewed in {args.timeout:g} s: {', '.join(left)}", "see why: meshdp certs show")
        time.sleep(_POLL_S)


def _rotate_root(args: Namespace, control: Path) -> int:
    """Starts the rotation, or follows the one under way, and says each phase."""
    if args.workload:
        raise Refused("a root is everyone's", "leave the workload out")
    voice = Voice(args)
    answer = ask(control, "certs")
    if answer["phase"] == "steady":
        answer = ask(control, "certs-rotate-root", settle_s=args.settle)
    deadline, told = time.monotonic() + args.timeout, ""
    while True:
        if answer["phase"] != told:
            told = answer["phase"]
            voice.say(f"{told}: {PHASES[told]}")
        if told == "steady":
            return _show(args, answer)
        if time.monotonic() > deadline:
            waiting = "; ".join(answer["waits_for"])
            problem = f"phase {told} lasts longer than {args.timeout:g} s: {waiting}"
            raise Refused(problem, "it goes on: meshdp certs show")
        time.sleep(_POLL_S)
        answer = ask(control, "certs")


def _serials(answer: Call) -> dict[str, str]:
    return {row["workload"]: row["serial"] for row in answer["workloads"]}


def _serve(args: Namespace) -> int:
    """Signs until a signal."""
    from meshdp.control.authority import Authority, AuthorityDamaged
    from meshdp.control.signer import Signer

    life = datetime.timedelta(seconds=args.certificate_life)
    try:
        authority = Authority.open(Path(args.authority), "meshdp root", life)
    except (AuthorityDamaged, OSError) as error:
        raise MeshdpError(f"the authority cannot be used: {error}") from error

    async def serving() -> None:
        task = asyncio.ensure_future(Signer(authority, args.identity).serve(Path(args.socket), args.owner))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    try:
        asyncio.run(serving())
    except OSError as error:
        raise MeshdpError(f"cannot serve on {args.socket}: {error}", "choose a folder that you may write to") from error
    return 0


PHASES = {
    "trusting": "everyone learns to trust the new root",
    "signing": "the new root signs; every certificate is renewed",
    "settling": "connections that rest on the old root get their time to end",
    "distrusting": "the old root leaves every bundle",
    "steady": "one root, which signed every certificate",
}
_POLL_S = 0.05
