"""`meshdp down`: ends a mesh and removes all it made, also after a crash."""

from __future__ import annotations

import os
import signal
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from meshdp.errors import MeshdpError, UsageError
from meshdp.local import mesh_file
from meshdp.local.isolation import kernel
from meshdp.local.isolation.namespaces import Holder
from meshdp.local.state import Folder, MeshState, folders

EXAMPLES = """\
examples:
  meshdp down
  meshdp down --mesh bookinfo"""


def configure(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.description = "Stop a mesh: processes, namespaces, sockets and state. What is down already stays down."
    parser.epilog = EXAMPLES
    parser.add_argument("--mesh", metavar="NAME", help="which mesh, when several are up")
    parser.add_argument("-f", "--file", metavar="FILE", help="the LocalMesh file it was started from")


def run(args: Namespace) -> int:
    """Ends the mesh that is meant; 0 also when there is nothing to end."""
    folder = _meant(args)
    if folder is None:
        print("no mesh is up")
        return 0
    if not folder.is_a_meshs:
        others = ", ".join(each.mesh for each in folders())
        print(f"mesh {folder.mesh} is not up" + (f"; these are: {others}" if others else ""))
        return 0
    was_up = folder.held
    end(folder)
    print(f"mesh {folder.mesh} is down" if was_up else f"mesh {folder.mesh} was down; nothing is left of it")
    return 0


def end(folder: Folder) -> None:
    """Asks the supervising process to end, insists if it must, then removes what a crash left."""
    if not folder.is_a_meshs:
        return
    state = folder.read()
    if folder.held and state is not None:
        _end_process(state, folder)
    if not folder.take_over():
        raise MeshdpError(f"mesh {folder.mesh} does not end", "end the process that `meshdp up` runs in")
    if state is not None:
        _end_holders(state)
    folder.release()


def _end_process(state: MeshState, folder: Folder) -> None:
    supervisor = state.supervisor
    for number, patience_s in ((signal.SIGTERM, GRACE_S + 2 * state.drain_s), (signal.SIGKILL, GRACE_S)):
        if kernel.started_at(supervisor.pid) == supervisor.started:
            os.kill(supervisor.pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if not folder.held:
                return
            time.sleep(_POLL_S)


def _end_holders(state: MeshState) -> None:
    """Holders die with their maker; this is for the one whose death the kernel has not come to yet."""
    held = [state.link, *(instance.holder for instance in state.instances)]
    for process in held:
        Holder(process.pid, process.started).kill()


def _meant(args: Namespace) -> Folder | None:
    if args.mesh:
        return Folder(args.mesh)
    if args.file:
        return Folder(mesh_file.load(Path(args.file)).name)
    found = list(folders())
    if len(found) > 1:
        names = ", ".join(each.mesh for each in found)
        raise UsageError(f"several meshes are up: {names}", "name one with --mesh")
    return found[0] if found else None


GRACE_S = 15.0
_POLL_S = 0.02
