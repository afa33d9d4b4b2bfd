"""`meshdp exec`: one command inside a workload's namespaces, as the user its application runs as."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
from argparse import ArgumentParser, Namespace
from pathlib import Path

from meshdp.errors import UsageError
from meshdp.local.isolation import kernel, launch, terminal
from meshdp.local.isolation.namespaces import Holder
from meshdp.local.state import instance_named, running

EXAMPLES = """\
examples:
  meshdp exec productpage-v1 -- curl -s http://details:9080/details/0
  meshdp exec default/ratings-v1 -- python3        (a terminal is passed on)

exit codes: the command's own, 128 + N when signal N ended it; 1 it cannot be started, 2 usage, 3 no mesh is up"""


def configure(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.description = "Run a command with a workload's network, names and rights; its exit code is passed on."
    parser.epilog = EXAMPLES
    parser.add_argument("--mesh", metavar="NAME", help="which mesh, when several are up")
    parser.add_argument("workload", metavar="WORKLOAD", help="NAME or NAMESPACE/NAME, as `meshdp ps` shows it")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="what to run")


def run(args: Namespace) -> int:
    """Starts the command and waits for it, passing signals of the terminal on."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise UsageError("expected a command after the workload", "meshdp exec WORKLOAD -- COMMAND …")
    _, mesh = running(args.mesh)
    instance = instance_named(mesh, args.workload)
    user = launch.invoking_user(os.environ)
    env = launch.application_env(user, os.environ, {})
    holder = Holder(instance.holder.pid, instance.holder.started)
    kernel.leave_keys()
    screen = terminal.stand_in(user.uid)
    streams = terminal.OWN if screen is None else screen.streams
    process = launch.start_application(holder, launch.Program(command, env, user, Path("/"), streams=streams))
    return _wait(process, screen)


def _wait(process: subprocess.Popen[bytes], screen: terminal.Terminal | None) -> int:
    """The command's exit code as a shell would give it. It has a session of its own: Ctrl-C is passed on."""

    def pass_on(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    signal.signal(signal.SIGINT, pass_on)
    signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    if screen is not None:
        screen.carry(process.pid)
    code = process.wait()
    return code if code >= 0 else 128 - code
