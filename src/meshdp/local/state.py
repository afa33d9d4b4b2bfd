"""Keeps what is known about a running mesh in one folder, where `ps`, `exec`, `logs` and `down` find it.

In:      `MeshState` from the process that runs the mesh, the only writer, which holds the folder's lock.
Out:     the same, read by other commands; a lock that is free says that the writer is gone.
Limits:  the folder is under /run/meshdp for root, else where `homes` finds a place; MESHDP_STATE_DIR overrides both.
         A folder is a mesh's when its lock lies beside it: no other is changed or removed, whatever it is named.
Fails:   Refused when the mesh is up already, Unreachable when no such mesh is, UsageError when several are.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from meshdp.errors import Refused, Unreachable, UsageError
from meshdp.local import homes

SOCKET_PATH_LIMIT_BYTES = 107


class ProcessState(msgspec.Struct, frozen=True):
    """A process that can be told from a later one with its number."""

    pid: int
    started: int


class InstanceState(msgspec.Struct, frozen=True):
    """One instance as seen from outside.

    phase: "starting", "ready", "restarting" (its sidecar), "exited" (its command) or "failed" (it cannot start).
    wanted, digest: the snapshot that its sidecar should have and has in force; empty outside the mesh.
    refusal: why the sidecar does not take what is wanted. message: what a person should know.
    """

    namespace: str
    name: str
    workload: str
    service_account: str
    address: str
    port_name: str
    sidecar: bool
    holder: ProcessState
    phase: str = "starting"
    pid: int = 0
    sidecar_pid: int = 0
    wanted: str = ""
    digest: str = ""
    refusal: str = ""
    restarts: int = 0
    exit_code: int | None = None
    message: str = ""

    @property
    def ready(self) -> bool:
        return self.phase == "ready"


class MeshState(msgspec.Struct, frozen=True):
    """A whole mesh. documents: tells their states apart. settled: every sidecar has what follows from them.

    findings: what is wrong with the documents. drain_s: how long its end may take, for commands and again for sidecars.
    """

    mesh: str
    file: str
    supervisor: ProcessState
    link: ProcessState
    user: str
    rights: str = "root"
    ready: bool = False
    settled: bool = False
    documents: str = ""
    findings: list[str] = []
    instances: list[InstanceState] = []
    drain_s: float = 0


class Folder:
    """The state folder of one mesh."""

    def __init__(self, mesh: str, root: Path | None = None) -> None:
        if not MESH_NAME.fullmatch(mesh):  # it becomes a path, below which all is removed in the end
            raise UsageError(f"no mesh is named {mesh[:60]!r}: expected {MESH_NAME_EXPECTED}", "see them: meshdp ps")
        self.mesh = mesh
        self.path = (root or homes.state_root(os.environ)) / mesh
        self._lock = -1

    @property
    def log(self) -> Path:
        """What the supervising process says when it runs in the background."""
        return self.path / "up.log"

    @property
    def authority(self) -> Path:
        """The root's key and certificate."""
        return self.path / "authority"

    @property
    def control(self) -> Path:
        """The socket on which the supervising process takes commands."""
        return self.path / "control.sock"

    def logs_of(self, namespace: str, name: str) -> tuple[Path, Path]:
        """The log of an instance's command, and of its sidecar."""
        base = self.path / "logs"
        return base / f"{namespace}.{name}.log", base / f"{namespace}.{name}.sidecar.log"

    def feed_of(self, index: int) -> Path:
        """The socket that proves an instance's identity; numbered, for a socket's path holds at most 107 bytes."""
        return self.path / "feed" / str(index) / "feed.sock"

    def files_of(self, namespace: str, name: str) -> Path:
        """The files that are bound over an instance's own."""
        return self.path / "files" / f"{namespace}.{name}"

    def acquire(self) -> bool:
        """Takes the mesh for this process and makes its folder; True when a mesh was there that did not end by itself.

        Of that one the certificate authority stays, so that its certificates and saved bundles stay valid, and the logs
        stay under another name.

        Raises:
            Refused: another process has it, or its folder is something else's.
            UsageError: the folder lies too deep for sockets.
        """
        if len(os.fsencode(self.feed_of(_HIGHEST_INDEX))) > SOCKET_PATH_LIMIT_BYTES:
            hint = "name a shorter one: MESHDP_STATE_DIR=/tmp/mesh meshdp up"
            raise UsageError(f"a socket's path holds {SOCKET_PATH_LIMIT_BYTES} bytes, too few below {self.path}", hint)
        homes.make(self.path.parent)
        if os.path.lexists(self.path) and not self.is_a_meshs:
            hint = "name another folder in MESHDP_STATE_DIR, or remove this one"
            raise Refused(f"{self.path} was not made by a mesh: the state of {self.mesh} cannot go there", hint)
        if not self._try_lock():
            raise Refused(f"mesh {self.mesh} is up already", f"stop it: meshdp down --mesh {self.mesh}")
        crashed = self.path.is_dir()
        if crashed:
            self._keep_what_lasts()
        # Open for passing through, so that a sidecar finds its socket; what lies inside is closed.
        self.path.mkdir(mode=0o711, exist_ok=True)
        for name in ("logs", "files"):
            (self.path / name).mkdir(mode=0o700, exist_ok=True)
        (self.path / "feed").mkdir(mode=0o711)
        return crashed

    def leave(self) -> None:
        """Gives the mesh up and leaves its folder to whoever takes it next."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def release(self) -> None:
        """Removes the folder, then the lock."""
        self._clear()
        self._lock_path.unlink(missing_ok=True)
        self.leave()
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()  # only when no other mesh is there

    @property
    def is_a_meshs(self) -> bool:
        """A mesh runs here, or did and left its lock."""
        with homes.usable(self.path.parent):
            return _is_lock(self._lock_path)

    @property
    def held(self) -> bool:
        """Some process runs the mesh now."""
        with homes.usable(self.path.parent):
            try:
                descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def take_over(self) -> bool:
        """Takes the lock of a mesh whose process is gone, to clean up after it."""
        homes.make(self.path.parent)
        return self._try_lock()

    def write(self, state: MeshState) -> None:
        """Replaces the state in one step."""
        fresh = self.path / f"{_STATE}.new"
        # Closed as the logs are, whose last lines it may hold.
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(state))
        fresh.rename(self.path / _STATE)

    def read(self) -> MeshState | None:
        """The last state written; None when there is none."""
        try:
            return msgspec.json.decode((self.path / _STATE).read_bytes(), type=MeshState)
        except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
            return None  # none yet, or another version's

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(f"{self.mesh}{_LOCK}")

    def _try_lock(self) -> bool:
        while True:
            with homes.usable(self.path.parent):
                descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            # Whoever held it before may have removed the file that was opened here: then it locks nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self._lock_path.stat()):
                    self._lock = descriptor
                    return True
            os.close(descriptor)

    def _keep_what_lasts(self) -> None:
        """Takes away what a crash left, but for the authority and the logs."""
        for path in self.path.iterdir():
            if path == self.log:
                path.replace(path.with_name(path.name + PREVIOUS))
            elif path.is_dir() and path.name not in (self.authority.name, "logs"):
                shutil.rmtree(path, ignore_errors=True)
            elif not path.is_dir() and path.suffix != PREVIOUS:
                path.unlink()
        for log in list((self.path / "logs").glob("*.log")):
            log.replace(log.with_name(log.name + PREVIOUS))

    def _clear(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def folders() -> Iterator[Folder]:
    """Every mesh that is up, or was and left something behind."""
    root = homes.state_root(os.environ)
    with homes.usable(root):
        if not root.is_dir():
            return
        names = {path.stem for path in root.iterdir() if MESH_NAME.fullmatch(path.stem) and _is_lock(path)}
    for name in sorted(names):
        yield Folder(name, root)


def _is_lock(path: Path) -> bool:
    """A lock of ours is an empty file: another program's `NAME.lock` says something, and its folder is not ours."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return path.suffix == _LOCK and stat.S_ISREG(found.st_mode) and found.st_size == 0


def running(name: str | None) -> tuple[Folder, MeshState]:
    """The mesh a command is about: the one named, or the only one that is up.

    Raises:
        Unreachable: there is no such mesh.
        UsageError: there is more than one to choose from.
    """
    candidates = [Folder(name)] if name else list(folders())
    found = [(each, state) for each in candidates if each.held and (state := each.read()) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(each.mesh for each, _ in found)
        raise UsageError(f"several meshes are up: {names}", "name one with --mesh")
    raise Unreachable(f"mesh {name} is not up" if name else "no mesh is up", "start one: meshdp up -f mesh.yaml")


def instance_named(mesh: MeshState, name: str) -> InstanceState:
    """The instance a person means: NAMESPACE/NAME, or a NAME that only one has, or the workload of only one.

    Raises:
        UsageError: none is meant, or several.
    """
    found = [each for each in mesh.instances if name in (f"{each.namespace}/{each.name}", each.name)]
    found = found or [each for each in mesh.instances if name in (f"{each.namespace}/{each.workload}", each.workload)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{each.namespace}/{each.name}" for each in found or mesh.instances)
    problem = "several workloads are" if found else "no workload is"
    raise UsageError(f"{problem} named {name}", f"choose one of: {known}")


MESH_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,38}[a-z0-9])?")
MESH_NAME_EXPECTED = "lower-case letters, digits and '-', at most 40"

PREVIOUS = ".1"
"""What the name of a log ends with that a crashed mesh wrote."""

_STATE = "state.json"
_LOCK = ".lock"
_HIGHEST_INDEX = 9999
