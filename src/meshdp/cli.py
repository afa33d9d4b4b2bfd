"""The command line: words in, exit code out. Each verb lives in `meshdp.commands.<verb>`, imported when it is used.

In:     `sys.argv`.
Out:    0 fine, 1 findings or refused, 2 usage, 3 unreachable.
Limits: this module imports nothing that a sidecar would have to pay for.
"""

from __future__ import annotations

import sys

from meshdp import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence
    from typing import Protocol

    class Command(Protocol):
        """What a module in `meshdp.commands` offers; `sidecar` offers `run_plain` too."""

        def configure(self, parser: ArgumentParser) -> None: ...
        def run(self, args: Namespace) -> int: ...


FINE, REFUSED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130

VERBS = {
    "up": "start a mesh on this machine from one file",
    "ps": "list what a mesh on this machine runs",
    "exec": "run a command inside a workload's network",
    "logs": "print what a workload or its sidecar wrote",
    "proxy-status": "say which configuration each sidecar runs, since when, and what it refused",
    "proxy-config": "show what one sidecar has in force: listeners, routes, policies, …",
    "certs": "show the certificates of a mesh, and renew them or their root",
    "down": "stop a mesh and remove all it made",
    "check": "find every mistake in Kubernetes and Istio YAML",
    "authz": "say what policies decide about a request, and why",
    "demo": "walk through interception, mutual TLS and authorization on real packets",
    "sidecar": "carry one workload's traffic (what `up` starts for you)",
}

EXAMPLES = """\
examples:
  meshdp demo                              see it work
  meshdp check policies/                   all findings of a directory
  meshdp up -f mesh.yaml                   start the mesh that a file describes
  meshdp exec curl -- curl -s details:9080/details/0

exit codes: 0 fine, 1 findings or refused, 2 usage, 3 unreachable
`meshdp VERB --help` explains a verb."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the console script and `python -m meshdp` end here."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(*words) if words and words[0] in VERBS else _without_verb(words)
        sys.stdout.flush()  # here, where a reader who has gone can be told from a failure
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return FINE
    except Exception as refused:  # noqa: BLE001  # looked at, and raised again unless it says what it is
        return _report(words[0], refused)


def _run(verb: str, *words: str) -> int:
    command = _load(verb)
    if verb == "sidecar":
        code: int | None = command.run_plain(words)  # type: ignore[attr-defined]
        if code is not None:
            return code
    from meshdp.arguments import parser_of

    return command.run(parser_of(verb, command.configure).parse_args(words))


def _without_verb(words: list[str]) -> int:
    """Handle `--help`, `--version`, nothing at all, and a word that is no verb."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return FINE if words else USAGE
    if words[0] in ("-V", "--version", "version"):
        print(f"meshdp {__version__}")
        return FINE
    from difflib import get_close_matches

    near = get_close_matches(words[0], VERBS, n=1)
    hint = f" Did you mean `{near[0]}`?" if near else ""
    print(f"meshdp: there is no verb `{words[0]}`.{hint} `meshdp --help` lists them.", file=sys.stderr)
    return USAGE


def _overview() -> str:
    verbs = "\n".join(f"  {verb:<12} {what}" for verb, what in VERBS.items())
    return f"usage: meshdp VERB …\n\nA service mesh that takes Istio's YAML.\n\nverbs:\n{verbs}\n\n{EXAMPLES}"


def _load(verb: str) -> Command:
    """Import the module of a verb, by name: the others stay unread."""
    from importlib import import_module

    command: Command = import_module(f"meshdp.commands.{verb.replace('-', '_')}")
    return command


def _report(verb: str, refused: Exception) -> int:
    """Say what a command could not do; an exception that names no exit code is a bug and keeps its traceback."""
    exit_code: int | None = getattr(refused, "exit_code", None)  # `errors.MeshdpError`, not imported for its sake
    if exit_code is None:
        raise refused
    hint: str | None = getattr(refused, "hint", None)
    from meshdp.errors import printable

    said = f"meshdp {verb}: {refused}" + (f"\n  hint: {hint}" if hint else "")
    print("\n".join(map(printable, said.split("\n"))), file=sys.stderr)
    return exit_code


def _silence_stdout() -> None:
    """Let the interpreter's last flush go nowhere: whoever read us (`| head`) has gone."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
