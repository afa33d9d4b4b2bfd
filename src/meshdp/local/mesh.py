"""Runs a mesh on this machine: reads, compiles, feeds, starts, watches, and takes everything away at the end.

In:      a `MeshFile`, the user whose applications it runs, the folder of its state.
Out:     running instances, the state file, lines of progress.
Limits:  changes of the documents within 20 ms are one change.
Fails:   MeshdpError while it is being built; later nothing ends a mesh but a signal: what fails is reported, what runs
         keeps running.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from meshdp.errors import MeshdpError
from meshdp.local import hosts, logs, translation
from meshdp.local.certificates import LIFE_S, Certificates
from meshdp.local.configuration import Compiled, Configuration
from meshdp.local.control import ControlSocket
from meshdp.local.isolation import kernel, namespaces
from meshdp.local.isolation.launch import User
from meshdp.local.isolation.namespaces import Holder
from meshdp.local.isolation.rights import MARKED, SIDECAR_ID, Rights
from meshdp.local.mesh_file import Instance, InstanceKey, MeshFile
from meshdp.local.state import Folder, MeshState, ProcessState
from meshdp.local.unit import DRAIN_S, Place, Unit
from meshdp.resources import Loaded
from meshdp.sources.files import FileSource

DEBOUNCE_S = 0.02

Say = Callable[[str], None]


class Mesh:
    """One mesh, from its file to its end. `build` before the event loop starts, then `run`, then `remove`."""

    def __init__(self, file: MeshFile, folder: Folder, user: User, rights: Rights, say: Say) -> None:
        self.file = file
        self.units: list[Unit] = []
        self.drain_s = DRAIN_S
        self.certificate_life_s = LIFE_S
        self._folder = folder
        self._user = user
        self._rights = rights
        self._say = say
        self._source = FileSource(file.resources)
        self._configuration = Configuration(file)
        self._holders: list[Holder] = []
        self._hosts_files: dict[InstanceKey, hosts.SharedFile] = {}
        self._compiled: Compiled | None = None
        self._findings: list[str] = []
        self._writing = False
        self._waiting: list[asyncio.Future[None]] = []
        self._next_look: asyncio.TimerHandle | None = None
        self._ended: frozenset[InstanceKey] = frozenset()

    @property
    def log(self) -> Path:
        """Where a mesh in the background says what happens."""
        return self._folder.log

    @property
    def ready(self) -> bool:
        """Everything serves what it should."""
        return all(unit.phase == "ready" for unit in self.units) and self.settled

    @property
    def settled(self) -> bool:
        """Every sidecar has the newest configuration in force."""
        return all(unit.feed is None or unit.feed.settled for unit in self.units)

    def build(self) -> None:
        """Makes namespaces, addresses and rules. Forks, so it comes before any event loop."""
        initializer = init_program()
        loaded = self._source.load()
        self._take_findings(loaded)
        self._compiled = self._configuration.compile(loaded.resources)
        self._say(f"{len(loaded.resources)} resources, {len(self.file.instances)} instances")
        link = namespaces.make_link()
        self._holders.append(link)
        for index, instance in enumerate(self.file.instances, start=1):
            self._build_instance(index, instance, link, initializer)
        self._say("namespaces, addresses and redirection are in place")

    async def run(self) -> None:
        """Feeds, starts and watches until cancelled."""
        certificates = Certificates(self._folder.authority, self.file.name, self.certificate_life_s, self._say)
        for unit in self.units:
            if unit.instance.sidecar:
                unit.feed = certificates.feed(str(unit.instance.key), self.note_change)
                reader = None if self._rights.mode == MARKED else SIDECAR_ID
                await unit.feed.open(unit.place.feed_socket, reader)
        control = ControlSocket(certificates.verbs)
        await control.open(self._folder.control)
        self._distribute()
        self._write_state()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._source.fileno(), self._look)
        self._look_later()
        loop.add_signal_handler(signal.SIGCHLD, self._collect_orphans)
        try:
            async with asyncio.TaskGroup() as group:
                for unit in self.units:
                    unit.drain_s = self.drain_s
                    group.create_task(unit.run())
                group.create_task(self._bound_logs())  # which also makes a mesh of ended commands a mesh
        finally:
            loop.remove_reader(self._source.fileno())
            control.close()
            await self._stop()
            loop.remove_signal_handler(signal.SIGCHLD)

    def remove(self) -> None:
        """Ends what is left and takes the namespaces away. Safe after a failure anywhere above."""
        for holder in reversed(self._holders):
            holder.kill()
        # A start that was interrupted may have made a holder that nobody has noted: it would be waited for without end.
        for pid in kernel.children():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        # A holder is gone once everything inside is: its commands and sidecars are this process's children, too.
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
        self._source.close()
        for file in self._hosts_files.values():
            file.close()

    async def news(self) -> None:
        """Returns after the next change of anything."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def note_change(self) -> None:
        """Something that others may see is different: the state file follows within this turn of the loop."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()
        ended = frozenset(unit.instance.key for unit in self.units if unit.phase in ("exited", "failed"))
        if ended != self._ended:
            self._ended = ended
            asyncio.get_running_loop().call_soon(self._reload)
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().call_soon(self._write_state)

    async def _stop(self) -> None:
        # All commands before any sidecar: the last words of one may go to another.
        await asyncio.gather(*(unit.stop_command() for unit in self.units))
        await asyncio.gather(*(unit.stop_sidecar() for unit in self.units))
        for unit in self.units:
            if unit.feed is not None:
                await unit.feed.close()

    def _build_instance(self, index: int, instance: Instance, link: Holder, initializer: Path) -> None:
        key = instance.key
        address = self._configuration.addresses[key]
        folder = self._folder.files_of(*key)
        folder.mkdir(mode=0o700)
        files = namespaces.Files(folder / "hosts", folder / "resolv.conf", self._hidden())
        self._hosts_files[key] = hosts.SharedFile(files.hosts, self._hosts(instance))
        hosts.SharedFile(files.resolver, hosts.resolver_file(key.namespace)).close()
        holder = namespaces.make_instance(key.name, files)
        self._holders.append(holder)
        # Redirection comes before the way to the link: there is no moment without it.
        if instance.sidecar:
            namespaces.run_inside(holder, [str(initializer), *self._rights.init_arguments, *INIT_ARGUMENTS])
        else:
            self._translate(holder)
        namespaces.join(link, holder, index, address)
        log, sidecar_log = self._folder.logs_of(*key)
        port_name = namespaces.port_name(index)
        feed = self._folder.feed_of(index)
        place = Place(address, port_name, holder, self._rights, feed, log, sidecar_log, files.hidden)
        self.units.append(Unit(instance, place, self._user, self.note_change))

    def _hidden(self) -> tuple[Path, ...]:
        """What neither applications nor sidecars see: the state of all meshes, and the sockets of the caller's session,
        over which programs are started outside; with sudo, too, applications are the caller."""
        return (self._folder.path.parent, Path("/run/user"))

    def _look(self) -> None:
        """The documents may have changed: if so, they are read once they are quiet."""
        loop = asyncio.get_running_loop()
        if self._source.changed():
            loop.call_later(DEBOUNCE_S, self._reload)
        else:
            self._look_later()

    def _look_later(self) -> None:
        """One timer, however often it is asked for."""
        if self._next_look is not None:
            self._next_look.cancel()
        self._next_look = asyncio.get_running_loop().call_later(self._source.wait_s(), self._look)

    def _reload(self) -> None:
        """One change of the documents or of what runs: compiled for everyone once, then handed out."""
        loaded = self._source.load()
        self._take_findings(loaded)
        self._compiled = self._configuration.compile(loaded.resources, self._ended)
        self._distribute()
        for unit in self.units:
            self._hosts_files[unit.instance.key].replace(self._hosts(unit.instance))
            if not unit.instance.sidecar:
                self._translate(unit.place.holder)
        self.note_change()
        self._look_later()

    async def _bound_logs(self) -> None:
        """Looks at the logs now and then, for as long as the mesh runs."""
        paths = [self._folder.log, *(log for unit in self.units for log in (unit.place.log, unit.place.sidecar_log))]
        said: set[str] = set()
        while True:
            for problem in logs.bound(paths):
                if problem not in said:
                    said.add(problem)
                    self._say(problem)
            await asyncio.sleep(logs.LOOK_EVERY_S)

    def _collect_orphans(self) -> None:
        """As process 1 of a container this process is given children that nobody waits for."""
        ours = {holder.pid for holder in self._holders}.union(*(unit.children for unit in self.units))
        for pid in kernel.children() - ours:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def _distribute(self) -> None:
        if self._compiled is None:
            return
        for unit in self.units:
            key = unit.instance.key
            unit.ports = self._compiled.ports[key]
            if unit.feed is not None:
                unit.feed.offer(self._compiled.snapshots[key], self._compiled.identities[key])

    def _take_findings(self, loaded: Loaded) -> None:
        """Says what is new to say; a finding is said once as long as it stays."""
        findings = [str(finding) for finding in loaded.findings]
        for finding in findings:
            if finding not in self._findings:
                self._say(finding)
        self._findings = findings

    def _hosts(self, instance: Instance) -> str:
        services = self._compiled.services if self._compiled is not None else ()
        own = (instance.key.name, self._configuration.addresses[instance.key])
        return hosts.hosts_file(services, instance.key.namespace, own)

    def _translate(self, holder: Holder) -> None:
        targets = self._compiled.targets if self._compiled is not None else ()
        namespaces.run_inside(holder, ["iptables-restore"], translation.render(targets))

    def _write_state(self) -> None:
        self._writing = False
        own = os.getpid()
        link = self._holders[0]
        state = MeshState(
            mesh=self.file.name,
            file=str(self.file.path),
            supervisor=ProcessState(own, kernel.started_at(own) or 0),
            link=ProcessState(link.pid, link.started),
            user=self._user.name,
            rights=self._rights.mode,
            ready=self.ready,
            settled=self.settled,
            documents=self._compiled.documents if self._compiled is not None else "",
            findings=self._findings,
            instances=[unit.state() for unit in self.units],
            drain_s=self.drain_s,
        )
        self._folder.write(state)


def init_program() -> Path:
    """The program that installs the redirection rules.

    Raises:
        MeshdpError: it is not there.
    """
    named = os.environ.get("MESHDP_INIT")
    path = Path(named) if named else Path(__file__).resolve().parent.parent / "bin" / "meshdp-init"
    if not os.access(path, os.X_OK):
        hint = "build it with `make build`, or name it in MESHDP_INIT"
        raise MeshdpError(f"the init program {path} is missing", hint)
    return path


# Everything is captured but the sidecar's own ports that must answer anyone. There is no tunnel, whose port is never
# captured either: what listens on 15008 is an application, so that one of ours stands for it.
INIT_ARGUMENTS = (
    *("-p", "15001", "-z", "15006", "-e", "15090"),
    *("-b", "*", "-d", "15090,15021,15020", "-i", "*"),
)
