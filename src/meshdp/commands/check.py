"""`meshdp check`: every mistake in Kubernetes and Istio YAML, with its place and its cure."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from meshdp.compiler import compile_all
from meshdp.errors import Finding
from meshdp.local import mesh_file
from meshdp.resources import Loaded
from meshdp.sources.files import listed, read_once

EXAMPLES = """\
examples:
  meshdp check policies/                 every *.yaml and *.yml below
  meshdp check mesh.yaml -o json         for a program to read
  meshdp check --strict policies/        warnings count too

exit codes: 0 fine, 1 errors found, 2 a path does not exist"""

COLORS = {"error": "\x1b[31m", "warning": "\x1b[33m"}
PLAIN = "\x1b[0m"


def configure(parser: ArgumentParser) -> None:
    """Declare paths and options."""
    parser.description = "Find every mistake in Kubernetes and Istio YAML. Needs no cluster and changes nothing."
    parser.epilog = EXAMPLES
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file, or a directory with all below it")
    parser.add_argument("--strict", action="store_true", help="exit 1 for warnings too")


def run(args: Namespace) -> int:
    """Read, decode and compile everything; show what is wrong."""
    missing = [path for path in args.paths if not path.exists()]
    if missing:
        print(f"meshdp check: no such file or directory: {', '.join(map(str, missing))}", file=sys.stderr)
        return 2
    loaded = read_once(args.paths)
    compiled = compile_all(loaded.resources)  # what compiles here is what a sidecar would be handed
    of_meshes = [each for path in listed(args.paths) for each in mesh_file.mistakes(path)]
    findings = sorted((*loaded.findings, *of_meshes), key=lambda finding: (finding.where, finding.code, finding.path))
    if args.output == "table":
        _show(findings, loaded, len(compiled), is_colored=sys.stdout.isatty() and not args.no_color)
    else:
        _dump(findings, loaded, len(compiled), args.output)
    counts = ("error", "warning") if args.strict else ("error",)
    return int(any(finding.severity in counts for finding in findings))


def _show(findings: Sequence[Finding], loaded: Loaded, compiled: int, *, is_colored: bool) -> None:
    for finding in findings:
        color, plain = (COLORS[finding.severity], PLAIN) if is_colored else ("", "")
        print(f"{str(finding).replace(finding.severity, color + finding.severity + plain, 1)}\n  hint: {finding.hint}")
    errors = sum(finding.severity == "error" for finding in findings)
    tally = [_count(len(loaded.resources), "resource"), _count(compiled, "workload")]
    tally += [_count(errors, "error"), _count(len(findings) - errors, "warning")]
    if loaded.passed_over:
        tally.append(f"{_count(loaded.passed_over, 'document')} of other kinds passed over")
    print(", ".join(tally))


def _dump(findings: Sequence[Finding], loaded: Loaded, compiled: int, form: str) -> None:
    """The same facts for programs; the keys are stable."""
    answer = {
        "findings": [finding.as_dict() for finding in findings],
        "resources": len(loaded.resources),
        "workloads": compiled,
        "passed_over": loaded.passed_over,
    }
    if form == "json":
        import json

        print(json.dumps(answer, indent=2))
    else:
        import yaml

        print(yaml.safe_dump(answer, sort_keys=False), end="")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
