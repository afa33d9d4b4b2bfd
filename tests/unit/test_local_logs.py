"""Logs within bounds: what is cut, what stays, and that nothing written meanwhile is lost."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import time
from pathlib import Path

from meshdp.local import logs

KEPT = 256 * 1024


def test_the_newest_lines_stay_whole_and_the_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    line = "line {:07d} " + "x" * 100 + "\n"
    with path.open("a") as writer:
        for number in range(10_000):
            writer.write(line.format(number))
        writer.flush()
        assert logs.bound([path], KEPT) == []
        writer.write(line.format(10_000))
    with path.open("rb") as log:
        log.seek(logs.start(log.fileno()))
        found = log.read().decode().splitlines(keepends=True)
    first = int(found[0].split()[1])
    assert found == [line.format(number) for number in range(first, 10_001)], "no line is torn, none is missing"
    assert KEPT - 200 <= sum(map(len, found)) <= KEPT + 200
    assert path.stat().st_blocks * 512 <= KEPT + 16 * 1024
    assert logs.last_lines(path, 1) == [line.format(10_000).strip()]


def test_short_and_missing_logs_are_left_alone(tmp_path: Path) -> None:
    short = tmp_path / "short.log"
    short.write_text("one\ntwo\n")
    assert logs.bound([short, tmp_path / "missing.log"], KEPT) == []
    assert short.read_text() == "one\ntwo\n"
    assert logs.last_lines(short, 8) == ["one", "two"]
    assert logs.last_lines(tmp_path / "missing.log", 8) == []


def test_a_log_of_nuls_alone_does_not_hold_its_reader_up(tmp_path: Path) -> None:
    """An application can make its log as long as the file system allows, with nothing in it."""
    path = tmp_path / "a.log"
    path.write_bytes(b"\0")
    os.truncate(path, 1 << 40)
    before = time.monotonic()
    logs.last_lines(path, 8)
    assert time.monotonic() - before < 10, "reading it would take hours"


def test_a_log_that_grows_while_it_is_read_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"line\n" * 100_000)
    assert len(logs.last_lines(path, 1 << 20)) <= logs.TAIL_BYTES // len("line\n") + 1


def test_room_beyond_the_end_of_a_log_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with path.open("w") as log:
        keep_size = 1
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.fallocate(log.fileno(), keep_size, ctypes.c_long(0), ctypes.c_long(4 * KEPT)) == 0
        log.write("one\n")
    assert path.stat().st_blocks * 512 > 2 * KEPT
    assert logs.bound([path], KEPT) == []
    assert logs.last_lines(path, 1) == ["one"]


def test_a_lease_on_a_log_does_not_hold_the_mesh_up(tmp_path: Path) -> None:
    """Whoever owns a file may delay its opening for 45 seconds: the mesh would stand still for every workload."""
    path = tmp_path / "a.log"
    path.write_bytes(b"line\n" * KEPT)
    held, holding = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # asked to let go, it does not
        fcntl.fcntl(os.open(path, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)
        os.write(holding, b"!")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(held, 1) == b"!"
        before = time.monotonic()
        problems = logs.bound([path], KEPT)
        assert time.monotonic() - before < 20, "of the 45 s"
        assert problems == ["log a.log grows without bound: Resource temporarily unavailable"]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(held)
        os.close(holding)
    assert logs.bound([path], KEPT) == []


def test_a_link_in_place_of_a_log_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret\n" * KEPT)
    link = tmp_path / "a.log"
    link.symlink_to(secret)
    assert logs.last_lines(link, 1) == []
    assert len(logs.bound([link], KEPT)) == 1
    assert secret.read_text() == "secret\n" * KEPT
