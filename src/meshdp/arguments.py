"""What all verbs' parsers share. Apart from `cli`, so that a sidecar need not import argparse.

Out:    `parser_of(verb)` for `meshdp.cli`, and types of arguments that several verbs take.
Fails:  with exit code 2 and one line that names the way to the help.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from typing import NoReturn

from meshdp.errors import UsageError

FORMS = ("table", "json", "yaml")
LONGEST_S = 86_400


def parser_of(verb: str, configure: Callable[[ArgumentParser], None]) -> ArgumentParser:
    """Make the parser of a verb: its own options, then the common ones unless it brought its own."""
    parser = _Parser(prog=f"meshdp {verb}", formatter_class=RawDescriptionHelpFormatter)
    configure(parser)
    _add(parser, "-o", "--output", choices=FORMS, default="table", help="form of the answer")
    _add(parser, "--no-color", action="store_true", help="plain text even on a terminal")
    return parser


def seconds(word: str) -> float:
    """A span that something may take, for `type=`."""
    try:
        span = float(word)
    except ValueError:
        span = math.nan
    if not 0 <= span <= LONGEST_S:
        raise ArgumentTypeError(f"expected 0 to {LONGEST_S} seconds, found {word!r}")
    return span


def _add(parser: ArgumentParser, *names: str, **how: object) -> None:
    if not _knows(parser, names):
        parser.add_argument(*names, **how)  # type: ignore[arg-type]  # the callers stand above


def _knows(parser: ArgumentParser, names: Sequence[str]) -> bool:
    return any(name in parser._option_string_actions for name in names)


class _Parser(ArgumentParser):
    """argparse, with errors that end in the cure rather than in a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Leave with one line."""
        self.exit(UsageError.exit_code, f"{self.prog}: {message}. `{self.prog} --help` explains.\n")
