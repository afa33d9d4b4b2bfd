"""Turns the few Linux calls that CPython 3.11 lacks (namespaces, mounts, capabilities, holes) into plain functions.

Fails: OSError with the kernel's errno and the call's name; the caller says what it means and how to cure it.
Source: unshare(2), setns(2), mount(2), prctl(2), fallocate(2), capabilities(7), user_namespaces(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

NEW_MOUNTS = 0x0002_0000
NEW_PIDS = 0x2000_0000
NEW_NETWORK = 0x4000_0000

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


def mount(source: str, target: str, filesystem: str = "", flags: int = 0, options: str = "") -> None:
    """Mounts, binds or remounts; an empty file system or option is passed as none."""
    status = _libc.mount(
        source.encode(), target.encode(), filesystem.encode() or None, ctypes.c_ulong(flags), options.encode() or None
    )
    _checked(f"mount on {target}", status)


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Binds a file or folder over another, which must exist; read-only holds for what is mounted below, too."""
    mount(source, target, flags=MOUNT_BIND | MOUNT_RECURSIVE)
    if read_only:
        for point in _mounted_at_or_below(target):
            mount("none", point, flags=MOUNT_BIND | MOUNT_REMOUNT | MOUNT_READ_ONLY)


def punch_hole(descriptor: int, end: int) -> None:
    """Gives the room of a file's first `end` bytes back; they read as NULs, and what is appended meanwhile is safe."""
    _checked("fallocate", _libc.fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(end)))


def die_with_parent() -> None:
    """Has the kernel kill this process when the thread that made it ends; survives exec of ordinary programs."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def drop_capabilities() -> None:
    """Empties the bounding set and forbids new privileges: no program started from here gets a capability again.

    The capabilities that the process holds go with the next exec: the bounding set cuts what root would gain there.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for capability in range(_last_capability() + 1):
        _prctl(_PR_CAPBSET_DROP, capability)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


@contextlib.contextmanager
def network_of(pid: int) -> Iterator[None]:
    """Runs its body in the network namespace of a process: sockets made there stay there. Never await inside."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(target, NEW_NETWORK)
        finally:
            os.close(target)
        try:
            yield
        finally:
            enter(home, NEW_NETWORK)
    finally:
        os.close(home)


@contextlib.contextmanager
def children_in_processes_of(pid: int | None) -> Iterator[None]:
    """Has children forked in its body start in the process namespace of `pid`, or in a new one for None.

    No thread can be started inside; the caller forks and leaves.
    """
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if pid is None:
            unshare(NEW_PIDS)
        else:
            target = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            try:
                enter(target, NEW_PIDS)
            finally:
                os.close(target)
        try:
            yield
        finally:
            enter(home, NEW_PIDS)
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


def _mounted_at_or_below(target: str) -> list[str]:
    rows = Path("/proc/self/mountinfo").read_text().splitlines()
    points = {row.split()[4] for row in rows}
    return sorted(point for point in points if point == target or point.startswith(f"{target}/"))


def _last_capability() -> int:
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def _prctl(option: int, first: int, second: int = 0) -> None:
    _checked("prctl", _libc.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), 0, 0))


def _checked(call: str, status: int) -> None:
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_STAT_START_AFTER_NAME = 19
_KEEP_SIZE, _PUNCH_HOLE = 0x1, 0x2

_libc = ctypes.CDLL(None, use_errno=True)
