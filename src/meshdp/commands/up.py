"""`meshdp up`: one file becomes a mesh on this machine, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from argparse import ArgumentParser, Namespace
from pathlib import Path

from meshdp.arguments import seconds
from meshdp.errors import UsageError
from meshdp.local import background, mesh_file
from meshdp.local.background import Report
from meshdp.local.certificates import LIFE_S
from meshdp.local.isolation import rights
from meshdp.local.isolation.launch import User, invoking_user
from meshdp.local.isolation.rights import Rights
from meshdp.local.mesh import Mesh
from meshdp.local.mesh_file import MeshFile
from meshdp.local.report import Palette, Voice, instance_row, show
from meshdp.local.state import Folder, InstanceState
from meshdp.local.unit import DRAIN_S

EXAMPLES = """\
examples:
  meshdp up -f mesh.yaml                 in the foreground; Ctrl-C ends it and removes all it made
  meshdp up -f mesh.yaml --detach        in the background, once everything is ready
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.description = "Start every workload of a LocalMesh file in its own network, with its sidecar."
    parser.epilog = EXAMPLES
    parser.add_argument("-f", "--file", default="mesh.yaml", metavar="FILE", help="the LocalMesh file (mesh.yaml)")
    parser.add_argument("--detach", action="store_true", help="return once all is ready; `meshdp down` ends it")
    drain = "how long commands, then connections, may take to end (5)"
    parser.add_argument("--drain-s", type=seconds, default=DRAIN_S, metavar="SECONDS", help=drain)
    parser.add_argument(
        "--certificate-life", type=int, default=LIFE_S, metavar="SECONDS", help="how long certificates live (3600)"
    )
    parser.add_argument("--timeout", type=seconds, default=30.0, metavar="SECONDS", help="how long all may take (30)")


def run(args: Namespace) -> int:
    """Checks what is needed, then runs the mesh here or in the background."""
    if not SHORTEST_LIFE_S <= args.certificate_life <= LONGEST_LIFE_S:
        expected = f"expected {SHORTEST_LIFE_S} to {LONGEST_LIFE_S} seconds"
        raise UsageError(f"--certificate-life {args.certificate_life}: {expected}", "the default is one hour")
    file = mesh_file.load(Path(args.file))
    user = invoking_user(os.environ)
    if args.detach:
        return background.detach(lambda report: _live(file, user, args, report))
    return _live(file, user, args, lambda code, log: None)


def _live(file: MeshFile, user: User, args: Namespace, report: Report) -> int:
    """The whole life of a mesh, with everything removed at the end however it comes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    voice = Voice(args)
    folder = Folder(file.name)
    adopted = folder.acquire()
    mesh, done = None, False
    try:
        taken = rights.take()
        mesh = Mesh(file, folder, user, taken, lambda line: voice.say(f"  {voice.palette.faint(line)}"))
        mesh.drain_s, mesh.certificate_life_s = args.drain_s, args.certificate_life
        voice.say(voice.palette.strong(f"mesh {file.name}"))
        voice.say(f"  {voice.palette.faint(_explain(taken))}")
        if adopted:
            voice.say(f"  it did not end by itself the last time: {_adopted(folder)}")
        mesh.build()
        code = asyncio.run(_serve(mesh, args, voice, report))
        done = True
        return code
    finally:
        if mesh is not None:
            mesh.remove()
        if adopted and not done:
            folder.leave()  # a start that fails must not cost what a crash has spared
        else:
            folder.release()


def _adopted(folder: Folder) -> str:
    authority = "its certificate authority is adopted" if folder.authority.is_dir() else "it had made no certificates"
    return f"{authority}, its logs are kept as *.log.1"


def _explain(taken: Rights) -> str:
    """How the sidecars' traffic is told from the applications', and why."""
    if taken.mode == rights.MARKED:
        return f"without root; sidecars are told apart by a packet mark: {taken.why}"
    how = "without root; " if taken.mode == rights.OWNER else ""
    return f"{how}sidecars are told apart by their user {rights.SIDECAR_ID}"


async def _serve(mesh: Mesh, args: Namespace, voice: Voice, report: Report) -> int:
    """Runs the mesh until a signal: says what happens, and once what became of the start."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    running = asyncio.create_task(mesh.run())
    telling = asyncio.create_task(_tell(mesh, voice))
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(_until_ready(mesh))
    await asyncio.wait([running, stopping, starting], timeout=args.timeout, return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set() and not running.done():
        report(_conclude(mesh, args, voice), mesh.log)
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
    for task in (starting, telling, stopping):
        task.cancel()
    if running.done():
        running.result()
    voice.say("  stopping")
    running.cancel()
    await asyncio.wait([running])
    return 0


async def _until_ready(mesh: Mesh) -> None:
    """Ends when everything serves, save what never will."""
    while not (mesh.settled and all(unit.phase in ("ready", "exited", "failed") for unit in mesh.units)):
        await mesh.news()


async def _tell(mesh: Mesh, voice: Voice) -> None:
    """One line for each thing that happens to an instance."""
    told: dict[str, tuple[str, str, str]] = {}
    while True:
        for unit in mesh.units:
            state = unit.state()
            news = (state.phase, state.message, state.refusal)
            if told.get(str(unit.instance.key), ("starting", "", "")) != news:
                told[str(unit.instance.key)] = news
                voice.say(f"  {_line(state, voice.palette)}")
        await mesh.news()


def _line(state: InstanceState, palette: Palette) -> str:
    mark = palette.good("✓") if state.ready and not state.refusal else palette.bad("✗")
    detail = f" digest {state.digest[:12]}" if state.sidecar and state.ready else ""
    refusal = f": its sidecar refuses the configuration: {state.refusal}" if state.refusal else ""
    message = f": {state.message}" if state.message else ""
    return f"{mark} {state.namespace}/{state.name} {state.phase}{detail}{message}{refusal}"


def _conclude(mesh: Mesh, args: Namespace, voice: Voice) -> int:
    """Says what became of the start: the table, and what is missing."""
    states = [unit.state() for unit in mesh.units]
    show([instance_row(state) for state in states], args.output)
    if mesh.ready:
        voice.say(voice.palette.good(f"mesh {mesh.file.name} is ready"))
        return 0
    for unit in mesh.units:
        if unit.phase != "ready":
            voice.say(f"  {voice.palette.bad('✗')} {unit.instance.key}: {unit.missing}")
    voice.say(voice.palette.bad(f"mesh {mesh.file.name} is not ready; what runs keeps running"))
    return 1


SHORTEST_LIFE_S, LONGEST_LIFE_S = 2, 30 * 86_400
