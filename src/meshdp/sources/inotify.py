"""Turns the kernel's notes about changed directories into "look again", "this name", or "not yet".

In:     the paths to watch, from `files`.
Out:    `Watch.drain` gives the `Touched` of all notes so far; `Watch.fileno` polls readable when there are any.
Limits: one read of 64 KiB at a time; the kernel's own bounds on watches and on queued notes.
Fails:  OSError where the kernel refuses another watch, naming the sysctl that raises the bound.
Source: inotify(7). Directories are watched and never files: a rename over a file would silence a watch on it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

BUFFER_SIZE_BYTES = 65_536

MODIFY = 0x0000_0002
CLOSE_WRITE = 0x0000_0008
MOVED_FROM = 0x0000_0040
MOVED_TO = 0x0000_0080
CREATE = 0x0000_0100
DELETE = 0x0000_0200
DELETE_SELF = 0x0000_0400
MOVE_SELF = 0x0000_0800
QUEUE_OVERFLOW = 0x0000_4000
ONLY_DIRECTORY = 0x0100_0000

_MASK = MODIFY | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF | ONLY_DIRECTORY
_HEADER = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows

Names = frozenset[str] | None  # None: every name in the directory counts


@dataclass
class Touched:
    """What the notes say, by real paths. A path is in at most one of `writing` and `gone`."""

    any: bool = False
    writing: set[Path] = field(default_factory=set)  # opened and changed, not closed yet
    gone: set[Path] = field(default_factory=set)  # removed or renamed away, and nothing took the name yet


class Watch:
    """A set of watched directories, with the state of the files in them."""

    def __init__(self) -> None:
        self._fd = _init()
        self._directories: dict[int, tuple[Path, Names]] = {}
        self._state = Touched()

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._fd

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)

    def set(self, wanted: Mapping[Path, Names]) -> bool:
        """Watch exactly these directories; what is not there is left out. True when one was not watched before."""
        fresh: dict[int, tuple[Path, Names]] = {}
        for path, names in wanted.items():
            number = self._add(path)  # the same number for every name of one directory
            if number is not None:
                fresh[number] = (path.resolve(), _join(names, fresh[number][1]) if number in fresh else names)
        for number in self._directories.keys() - fresh.keys():
            _libc.inotify_rm_watch(self._fd, number)  # fails when its directory went away, and with it the watch
        is_new = bool(fresh.keys() - self._directories.keys())
        self._directories = fresh
        return is_new

    def drain(self) -> Touched:
        """Read all notes that wait. Files being written and names gone stay known until a later note settles them."""
        self._state.any = False
        while True:
            try:
                notes = os.read(self._fd, BUFFER_SIZE_BYTES)
            except BlockingIOError:
                return self._state
            offset = 0
            while offset < len(notes):
                number, mask, _, length = _HEADER.unpack_from(notes, offset)
                offset += _HEADER.size
                name = os.fsdecode(notes[offset : offset + length].rstrip(b"\0"))
                offset += length
                self._note(number, mask, name)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the next note."""
        return bool(select.select([self._fd], [], [], timeout_s)[0])

    def _note(self, number: int, mask: int, name: str) -> None:
        if mask & QUEUE_OVERFLOW:
            self._state = Touched(any=True)
            return
        directory, names = self._directories.get(number, (None, None))
        if directory is None or (name and names is not None and name not in names):
            return
        path = directory / name
        self._state.any = True
        self._state.gone.discard(path)
        if mask & (CLOSE_WRITE | MOVED_TO):
            self._state.writing.discard(path)
        elif mask & (MOVED_FROM | DELETE):
            self._state.writing.discard(path)
            self._state.gone.add(path)
        elif mask & MODIFY or (mask & CREATE and _is_empty_file(path)):
            self._state.writing.add(path)

    def _add(self, path: Path) -> int | None:
        number = int(_libc.inotify_add_watch(self._fd, os.fsencode(path), _MASK))
        if number >= 0:
            return number
        code = ctypes.get_errno()
        if code == errno.ENOSPC:
            raise OSError(code, "too many watched directories: raise the sysctl fs.inotify.max_user_watches", str(path))
        if code in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP):
            return None
        raise OSError(code, os.strerror(code), str(path))


def points(path: Path) -> dict[Path, frozenset[str]]:
    """Names whose change can make `path` mean another file, by directory: itself and each link on the way."""
    found: dict[Path, frozenset[str]] = {}
    pending = list(path.absolute().parts[1:])
    here = Path("/")
    for _ in range(_STEPS_LIMIT):
        if not pending:
            break
        name = pending.pop(0)
        if name == "..":
            here = here.parent
            continue
        entry = here / name
        if entry.is_symlink():
            found[here] = found.get(here, frozenset()) | {name}
            target = Path(os.readlink(entry))
            pending[:0] = target.parts[1:] if target.is_absolute() else target.parts
            here = Path("/") if target.is_absolute() else here
            continue
        if not pending or not entry.exists():
            found[here] = found.get(here, frozenset()) | {name}
            break
        here = entry
    return found


def _join(first: Names, second: Names) -> Names:
    return None if first is None or second is None else first | second


def _is_empty_file(path: Path) -> bool:
    """True for a file just made by open(): its bytes are still to come. A link or a hard link is whole at once."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return (status.st_mode & 0o170000) == 0o100000 and status.st_size == 0


def _init() -> int:
    fd = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, "too many inotify instances: raise the sysctl fs.inotify.max_user_instances")
    return fd


_STEPS_LIMIT = 400  # path components and links together; the kernel follows 40 links
_libc = ctypes.CDLL(None, use_errno=True)
