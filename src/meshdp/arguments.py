"""What all verbs' parsers share. Apart from `cli`, so that a sidecar need not import argparse.

Out:    `parser(verb)` for `meshdp.cli`.
Fails:  with exit code 2 and one line that names the way to the help.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from meshdp.cli import USAGE

if TYPE_CHECKING:
    from meshdp.cli import Command

FORMS = ("table", "json", "yaml")


def parser_of(verb: str, command: Command) -> ArgumentParser:
    """Make the parser of a verb: its own options, then the common ones unless it brought its own."""
    parser = _Parser(prog=f"meshdp {verb}", formatter_class=RawDescriptionHelpFormatter)
    command.configure(parser)
    _add(parser, "-o", "--output", choices=FORMS, default="table", help="form of the answer")
    _add(parser, "--no-color", action="store_true", help="plain text even on a terminal")
    return parser


def _add(parser: ArgumentParser, *names: str, **how: object) -> None:
    if not _knows(parser, names):
        parser.add_argument(*names, **how)  # type: ignore[arg-type]  # the callers stand above


def _knows(parser: ArgumentParser, names: Sequence[str]) -> bool:
    return any(name in parser._option_string_actions for name in names)


class _Parser(ArgumentParser):
    """argparse, with errors that end in the cure rather than in a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Leave with one line."""
        self.exit(USAGE, f"{self.prog}: {message}. `{self.prog} --help` explains.\n")
