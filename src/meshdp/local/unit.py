"""Runs one instance: its sidecar, restarted with back-off when it ends, and its command once the sidecar is ready.

In:      namespaces with the rules already in place, a feed, what to run.
Out:     `Unit`, whose fields `mesh` turns into state; `changed` is called after each change.
Limits:  restarts wait 50 ms and double: to 200 ms for a sidecar that had become ready, to 5 s for one that never does.
         A second of readiness makes them start over. So whatever kills a healthy sidecar, it is back within a second,
         and one that dies at once costs little. The rules stay while a sidecar is away: its ports refuse, and
         nothing passes unfiltered.
Fails:   never: what goes wrong is the unit's phase and message.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meshdp.errors import MeshdpError, printable
from meshdp.local import logs
from meshdp.local.feed import Feed
from meshdp.local.isolation import inside, launch
from meshdp.local.isolation.namespaces import Holder
from meshdp.local.isolation.rights import Rights
from meshdp.local.mesh_file import Instance
from meshdp.local.state import InstanceState, ProcessState

BACKOFF_FIRST_S = 0.05
BACKOFF_LAST_READY_S = 0.2
BACKOFF_LAST_S = 5.0
STABLE_AFTER_S = 1.0
LOG_LINES_SHOWN = 8
DRAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance runs, what it writes to, and what it must not see."""

    address: str
    port_name: str
    holder: Holder
    rights: Rights
    feed_socket: Path
    log: Path
    sidecar_log: Path
    hidden: tuple[Path, ...]


class Unit:
    """One instance's life."""

    def __init__(self, instance: Instance, place: Place, user: launch.User, changed: Callable[[], None]) -> None:
        self.instance = instance
        self.place = place
        self.feed: Feed | None = None
        self.phase = "starting"
        self.message = ""
        self.restarts = 0
        self.exit_code: int | None = None
        self.ports: tuple[int, ...] = ()
        self.drain_s = DRAIN_S
        self._user = user
        self._changed = changed
        self._command: subprocess.Popen[bytes] | None = None
        self._sidecar: subprocess.Popen[bytes] | None = None
        self._sidecar_ready = asyncio.Event()
        self._ready_since: float | None = None
        self._stopping = False
        self._gone = False

    async def run(self) -> None:
        """Lives until cancelled or stopped."""
        async with asyncio.TaskGroup() as group:
            if self.instance.sidecar:
                group.create_task(self._keep_sidecar())
            group.create_task(self._run_command())
            group.create_task(self._watch_holder())

    def state(self) -> InstanceState:
        """What others may know."""
        key, place, feed = self.instance.key, self.place, self.feed
        return InstanceState(
            namespace=key.namespace,
            name=key.name,
            workload=self.instance.workload,
            service_account=self.instance.service_account,
            address=place.address,
            port_name=place.port_name,
            sidecar=self.instance.sidecar,
            holder=ProcessState(place.holder.pid, place.holder.started),
            phase=self.phase,
            pid=_pid(self._command),
            sidecar_pid=_pid(self._sidecar),
            wanted=feed.wanted if feed else "",
            digest=feed.in_force if feed else "",
            refusal=feed.refusal if feed else "",
            restarts=self.restarts,
            exit_code=self.exit_code,
            message=self.message,
        )

    @property
    def missing(self) -> str:
        """What keeps it from being ready, in words."""
        if self.phase != "starting" or self.message:
            return self.message or self.phase
        if self.instance.sidecar and not self._sidecar_ready.is_set():
            return "its sidecar is not ready"
        ports = ", ".join(map(str, self.ports))
        return f"its command does not listen on {ports}" if ports else "its command has not started"

    @property
    def children(self) -> set[int]:
        """The processes that somebody here waits for."""
        return {process.pid for process in (self._command, self._sidecar) if process is not None}

    async def stop_command(self) -> None:
        """Asks the command to end; its sidecar serves it meanwhile. The holder's end takes what does not."""
        self._stopping = True
        await _end(self._command, self.drain_s)

    async def stop_sidecar(self) -> None:
        """Drains the sidecar, once nothing is left for it to serve but what peers have begun."""
        await _end(self._sidecar, self.drain_s + _SIDECAR_EXTRA_S)

    async def _keep_sidecar(self) -> None:
        wait_s = BACKOFF_FIRST_S
        while not self._gone:
            self._ready_since = None
            message = await self._run_sidecar()
            if self._stopping or self._gone:
                return
            if self.phase != "exited":
                self.message = message
            ready_s = 0.0 if self._ready_since is None else time.monotonic() - self._ready_since
            if ready_s > STABLE_AFTER_S:
                wait_s = BACKOFF_FIRST_S
            self.restarts += 1
            self.phase = "restarting" if self.phase in ("ready", "restarting") else self.phase
            self._changed()
            wait_s = min(wait_s, BACKOFF_LAST_S if self._ready_since is None else BACKOFF_LAST_READY_S)
            await asyncio.sleep(wait_s)
            wait_s *= 2

    async def _run_sidecar(self) -> str:
        """One life of a sidecar; how it ended, in words."""
        rights = self.place.rights
        argv = sidecar_command(str(self.instance.key), self.place.feed_socket, rights.mark)
        argv += ["--drain-s", str(self.drain_s)]
        user, keeps = launch.sidecar_user(rights, self._user), launch.sidecar_capabilities(rights)
        program = launch.Program(argv, sidecar_env(), user, log=self.place.sidecar_log, keeps=keeps)
        view = launch.View((*launch.interpreter_folders(), self.place.feed_socket.parent), self.place.hidden)
        try:
            self._sidecar = launch.start_sidecar(self.place.holder, program, view)
        except MeshdpError as error:
            return f"its sidecar cannot be started: {error.message}"
        self._changed()
        watch = asyncio.create_task(self._await_sidecar())
        try:
            code = await ended(self._sidecar)
        finally:
            watch.cancel()
            self._sidecar_ready.clear()
            if self.feed is not None:
                self.feed.desk.forget()
        return f"its sidecar ended ({describe_exit(code)}){_tail(self.place.sidecar_log)}"

    async def _await_sidecar(self) -> None:
        """Notices when the sidecar serves what it should."""
        while not (self.feed is not None and self.feed.settled and await inside.ready(self.place.holder.pid)):
            await asyncio.sleep(_POLL_S)
        self._sidecar_ready.set()
        self._ready_since = time.monotonic()
        if self.phase == "restarting":
            self.phase, self.message = "ready", ""
        self._changed()

    async def _run_command(self) -> None:
        """The command's one life: a command that ends is reported, not restarted."""
        if self.instance.sidecar:
            await self._sidecar_ready.wait()
        env = launch.application_env(self._user, os.environ, self.instance.env)
        program = launch.Program(self.instance.command, env, self._user, self.instance.working_dir, self.place.log)
        try:
            self._command = launch.start_application(self.place.holder, program)
        except MeshdpError as error:
            self.phase, self.message = "failed", error.message
            self._changed()
            return
        self._changed()
        watch = asyncio.create_task(self._await_command())
        code = await ended(self._command)
        watch.cancel()
        if not self._stopping and not self._gone:
            self.phase, self.exit_code = "exited", code
            self.message = f"its command ended ({describe_exit(code)}){_tail(self.place.log)}"
            self._changed()

    async def _await_command(self) -> None:
        """Notices when the command listens where its services expect it; ever more rarely, for it may never do so."""
        wait_s = _POLL_S
        while not inside.listening_ports(self.place.holder.pid).issuperset(self.ports):
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * _POLL_GROWTH, _POLL_LAST_S)
        self.phase, self.message = "ready", ""
        self._changed()

    async def _watch_holder(self) -> None:
        """An instance whose namespaces are gone cannot be brought back: its interception went with them."""
        await gone(self.place.holder.pid)
        if not self._stopping:
            self._gone = True
            self.phase = "failed"
            self.message = "its namespaces are gone, for the process that held them was killed: start the mesh again"
            self._changed()


async def _end(process: subprocess.Popen[bytes] | None, patience_s: float) -> None:
    """Asks a process to end and gives it so long."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(ended(process), patience_s)
    except TimeoutError:
        process.kill()


async def ended(process: subprocess.Popen[bytes]) -> int:
    """Waits for a child without a thread; its exit code, negative for a signal."""
    await gone(process.pid)
    return process.wait()


async def gone(pid: int) -> None:
    """Waits until a child has ended."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    descriptor = os.pidfd_open(pid)
    loop.add_reader(descriptor, done.set)
    try:
        await done.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def describe_exit(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def sidecar_command(workload: str, feed: Path, mark: int | None = None) -> list[str]:
    """The sidecar's command line: this very interpreter, and nothing from the current folder."""
    marked = [] if mark is None else ["--mark", hex(mark)]
    return [sys.executable, "-P", "-m", "meshdp", "sidecar", "--workload", workload, "--feed", str(feed), *marked]


def _tail(log: Path) -> str:
    """The last lines of a log, as part of a message."""
    return "".join(f"\n    {printable(line)}" for line in logs.last_lines(log, LOG_LINES_SHOWN))


def _pid(process: subprocess.Popen[bytes] | None) -> int:
    return process.pid if process is not None and process.poll() is None else 0


def sidecar_env() -> dict[str, str]:
    """Nothing of the caller's but what names the interpreter's own modules."""
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "LANG", "TZ") if name in os.environ}
    return {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", **kept}


_POLL_S = 0.01
_POLL_GROWTH = 1.2  # so that a look comes late by a fifth of what the start has taken
_POLL_LAST_S = 0.5
_SIDECAR_EXTRA_S = 1.0  # what its own end takes after the deadline of its drain
