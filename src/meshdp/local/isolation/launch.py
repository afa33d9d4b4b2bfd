"""Starts programs inside an instance's namespaces, with exactly the rights they need.

In:      a `Holder` and what to run, from `mesh` and from `meshdp exec`.
Out:     ordinary child processes of the caller.
Limits:  applications run as the invoking user and sidecars as 1337, both with an empty bounding set and no_new_privs.
         Nothing less would do: with NET_ADMIN or NET_RAW an application undoes its interception, with SETUID or SETGID
         it becomes 1337, with SYS_ADMIN or SYS_PTRACE it leaves its namespaces. The one right that ordinary services
         need, low ports, is given to everyone by the namespace. Where 1337 cannot be mapped, sidecars run as the
         invoking user, too, and keep NET_ADMIN, which marks their packets; they are out of the application's sight.
Fails:   UsageError for users that cannot be, MeshdpError where a program cannot be started.
Source:  capabilities(7), credentials(7).
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshdp.errors import MeshdpError, UsageError
from meshdp.local.isolation import capabilities, doors, kernel, terminal
from meshdp.local.isolation.namespaces import Holder
from meshdp.local.isolation.rights import AS_ROOT, MARKED, ROOT, SIDECAR_ID, Rights


@dataclass(frozen=True, slots=True)
class User:
    """Whom a program runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, as whom and with what; `log` receives what it prints, without one it has `streams`.

    keeps: the capabilities that it has, and the most that it can ever have.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    user: User
    folder: Path = Path("/")
    log: Path | None = None
    keeps: int = capabilities.NONE
    streams: terminal.Streams = terminal.OWN


@dataclass(frozen=True, slots=True)
class View:
    """What a sidecar sees of the machine's files: everything but `hidden` folders and those closed to others; of both
    what is `shown` all the same."""

    shown: tuple[Path, ...]
    hidden: tuple[Path, ...]


def invoking_user(environ: Mapping[str, str]) -> User:
    """The person behind this command: the one who called sudo, or else the process's own user.

    Raises:
        UsageError: that user is the sidecar's, whose traffic is not intercepted.
    """
    uid = os.getuid()
    if uid == 0 and environ.get("SUDO_UID", "").isdecimal():
        uid = int(environ["SUDO_UID"])
    try:
        entry = pwd.getpwuid(uid)
        name, gid, home = entry.pw_name, entry.pw_gid, entry.pw_dir
    except KeyError:
        name, gid, home = str(uid), int(environ.get("SUDO_GID", os.getgid())), "/"
    gid = gid if os.getuid() == 0 else os.getgid()
    if SIDECAR_ID in (uid, gid):
        hint = "run it as another user"
        raise UsageError(f"applications must not run as {SIDECAR_ID}: that is the sidecar's user", hint)
    # Groups are root's to change: anyone else keeps those that the session has.
    known = os.getgrouplist(name, gid) if os.getuid() == 0 else os.getgroups()
    return User(uid, gid, tuple(group for group in known if group != SIDECAR_ID or os.getuid() != 0), name, home)


def sidecar_user(rights: Rights = AS_ROOT, user: User | None = None) -> User:
    """The user a sidecar runs as: the one whose traffic the redirection rules leave alone, where there can be one."""
    if rights.mode == MARKED and user is not None:
        return user
    groups = () if rights.mode == ROOT or user is None else user.groups
    return User(SIDECAR_ID, SIDECAR_ID, groups, "meshdp", "/")


def sidecar_capabilities(rights: Rights) -> int:
    """What a sidecar keeps: nothing, or what it takes to mark a packet."""
    return capabilities.NET_ADMIN if rights.mode == MARKED else capabilities.NONE


def application_env(user: User, environ: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """A small, predictable environment: what every session has, then what the mesh file says."""
    inherited = {name: environ[name] for name in _INHERITED if name in environ}
    return {"PATH": _PATH, **inherited, "HOME": user.home, "USER": user.name, "LOGNAME": user.name, **own}


def start_application(holder: Holder, program: Program) -> subprocess.Popen[bytes]:
    """Starts a program with everything the instance sees: its processes, its files, its network."""

    def enter() -> None:
        _enter_files(holder)
        _become(program)

    return _start(holder.pid, program, enter)


def start_sidecar(holder: Holder, program: Program, view: View) -> subprocess.Popen[bytes]:
    """Starts a sidecar: the instance's network, and what `view` leaves of the machine's files."""

    def enter() -> None:
        kernel.enter_one_of(holder.pid, "net", kernel.NEW_NETWORK)
        kernel.unshare(kernel.NEW_MOUNTS)
        kernel.mount("none", "/", flags=kernel.MOUNT_RECURSIVE | kernel.MOUNT_PRIVATE)
        os.umask(0o022)
        _furnish(view)
        _become(program)

    return _start(holder.keeper, program, enter)


def _start(processes: int, program: Program, enter: Callable[[], None]) -> subprocess.Popen[bytes]:
    """Starts a program in the process namespace of `processes`, as a child of this process all the same."""
    output = None if program.log is None else _open_log(program.log, program.user)
    reader, writer = os.pipe()
    numbers, number = os.pipe()

    def prepare() -> None:
        _be_inside(processes, number)
        terminal.take_control()
        enter()

    stdin, stdout, stderr = program.streams if output is None else (subprocess.DEVNULL, output, output)
    try:
        process = subprocess.Popen(
            list(program.argv),
            env=dict(program.env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=_reporting(prepare, writer),  # noqa: PLW1509 - this process has one thread
        )
        process.wait()  # the one that went in first; the program is the one that followed
        process.pid, process.returncode = _read_number(numbers), None
        return process
    except subprocess.SubprocessError as error:
        _collect(numbers, number)
        os.write(writer, b"\n")  # so that there is something to read
        reason = os.read(reader, _REASON_BYTES).decode(errors="replace").strip()
        raise MeshdpError(f"{program.argv[0]!r} cannot be started as {program.user.name}: {reason}") from error
    except OSError as error:
        _collect(numbers, number)
        # A closed folder in PATH answers "permission denied" for what is nowhere.
        if isinstance(error, FileNotFoundError) or shutil.which(program.argv[0], path=program.env.get("PATH")) is None:
            raise MeshdpError(f"program {program.argv[0]!r} is not found", "check command and PATH") from error
        raise MeshdpError(f"{program.argv[0]!r} cannot be started: {error}", "check command and its rights") from error
    finally:
        for descriptor in filter(None, (output, reader, writer, numbers, number)):
            os.close(descriptor)


def _be_inside(processes: int, number: int) -> None:
    """Goes on as a sibling of this process that is in the process namespace: only what is forked gets there.

    Its number is written to `number` as this process's namespace counts.
    """
    doors.take_powers(processes)
    kernel.enter_one_of(processes, "pid", kernel.NEW_PIDS)
    sibling = kernel.clone(kernel.SAME_PARENT)
    if sibling:
        os.write(number, sibling.to_bytes(_NUMBER_BYTES, "little"))
        os._exit(0)


def _collect(numbers: int, number: int) -> None:
    """Waits for a program that did not become one."""
    os.write(number, bytes(_NUMBER_BYTES))  # so that there is something to read
    if (pid := _read_number(numbers)) != 0:
        os.waitpid(pid, 0)


def _read_number(numbers: int) -> int:
    return int.from_bytes(os.read(numbers, _NUMBER_BYTES), "little")


def _reporting(enter: Callable[[], None], writer: int) -> Callable[[], None]:
    """subprocess hides what a child's preparation raised: it is told through a pipe."""

    def reporting() -> None:
        try:
            enter()
        except OSError as error:
            os.write(writer, str(error).encode())
            raise

    return reporting


def _open_log(path: Path, user: User) -> int:
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    # Programs open /dev/stdout again, by name. The file stays that of whoever reads it, where that is not root.
    if os.geteuid() == 0:
        os.fchown(output, user.uid, user.gid)
    elif user.uid != os.geteuid():
        os.fchown(output, -1, user.gid)
        os.fchmod(output, 0o660)
    return output


def _enter_files(holder: Holder) -> None:
    kernel.enter_one_of(holder.pid, "net", kernel.NEW_NETWORK)
    kernel.enter_one_of(holder.pid, "mnt", kernel.NEW_MOUNTS)


def _become(program: Program) -> None:
    """Drops everything, in the one order that works: groups before users, the bounding set before root is gone."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    user = program.user
    if sorted(os.getgroups()) != sorted(user.groups):
        os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    capabilities.confine(program.keeps)
    os.setresuid(user.uid, user.uid, user.uid)
    os.chdir(program.folder)


def _furnish(view: View) -> None:
    """Covers what is hidden and what lies behind closed folders (an interpreter in root's home), but for what is shown.

    What is shown appears without what is beside it: not the mesh's keys, nor the feeds that prove others' identities.
    """
    covered = {path: top for path in view.shown if (top := _cover(path, view.hidden)) is not None}
    descriptors = {path: os.open(path, os.O_PATH) for path in covered}
    for top in sorted({*covered.values(), *view.hidden}):
        if top.is_dir():  # not where a cover above it has taken it away
            options = "size=64k,mode=0755"
            kernel.mount("tmpfs", str(top), "tmpfs", kernel.MOUNT_NO_SUID | kernel.MOUNT_NO_DEV, options)
    for path, descriptor in sorted(descriptors.items()):
        if not path.exists():
            path.mkdir(parents=True)
            kernel.bind(f"/proc/self/fd/{descriptor}", str(path))
        os.close(descriptor)


def _cover(path: Path, hidden: Iterable[Path]) -> Path | None:
    """The outermost folder on the way to `path` that is hidden or that others may not pass through."""
    for ancestor in reversed(path.parents):
        if ancestor in hidden or not ancestor.stat().st_mode & 0o001:
            return ancestor
    return None


def interpreter_folders() -> list[Path]:
    """Every folder this Python runs from, followed through links: what a sidecar must be able to read."""
    package = Path(__file__).resolve().parents[3]
    named = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.base_exec_prefix), package]
    folders = {folder for path in named for folder in (path.absolute(), path.resolve())}
    return sorted(folders)


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REASON_BYTES = 4096
_NUMBER_BYTES = 4
_INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM")
