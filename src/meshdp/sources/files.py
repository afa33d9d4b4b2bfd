"""Turns files and directories of YAML into one resource set, again whenever they change.

In:     paths; a directory means every *.yaml and *.yml below it.
Out:    `FileSource.load` gives `Loaded`; `fileno` and `changed` say when to load again.
Limits: 8 MiB a file, 10,000 files, 16 levels of directories, 2 s of waiting for a file that is being written.
Fails:  a path or file that cannot be read, is empty, or was cut off in place is a finding, and what it said last stays.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from meshdp.documents import parse
from meshdp.errors import Finding, Where
from meshdp.resources import Loaded, decode
from meshdp.sources.inotify import Names, Touched, Watch, points
from meshdp.sources.merge import Reading, keep_last_good, merge

FILE_SIZE_LIMIT_BYTES = 8 * 1024 * 1024
FILES_LIMIT = 10_000
DEPTH_LIMIT = 16
SUFFIXES = (".yaml", ".yml")

Mark = tuple[int, ...]

WRITING_LIMIT_S = 2.0  # a writer that takes longer is read as it stands
ATTEMPTS_LIMIT = 5  # readings of what keeps changing, before one is taken and another promised
LOOK_EVERY_S = 4.0  # for what no note tells of: network file systems, writes through memory maps
GONE_LIMIT_S = 0.1  # an editor that renames a file away puts the new one there well within this


class FileSource:
    """All resources of some paths. Not safe for use by two threads at once."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._roots = tuple(paths)
        self._watch = Watch()
        self._bytes: dict[Path, bytes] = {}
        self._readings: dict[Path, Reading] = {}
        self._inodes: dict[Path, Mark] = {}
        self._doubted: set[Path] = set()  # those whose reading is not that of `_bytes`
        self._marks: dict[Path, Mark] = {}
        self._looked_at = time.monotonic()
        self._writing_since: dict[Path, float] = {}  # by real path, as the kernel tells it
        self._unsettled = False

    def fileno(self) -> int:
        """Readable when something happened; `changed` then says whether it matters."""
        return self._watch.fileno()

    def close(self) -> None:
        """Stop watching."""
        self._watch.close()

    def wait_s(self) -> float:
        """How long at most to wait for `fileno` before calling `changed`."""
        if self._unsettled:
            return 0.0
        until = self._looked_at + LOOK_EVERY_S
        if self._writing_since:
            until = min(until, min(self._writing_since.values()) + WRITING_LIMIT_S)
        return max(0.0, until - time.monotonic())

    def changed(self) -> bool:
        """Take in what happened; True when it is worth loading again."""
        happened = self._unsettled
        self._unsettled = False
        touched = self._settle()
        now = time.monotonic()
        self._writing_since = {path: self._writing_since.get(path, now) for path in touched.writing}
        overdue = [path for path, since in self._writing_since.items() if now - since >= WRITING_LIMIT_S]
        for path in overdue:
            touched.writing.discard(path)
            del self._writing_since[path]
        return happened or touched.any or bool(overdue) or self._differs_unnoted(now)

    def load(self) -> Loaded:
        """Read what there is and give everything that is in force now."""
        for _ in range(ATTEMPTS_LIMIT):
            self.changed()
            listing = _Listing(self._roots)
            is_new = self._watch.set(listing.directories)
            self._marks = {path: _mark(path) for path in listing.watched}
            fresh = {path: read(path) for path in listing.files if not self._is_being_written(path)}
            self._unsettled = self.changed() or is_new  # what changed while it was read is read again
            if not self._unsettled:
                break
        for path, text in fresh.items():
            self._take(path, text)
        self._drop_vanished(listing)
        return _joined(listing, [self._readings[path] for path in sorted(self._readings)])

    def _settle(self) -> Touched:
        """Drain the notes. A name that vanished gets a moment to come back: editors move the old file away first."""
        touched = self._watch.drain()
        happened = touched.any
        deadline = time.monotonic() + GONE_LIMIT_S
        while any(path.name.endswith(SUFFIXES) for path in touched.gone):
            left = deadline - time.monotonic()
            if left <= 0 or not self._watch.wait(left):
                break
            touched = self._watch.drain()
        touched.gone.clear()
        touched.any = happened or touched.any
        return touched

    def _differs_unnoted(self, now: float) -> bool:
        """Now and then, whether anything changed that the kernel did not tell of."""
        if now - self._looked_at < LOOK_EVERY_S:
            return False
        self._looked_at = now
        return any(_mark(path) != mark for path, mark in self._marks.items())

    def _is_being_written(self, path: Path) -> bool:
        return bool(self._writing_since) and path.resolve() in self._writing_since

    def _take(self, path: Path, text: bytes | Finding) -> None:
        """Decode a file unless its bytes are the ones already known."""
        if isinstance(text, bytes):
            inode = _mark(path)[:2]
            text = self._unless_cut(path, text, inode)
        if isinstance(text, bytes):
            if self._bytes.get(path) == text and path not in self._doubted:
                return
            self._bytes[path], self._inodes[path] = text, inode
            self._doubted.discard(path)
        else:
            self._doubted.add(path)
        self._readings[path] = keep_last_good(_reading(path, text), self._readings.get(path))

    def _unless_cut(self, path: Path, text: bytes, inode: Mark) -> bytes | Finding:
        """The text, unless it is a mere beginning of what the same file said: its writer has died, or the disk is full.

        A file that was put in place by a rename is another file, and whole.
        """
        known = self._bytes.get(path, b"")
        if len(text) >= len(known) or not known.startswith(text) or self._inodes.get(path) != inode:
            return text
        message = f"the file ends after {len(text)} of the {len(known)} bytes that it had, and is otherwise the same"
        return Finding.of("MDP0108", Where(str(path), text.count(b"\n") + 1), "", "", message)

    def _drop_vanished(self, listing: _Listing) -> None:
        """Forget files that are gone, except below a path that could not be listed: what it said last stays."""
        for path in [path for path in self._readings if path not in listing.files]:
            if not any(path.is_relative_to(lost) for lost in listing.lost):
                del self._readings[path]
                self._bytes.pop(path, None)
                self._inodes.pop(path, None)
                self._doubted.discard(path)


class _Listing:
    """The files below the roots, and the directories to watch for them."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self.files: dict[Path, None] = {}  # a set that keeps its order
        self.directories: dict[Path, Names] = {}
        self.lost: list[Path] = []
        self.findings: list[Finding] = []
        for root in roots:
            self._add_root(root)

    @property
    def watched(self) -> Iterator[Path]:
        """The files, and the directories that were listed whole."""
        yield from self.files
        yield from (path for path, names in self.directories.items() if names is None)

    def _add_root(self, root: Path) -> None:
        """Add a path that somebody named: it must be there."""
        self._watch_way(root)
        if root.is_dir():
            self._walk(root, ())
        elif root.exists():
            self._add_file(root)
        else:
            self._lose(root, "no such file or directory")

    def _walk(self, directory: Path, above: tuple[Path, ...]) -> None:
        """Add what a directory holds; `above` are the real paths of those it lies in."""
        real = directory.resolve()
        if real in above:
            self._lose(directory, "a link to a directory it lies in")
            return
        if len(above) == DEPTH_LIMIT:
            self._lose(directory, f"more than {DEPTH_LIMIT} levels of directories")
            return
        self.directories[directory] = None
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as refused:
            self._lose(directory, refused.strerror or str(refused))
            return
        for entry in entries:
            path = directory / entry.name
            if entry.is_symlink():
                self._watch_way(path)
            if entry.name.startswith("."):
                continue  # editors' swap files, `..data` of a mounted volume (its files are listed beside it)
            if path.is_dir():
                self._walk(path, (*above, real))
            elif entry.name.endswith(SUFFIXES):
                self._add_file(path)

    def _add_file(self, path: Path) -> None:
        if len(self.files) < FILES_LIMIT:
            self.files[path] = None
        elif not any(path.is_relative_to(lost) for lost in self.lost):
            self._lose(path.parent, f"more than {FILES_LIMIT} files")

    def _watch_way(self, path: Path) -> None:
        for directory, names in points(path).items():
            known = self.directories.get(directory, frozenset())
            self.directories[directory] = None if known is None else known | names

    def _lose(self, path: Path, why: str) -> None:
        self.lost.append(path)
        self.findings.append(_unreadable(path, why))


def read_once(paths: Iterable[Path]) -> Loaded:
    """Read paths as they are now, without watching them."""
    listing = _Listing(paths)
    return _joined(listing, [_reading(path, read(path)) for path in listing.files])


def listed(paths: Iterable[Path]) -> list[Path]:
    """The files that these paths stand for: themselves, and every YAML file below a folder."""
    return list(_Listing(paths).files)


def read(path: Path) -> bytes | Finding:
    """Read one regular file whole, within its limit."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return _unreadable(path, "not a regular file")
            text = file.read(FILE_SIZE_LIMIT_BYTES + 1)
    except OSError as refused:
        return _unreadable(path, refused.strerror or str(refused))
    if len(text) > FILE_SIZE_LIMIT_BYTES:
        return Finding.of(
            "MDP0103", Where(str(path), 1), "", "", f"the file is larger than {FILE_SIZE_LIMIT_BYTES} bytes"
        )
    return text


def _reading(path: Path, text: bytes | Finding) -> Reading:
    """Parse and decode one file; `whole` tells whether every document of it yielded what it should."""
    if isinstance(text, bytes) and not text.strip():
        text = Finding.of("MDP0108", Where(str(path), 1), "", "", "the file is empty")
    if isinstance(text, Finding):
        return Reading(findings=(text,), whole=False)
    documents, broken = parse(text, str(path))
    findings, resources, passed_over, whole = list(broken), [], 0, not broken
    for raw in documents:
        resource, more = decode(raw)
        findings.extend(more)
        if resource is not None:
            resources.append(resource)
        elif any(finding.severity == "error" for finding in more):
            whole = False
        else:
            passed_over += 1
    return Reading(resources, findings, passed_over, whole)


def _joined(listing: _Listing, readings: Sequence[Reading]) -> Loaded:
    resources, findings = merge(readings)
    return Loaded(resources, (*listing.findings, *findings), sum(reading.passed_over for reading in readings))


def _mark(path: Path) -> Mark:
    """What changes with a file or directory: its inode, size, modification, rights; empty when it is not there."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode


def _unreadable(path: Path, why: str) -> Finding:
    return Finding.of("MDP0107", Where(str(path), 1), "", "", why)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open so that a named pipe called something.yaml does not stop us."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
