"""`meshdp demo`: Bookinfo, started, attacked, defended and shown, act by act."""

from __future__ import annotations

import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from meshdp.demo import walk
from meshdp.errors import UsageError
from meshdp.local.report import Palette

MESH = "bookinfo"

EXAMPLES = """\
examples:
  meshdp demo
  meshdp demo --report report.json --keep"""


def configure(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.description = (
        "Walk through interception, mutual TLS, authorization, change, failure and cost on real packets; half a minute."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("--report", metavar="FILE", help="also write the evidence as JSON")
    parser.add_argument("--keep", action="store_true", help="leave Bookinfo running; `meshdp down` ends it")
    parser.add_argument(
        "--also", metavar="DIR", help="policies that are in force all along, to see which acts they break"
    )


def run(args: Namespace) -> int:
    """0 only if every act holds."""
    _demand_places(args)
    palette = Palette.of(args, sys.stdout)
    began = time.monotonic()
    files = walk.prepare(Path(args.also) if args.also else None)
    keep = False
    try:
        walk.start(files, palette)
        try:
            played = walk.play(files, MESH, palette)
            keep = args.keep
        finally:
            if not keep:
                walk.stop(MESH)
    finally:
        if not keep:
            shutil.rmtree(files, ignore_errors=True)
    if args.report:
        walk.write_report(Path(args.report), played)
    _conclude(played, palette, time.monotonic() - began)
    if keep:
        print(f"Bookinfo keeps running; its policies are in {files / 'policies'}. `meshdp down --mesh {MESH}` ends it.")
    return 0 if all(each.ok for each in played) else 1


def _demand_places(args: Namespace) -> None:
    """Looks now at what would fail only after half a minute."""
    if args.also and not Path(args.also).is_dir():
        raise UsageError(f"--also {args.also}: expected a folder of policies")
    if args.report:
        try:
            Path(args.report).open("a").close()
        except OSError as error:
            hint = "name a file in a folder that exists and that you may write to"
            raise UsageError(f"--report {args.report}: {error.strerror}", hint) from error


def _conclude(played: list[walk.Played], palette: Palette, seconds: float) -> None:
    print()
    for each in played:
        mark = palette.good("✓") if each.ok else palette.bad("✗")
        print(f"{mark} {each.act.title}  {palette.faint(f'{each.seconds:.1f} s')}")
    held = sum(each.ok for each in played)
    verdict = f"{held} of {len(played)} acts hold ({seconds:.0f} s)"
    print(palette.good(verdict) if held == len(played) else palette.bad(verdict), flush=True)
