"""Keeps logs within bounds while programs of every kind have them open, without a line lost between two looks.

In:      the log files of a mesh, open elsewhere for appending.
Out:     the same files; of a long one the oldest part is a hole, which takes no room and which readers skip.
Limits:  the newest `KEPT_BYTES` of a log always stay; it takes twice that at most, and what comes in `LOOK_EVERY_S`.
         Those who write a log may own it and do with it what they like: nothing here waits for them or follows them.
Fails:   where the file system knows no holes, one sentence for people, and the log grows.
Source:  fallocate(2). Renaming or truncating would lose what is written at that moment: the writers are not ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from meshdp.local.isolation import kernel

KEPT_BYTES = 16 * 1024 * 1024
LOOK_EVERY_S = 5.0
TAIL_BYTES = 64 * 1024


def bound(paths: Iterable[Path], kept_bytes: int = KEPT_BYTES) -> list[str]:
    """Cuts those that have grown too long; what could not be cut, in words."""
    problems: list[str] = []
    for path in paths:
        try:
            _bound(path, kept_bytes)
        except FileNotFoundError:
            continue  # nothing has been written yet
        except OSError as error:
            problems.append(f"log {path.name} grows without bound: {error.strerror}")
    return problems


def opened(path: Path, *, to_write: bool = False) -> BinaryIO:
    """A log, open without waiting: its writer may hold a lease on it (fcntl(2)), over which other openings wait."""
    flags = (os.O_RDWR if to_write else os.O_RDONLY) | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags), "r+b" if to_write else "rb")


def start(log: int) -> int:
    """Where the first whole line of an open log begins."""
    try:
        begin = os.lseek(log, 0, os.SEEK_DATA)
    except OSError:
        return 0  # it is empty, or all of it is a hole
    if begin == 0 and os.pread(log, 1, 0) != b"\0":
        return 0
    # A hole ends between two blocks: NULs, then the line that the cut was made before. More NULs are what was written.
    piece = os.pread(log, TAIL_BYTES, begin)
    return begin + len(piece) - len(piece.lstrip(b"\0"))


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log; none where there is no log."""
    try:
        with opened(path) as log:
            log.seek(max(start(log.fileno()), log.seek(0, os.SEEK_END) - TAIL_BYTES))
            return log.read(TAIL_BYTES).decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []


def _bound(path: Path, kept_bytes: int) -> None:
    if path.stat().st_blocks * _BLOCK_BYTES <= 2 * kept_bytes:
        return
    with opened(path, to_write=True) as log:
        cut = log.seek(0, os.SEEK_END) - kept_bytes
        if cut <= 0:
            return  # its writer has taken room beyond the end
        log.seek(cut)
        cut += log.read(TAIL_BYTES).find(b"\n") + 1
        kernel.punch_hole(log.fileno(), cut)


_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's is
