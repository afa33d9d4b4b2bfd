"""Turns the Linux calls that CPython 3.11 lacks (namespaces, mounts, processes in them, holes) into plain functions.

Fails: OSError with the kernel's errno and the call's name; the caller says what it means and how to cure it.
Source: unshare(2), setns(2), mount(2), clone(2), prctl(2), fallocate(2), keyctl(2), mount_namespaces(7),
        user_namespaces(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import signal
from collections.abc import Iterator
from pathlib import Path

NEW_MOUNTS = 0x0002_0000
NEW_USERS = 0x1000_0000
NEW_PIDS = 0x2000_0000
NEW_NETWORK = 0x4000_0000

SAME_PARENT = 0x0000_8000

MOUNT_READ_ONLY = 0x1
MOUNT_NO_SUID = 0x2
MOUNT_NO_DEV = 0x4
MOUNT_REMOUNT = 0x20
MOUNT_BIND = 0x1000
MOUNT_RECURSIVE = 0x4000
MOUNT_PRIVATE = 0x4_0000


def unshare(kinds: int) -> None:
    """Moves this process (for processes: its future children) into new namespaces."""
    _checked("unshare", _libc.unshare(kinds))


def enter(descriptor: int, kind: int) -> None:
    """Moves this thread (for processes: its future children) into the namespace behind an open file."""
    _checked("setns", _libc.setns(descriptor, kind))


def enter_one_of(pid: int, name: str, kind: int) -> None:
    """Enters one namespace of a process: `name` is its file in /proc/PID/ns."""
    descriptor = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(descriptor, kind)
    finally:
        os.close(descriptor)


def clone(flags: int) -> int:
    """Forks a process that has one thread: like os.fork, with flags of clone(2). 0 in the child.

    SAME_PARENT makes the child the caller's sibling. Python's own preparations do not run: one thread needs none.
    """
    # A child of the same parent ends with the signal its sibling would end with, and may not name one.
    exit_signal = 0 if flags & SAME_PARENT else signal.SIGCHLD
    words = (ctypes.c_uint64 * 8)(flags, 0, 0, 0, exit_signal, 0, 0, 0)
    pid: int = _libc_with_lock.syscall(_SYS_CLONE3, words, ctypes.c_size_t(ctypes.sizeof(words)))
    if pid < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"clone: {os.strerror(code)}")
    return pid


def mount(source: str, target: str, filesystem: str = "", flags: int = 0, options: str = "") -> None:
    """Mounts, binds or remounts; an empty file system or option is passed as none."""
    status = _libc.mount(
        source.encode(), target.encode(), filesystem.encode() or None, ctypes.c_ulong(flags), options.encode() or None
    )
    _checked(f"mount on {target}", status)


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Binds a file or folder over another, which must exist; read-only holds for what is mounted below, too."""
    target = os.path.realpath(target)  # the name under which the kernel lists what is mounted
    mount(source, target, flags=MOUNT_BIND | MOUNT_RECURSIVE)
    if read_only:
        for point, kept in _mounted_at_or_below(target):
            mount("none", point, flags=MOUNT_BIND | MOUNT_REMOUNT | MOUNT_READ_ONLY | kept)


def punch_hole(descriptor: int, end: int) -> None:
    """Gives the room of a file's first `end` bytes back; they read as NULs, and what is appended meanwhile is safe."""
    _checked("fallocate", _libc.fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(end)))


def die_with_parent() -> None:
    """Has the kernel kill this process when the thread that made it ends; survives exec of ordinary programs."""
    _checked("prctl", _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0))


def leave_keys() -> None:
    """Gives this process and its children to come a session keyring of their own: who inherits one reads its keys."""
    joined = _libc.syscall(_SYS_KEYCTL.get(platform.machine(), _SYS_KEYCTL_ELSEWHERE), _JOIN_SESSION_KEYRING, None)
    # A kernel without keys has none to lose; who may not ask for a keyring (in a container) can read none either.
    if joined < 0 and ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        raise OSError(ctypes.get_errno(), f"keyctl: {os.strerror(ctypes.get_errno())}")


@contextlib.contextmanager
def network_of(pid: int) -> Iterator[None]:
    """Runs its body in the network namespace of a process: sockets made there stay there. Never await inside."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter_one_of(pid, "net", NEW_NETWORK)
        try:
            yield
        finally:
            enter(home, NEW_NETWORK)
    finally:
        os.close(home)


def started_at(pid: int) -> int | None:
    """The process's start time in clock ticks, which tells it from a later one with the same number; None: gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[_STAT_START_AFTER_NAME])


def children() -> set[int]:
    """The children of this process, those that have ended and wait to be collected among them."""
    found = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    return {int(pid) for pids in found for pid in pids}


def _mounted_at_or_below(target: str) -> list[tuple[str, int]]:
    """Mount points with the flags that they must keep: who did not set them may not clear them."""
    rows = [row.split() for row in Path("/proc/self/mountinfo").read_text().splitlines()]
    points = {row[_MOUNTINFO_POINT]: row[_MOUNTINFO_OPTIONS].split(",") for row in rows}
    below = {point: options for point, options in points.items() if f"{point}/".startswith(f"{target}/")}
    return sorted((point, sum(_LASTING_FLAGS.get(option, 0) for option in below[point])) for point in below)


def _checked(call: str, status: int) -> None:
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


_PR_SET_PDEATHSIG = 1
_SYS_CLONE3 = 435  # the same on every architecture
_STAT_START_AFTER_NAME = 19
_SYS_KEYCTL = {"x86_64": 250, "armv7l": 311, "i686": 288, "ppc64le": 271, "s390x": 280}
_SYS_KEYCTL_ELSEWHERE = 219  # where calls are numbered alike
_JOIN_SESSION_KEYRING = 1
_MOUNTINFO_POINT, _MOUNTINFO_OPTIONS = 4, 5
_LASTING_FLAGS = {
    "nosuid": MOUNT_NO_SUID,
    "nodev": MOUNT_NO_DEV,
    "noexec": 0x8,
    "noatime": 0x400,
    "nodiratime": 0x800,
    "relatime": 0x20_0000,
}
_KEEP_SIZE, _PUNCH_HOLE = 0x1, 0x2

_libc = ctypes.CDLL(None, use_errno=True)
_libc_with_lock = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock, so that a child has it, too
