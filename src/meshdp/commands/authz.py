"""`meshdp authz`: what policies say to requests, why, and what in them cannot have been meant. Needs no mesh."""

from __future__ import annotations

import argparse
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from meshdp.errors import UsageError, printable
from meshdp.local.report import FORMS, Palette, dump, table
from meshdp.verdicts import asked, checks
from meshdp.verdicts.explanation import explained
from meshdp.verdicts.log_line import logged
from meshdp.verdicts.places import Places
from meshdp.verdicts.policies import PolicySet
from meshdp.verdicts.request import LINE_LIMIT_BYTES, PROTOCOLS, Malformed, Request, convert, read
from meshdp.verdicts.telling import told

EXAMPLES = """\
examples:
  meshdp authz explain --policies policies/ --to default/details --from default/productpage --path /details/0
  meshdp authz explain --policies policies/ --log-line "$(tail -n 1 access.log)"
  meshdp authz eval --policies policies/ --requests requests.jsonl -o jsonl
  meshdp authz check policies/

exit codes: 0 fine, 1 findings, or lines that are no requests, 2 usage
`meshdp authz ACTION --help` explains an action."""

EVAL_EXAMPLES = """\
examples:
  meshdp authz eval --policies policies/ --requests requests.jsonl            a table
  meshdp authz eval --policies policies/ --requests - -o jsonl < requests.jsonl

a line: {"id": 1, "source": {"principal": "cluster.local/ns/default/sa/web"},
         "destination": {"namespace": "default", "labels": {"app": "details"}, "port": 9080},
         "request": {"method": "GET", "path": "/details/0"}}

exit codes: 0 every line is judged, 1 a line is no request or a policy has an error, 2 usage"""

EXPLAIN_EXAMPLES = """\
examples:
  meshdp authz explain --policies policies/ --to default/details:9080 --from default/productpage --path /details/0
  meshdp authz explain --policies policies/ --to details --from plaintext --header "x-user: jason" --ip 10.1.2.3
  meshdp authz explain --policies policies/ --to default/db:5432 --protocol tcp --from default/app -o json

exit codes: 0 explained (whatever the verdict), 1 a policy has an error, 2 usage"""

CHECK_EXAMPLES = """\
examples:
  meshdp authz check policies/
  meshdp authz check policies/ -o json
  meshdp authz check policies/ --ignore MDP0352 --ignore MDP0356    these are meant

exit codes: 0 nothing found, 1 findings, 2 usage"""

LINES_AT_ONCE = 4096
COLUMNS = ("id", "allowed", "action", "policy", "rule", "status", "detail")


def configure(parser: ArgumentParser) -> None:
    """Declares the actions and their options."""
    parser.description = "Say what policies decide, why, and what in them cannot have been meant. Needs no mesh."
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="verb", required=True, metavar="ACTION")
    _configure_eval(_action(actions, "eval", "judge requests of a file", EVAL_EXAMPLES, (*FORMS, "jsonl")))
    _configure_explain(_action(actions, "explain", "judge one request and say why", EXPLAIN_EXAMPLES, FORMS))
    checked = _action(actions, "check", "find what cannot have been meant", CHECK_EXAMPLES, FORMS)
    checked.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="a file, or a folder with all below it")
    checked.add_argument("--policies", action="append", type=Path, metavar="PATH", help="the same")
    checked.add_argument("--ignore", action="append", default=[], metavar="CODE", help="a finding that is meant")


def _action(
    actions: argparse._SubParsersAction[ArgumentParser], name: str, what: str, examples: str, forms: Sequence[str]
) -> ArgumentParser:
    """One action, with the options that every verb has."""
    form = argparse.RawDescriptionHelpFormatter
    parser = actions.add_parser(name, help=what, description=what, epilog=examples, formatter_class=form)
    parser.add_argument("-o", "--output", choices=forms, default=argparse.SUPPRESS, help="form of the answer")
    parser.add_argument("--no-color", action="store_true", default=argparse.SUPPRESS, help="plain text")
    return parser


def _configure_eval(parser: ArgumentParser) -> None:
    _add_policies(parser)
    parser.add_argument(
        "--requests", required=True, metavar="FILE", help="one JSON object a line; - for standard input"
    )


def _configure_explain(parser: ArgumentParser) -> None:
    _add_policies(parser)
    add = parser.add_argument
    add("--to", metavar="[NS/]WORKLOAD[:PORT]", help="who is asked; PORT is the workload's own")
    add("--from", dest="caller", metavar="NS/ACCOUNT", help="who asks: an account, a whole identity, or plaintext")
    add("--method", metavar="METHOD", help="GET when anything of HTTP is said")
    add("--path", metavar="PATH", help="with its query; / when anything of HTTP is said")
    add("--host", metavar="HOST", help="the Host header (the workload's name)")
    add("--header", action="append", default=[], metavar="'NAME: VALUE'", help="may be repeated")
    add("--claim", action="append", default=[], metavar="NAME=VALUE", help="of a verified token; may be repeated")
    add("--ip", metavar="IP", help="the TCP peer")
    add("--remote-ip", metavar="IP", help="the client behind trusted proxies")
    add("--sni", metavar="NAME", help="the server name of the TLS handshake")
    add("--protocol", choices=PROTOCOLS, metavar="WORD", help="what the port speaks, where no service says it")
    add("--label", action="append", default=[], metavar="NAME=VALUE", help="of a workload that no file describes")
    add("--log-line", metavar="LINE", help="a line of the callee's access log, in place of all this")


def _add_policies(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--policies",
        required=True,
        action="append",
        type=Path,
        metavar="PATH",
        help="a file, or a folder with all below",
    )


def run(args: Namespace) -> int:
    """Does what the action says."""
    paths = [*(args.policies or []), *getattr(args, "paths", [])]
    missing = [path for path in paths if not path.exists()]
    if missing or not paths:
        raise UsageError(f"no such file or directory: {', '.join(map(str, missing))}" if missing else "name a folder")
    policies = PolicySet.read(paths)
    try:
        return {"eval": _eval, "explain": _explain, "check": _check}[args.verb](args, policies)
    except Malformed as error:
        raise UsageError(str(error)) from error


def _report_errors(policies: PolicySet) -> int:
    """Says what is wrong with the documents; the exit code that follows."""
    for finding in policies.loaded.errors:
        print(finding, file=sys.stderr)
    return int(bool(policies.loaded.errors))


# --- check ------------------------------------------------------------------------------------------------------------


def _check(args: Namespace, policies: PolicySet) -> int:
    findings = [each for each in checks.findings(policies) if each.code not in args.ignore]
    if args.output != "table":
        dump({"findings": [each.as_dict() for each in findings]}, args.output)
        return int(bool(findings))
    palette = Palette.of(args, sys.stdout)
    for each in findings:
        print(f"{each}\n  hint: {palette.faint(each.hint)}")
    print(f"{len(findings)} finding{'' if len(findings) == 1 else 's'}")
    return int(bool(findings))


# --- eval -------------------------------------------------------------------------------------------------------------


def _eval(args: Namespace, policies: PolicySet) -> int:
    code = _report_errors(policies)
    if args.requests == "-":
        return _judge(args, policies, sys.stdin.buffer, "<stdin>") or code
    try:
        with open(args.requests, "rb") as file:
            return _judge(args, policies, file, args.requests) or code
    except OSError as error:
        raise UsageError(f"--requests {args.requests}: {error.strerror}") from error


def _judge(args: Namespace, policies: PolicySet, file: BinaryIO, name: str) -> int:
    """Judges line by line, in pieces, so that a file may be of any size."""
    lines = _Lines(file, name)
    rows: list[dict[str, Any]] = []
    while requests := list(islice(lines, LINES_AT_ONCE)):
        for verdict in policies.verdicts(requests):
            if args.output == "jsonl":
                print(json.dumps(verdict.as_dict()))
            else:
                rows.append(verdict.as_dict())
    if args.output == "table":
        print(table([{name: row[name] for name in COLUMNS} for row in rows]) or "no requests")
    elif args.output != "jsonl":
        dump(rows, args.output)
    return int(lines.refused > 0)


class _Lines:
    """The requests of a file; lines that are none are reported and counted."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._requests = self._read(file, name)
        self.refused = 0

    def __iter__(self) -> Iterator[Request]:
        return self._requests

    def _read(self, file: BinaryIO, name: str) -> Iterator[Request]:
        for number, line in enumerate(_bounded(file), 1):
            if not line.strip():
                continue
            try:
                request = read(line)
            except Malformed as error:
                self.refused += 1
                print(printable(f"{name}:{number}: {error}"), file=sys.stderr)
                continue
            if request.request.claims is not None:
                said = "request.claims: claims are not seen yet; send a token that the policies verify"
                print(f"{name}:{number}: {said}", file=sys.stderr)
            yield request if request.id is not None else _numbered(request, number)


def _bounded(file: BinaryIO) -> Iterator[bytes]:
    """Lines; of one that is too long its beginning, which `read` refuses."""
    while line := file.readline(LINE_LIMIT_BYTES + 1):
        yield line
        while len(line) > LINE_LIMIT_BYTES and not line.endswith(b"\n"):
            line = file.readline(LINE_LIMIT_BYTES + 1)


def _numbered(request: Request, number: int) -> Request:
    return Request(destination=request.destination, source=request.source, request=request.request, id=number)


# --- explain ----------------------------------------------------------------------------------------------------------


def _explain(args: Namespace, policies: PolicySet) -> int:
    request = _of_log(args, policies) if args.log_line else _of_options(args, policies)
    if request.request.claims:
        print("--claim: claims are not seen yet; send a token that the policies verify", file=sys.stderr)
    explanation = explained(policies, request, Places())
    if args.output != "table":
        dump(explanation.as_dict(), args.output)
    else:
        palette = Palette.of(args, sys.stdout)
        print("\n".join(told(request, explanation, palette.good, palette.bad)))
    return _report_errors(policies)


def _of_options(args: Namespace, policies: PolicySet) -> Request:
    if not args.to or not args.caller:
        raise UsageError(
            "say who is asked and who asks: --to [NS/]WORKLOAD[:PORT] --from NS/ACCOUNT, or give --log-line"
        )
    labels = dict(asked.pairs("--label", args.label, "="))
    http: dict[str, Any] = {"method": args.method, "path": args.path, "host": args.host, "sni": args.sni}
    http["headers"] = asked.pairs("--header", args.header, ":=")
    http["claims"] = dict(asked.pairs("--claim", args.claim, "="))
    source = {"ip": args.ip, "remoteIp": args.remote_ip}
    return asked.request(
        asked.target(policies, args.to, labels),
        asked.principal(policies, args.caller),
        _given(http),
        _given(source),
        args.protocol,
    )


def _of_log(args: Namespace, policies: PolicySet) -> Request:
    line = logged(args.log_line)
    if args.to:
        to = asked.target(policies, args.to, dict(asked.pairs("--label", args.label, "=")))
        destination = {**to.as_destination(args.protocol), "port": line.port, "ip": line.destination_ip}
    else:
        known = [each for each in policies.workloads if line.destination_ip in each.addresses]
        if not known:
            raise UsageError(f"no file describes a workload at {line.destination_ip}", "say which it is with --to")
        destination = {"namespace": known[0].namespace, "labels": dict(known[0].labels), "ip": line.destination_ip}
        destination |= {"port": line.port} | _given({"protocol": args.protocol})
    http = line.http | _given({"sni": line.sni})
    source = {"principal": line.principal, "ip": line.source_ip}
    return convert({"source": source, "destination": destination, "request": http})


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Without the options that nobody gave."""
    return {name: value for name, value in options.items() if value not in (None, [], {}, "")}
