"""What a machine can lack: descriptors, ports, room on the disk, a reader of the log, a steady clock.

In:     a pair whose sidecars are started under limits; its traffic.
Out:    live traffic goes on, new work waits or is refused with a reason, and everything recovers by itself.
Source: attack-cases 2.16, PR-04, PR-07, PR-14 (processor time and memory are test_process_shares.py's); 2.19 (descriptors near their limit, access log failing).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_swap import deny
from tests.support import wire
from tests.support.mesh import Mesh, get
from tests.support.pair import PATIENCE_S, SERVICE_IP, TCP_PORT, Side

STUCK_S = 10.0


@pytest.fixture
def starved(mesh: Mesh) -> Iterator[Mesh]:
    """The pair; whatever a test started its sidecars under is taken back."""
    yield mesh
    for side in (mesh.pair.client, mesh.pair.server):
        side.wrapper, side.environment, side.output = [], {}, None
        restart(mesh, side)
    assert mesh.status() == 200


def restart(mesh: Mesh, side: Side, *arguments: str) -> None:
    side.stop()
    side.start(mesh.pair.configuration, list(arguments))


def descriptors(side: Side) -> int:
    assert side.process is not None
    return len(os.listdir(f"/proc/{side.process.pid}/fd"))


def cpu_s(side: Side) -> float:
    assert side.process is not None
    fields = Path(f"/proc/{side.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def metric(side: Side, name: str) -> float:
    lines = side.admin("/stats/prometheus").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


# --- descriptors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [64, 256, 1024])
@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_pr_04_out_of_descriptors(starved: Mesh, direction: str, limit: int) -> None:
    """More connections than descriptors: those that are served go on, probes are answered, and it recovers alone."""
    side = starved.pair.client if direction == "outbound" else starved.pair.server
    side.wrapper = ["prlimit", f"--nofile={limit}:{limit}"]
    restart(starved, side)
    with wire.connect(starved.pair, direction, TCP_PORT) as live, contextlib.ExitStack() as stack:
        live.sendall(b"E")
        for _ in range(limit):
            with contextlib.suppress(OSError):
                extra = stack.enter_context(wire.connect(starved.pair, direction, TCP_PORT))
                extra.sendall(b"E")
        before = cpu_s(side)
        for number in range(20):
            live.sendall(b"live %02d" % number)
            assert live.recv(7, socket.MSG_WAITALL) == b"live %02d" % number
            time.sleep(0.05)
        assert cpu_s(side) - before < 0.5, "it waits for descriptors instead of asking for them all the time"
        assert descriptors(side) <= limit
        side.wait_ready()  # a probe has a descriptor of its own
    assert starved.origin.wait(lambda: starved.status("/recovered", direction) == 200)


def test_pr_04_a_full_sidecar_refuses_with_a_reason(starved: Mesh) -> None:
    server = starved.pair.server
    server.wrapper = ["prlimit", "--nofile=64:64"]
    restart(starved, server)
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            with contextlib.suppress(OSError):
                stack.enter_context(wire.connect(starved.pair, "inbound", TCP_PORT)).sendall(b"E")
        counted = starved.origin.wait(lambda: 'reason="overload"' in server.admin("/stats/prometheus"))
        assert counted, [line for line in server.admin("/stats/prometheus").splitlines() if "reason" in line]


def test_pr_04_out_of_ephemeral_ports(starved: Mesh) -> None:
    """No port left towards the upstream (EADDRNOTAVAIL): 503 with a reason at once, and back when there is one."""
    client = starved.pair.client
    restart(starved, client)
    inside = f"/run/netns/{client.namespace}"

    def ports(text: str) -> None:
        script = f"echo '{text}' > /proc/sys/net/ipv4/ip_local_port_range"
        subprocess.run(["nsenter", f"--net={inside}", "sh", "-c", script], check=True)

    with client.connect((SERVICE_IP, 9080)) as connection, contextlib.ExitStack() as stack:
        ports("61000 61003")
        try:
            for port in range(61000, 61004):  # all of them are taken, by sockets of their own
                stack.enter_context(client.inside(lambda port=port: socket.create_server(("0.0.0.0", port))))
            connection.sendall(get("/", "Connection: keep-alive"))
            started = time.monotonic()
            heard = wire.listen(connection, 1)
            assert heard.statuses == [503], heard
            assert time.monotonic() - started < 5, "at once: no connect timeout is waited for"
        finally:
            ports("32768 60999")
        connection.sendall(get())
        assert wire.listen(connection, 1).statuses == [200]


# --- the disk and the log --------------------------------------------------------------------------------------------


def asked_many(mesh: Mesh, count: int = 200) -> None:
    with wire.connect(mesh.pair, "outbound") as connection:
        for _ in range(count):
            connection.sendall(get())
            assert wire.listen(connection, 1).statuses == [200]


def dropped(side: Side) -> int:
    return int(metric(side, "meshdp_access_log_dropped_total"))


def test_pr_07_log_on_a_full_device(starved: Mesh) -> None:
    client = starved.pair.client
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        client.output = full
        restart(starved, client)
        asked_many(starved)
        assert starved.origin.wait(lambda: dropped(client) >= 200), dropped(client)
        starved.pair.configure("kind: [broken\n", wait=False)  # which the sidecar would like to complain about
        asked_many(starved, 20)
        starved.pair.configure("# none\n", wait=False)
        stop_in_order(client)
    finally:
        os.close(full)


def test_pr_07_log_file_on_a_full_disk(starved: Mesh, tmp_path: Path) -> None:
    """A disk of 64 KiB: lines that fit are whole, lines that do not are counted, and with room lines come again."""
    client = starved.pair.client
    with tempfile.TemporaryDirectory(prefix="mdpt-disk-") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0777", "tmpfs", folder], check=True)
        try:
            log = Path(folder) / "access.log"
            restart(starved, client, "--access-log", str(log))
            asked_many(starved, 300)
            assert starved.origin.wait(lambda: dropped(client) > 0)
            os.truncate(log, 0)
            asked_many(starved, 5)
            assert starved.origin.wait(lambda: len(whole_lines(log)) >= 5), log.read_text()
            lines, whole = log.read_text().splitlines(), whole_lines(log)
            assert len(lines) - len(whole) <= 1, "one line was cut; those after it are lines of their own"
        finally:
            client.stop()
            subprocess.run(["umount", folder], check=True)


def whole_lines(log: Path) -> list[str]:
    lines = log.read_text().splitlines()
    return [line for line in lines if line.startswith("{") and line.endswith("}") and json.loads(line)]


def test_pr_07_log_pipe_whose_reader_has_stopped(starved: Mesh) -> None:
    """The pipe is full and nobody reads: traffic goes on, what is lost is counted, and SIGTERM still ends the sidecar."""
    client = starved.pair.client
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
        client.output = writer
        restart(starved, client)
        with Steady(starved) as steady:
            # More than the queue and all its buffers hold.
            client.admin("/ready")
            for _ in range(8):
                asked_many(starved, 400)
        assert steady.slowest_s < STUCK_S, "a write that waits for its reader would wait for ever"
        assert starved.origin.wait(lambda: dropped(client) > 0)
        starved.pair.configure("kind: [broken\n", wait=False)
        time.sleep(0.3)
        starved.pair.configure("# none\n", wait=False)
        assert starved.status() == 200
        stop_in_order(client)
    finally:
        os.close(reader)
        os.close(writer)


READ_ONLY = 'mount -o remount,bind,ro / && ! touch /written 2>/dev/null && exec "$@"'


def test_pr_07_a_root_that_is_read_only(starved: Mesh) -> None:
    """A sidecar writes nothing but its log: it starts, serves, takes changes and ends where nothing can be written."""
    server = starved.pair.server
    server.wrapper = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh"]
    restart(starved, server)
    assert starved.status("/", "inbound") == 200
    before = server.digest()
    starved.pair.configure(deny("/secret"))
    assert server.digest() != before
    assert starved.status("/secret", "inbound") == 403
    starved.pair.configure("# none\n")
    stop_in_order(server)


def stop_in_order(side: Side) -> None:
    assert side.process is not None
    side.process.send_signal(signal.SIGTERM)
    assert side.process.wait(PATIENCE_S) == 0


class Steady:
    """Asks all the time on a connection of its own; the slowest answer is remembered."""

    def __init__(self, mesh: Mesh) -> None:
        self.slowest_s = 0.0
        self.served = 0
        self._mesh = mesh
        self._stop = threading.Event()
        self._failures: list[object] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self._failures == []

    def _run(self) -> None:
        with wire.connect(self._mesh.pair, "outbound") as connection:
            while not self._stop.is_set():
                started = time.monotonic()
                connection.sendall(get("/steady"))
                heard = wire.listen(connection, 1)
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                self.served += 1
                if heard.statuses != [200]:
                    self._failures.append(heard)
                    return
                time.sleep(0.01)


# --- time ------------------------------------------------------------------------------------------------------------

CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (id == CLOCK_REALTIME) {
        long offset = 0;
        FILE *file = fopen(getenv("MDPT_CLOCK"), "re");
        if (file) { if (fscanf(file, "%ld", &offset) != 1) offset = 0; fclose(file); }
        now->tv_sec += offset;
    }
    return result;
}
"""


@pytest.fixture
def clock(starved: Mesh) -> Iterator[Path]:
    """The sidecars see a wall clock that the test moves; the machine's own stays."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to build a movable clock with")
    with tempfile.TemporaryDirectory(prefix="mdpt-clock-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "clock.c").write_text(CLOCK)
        offset = folder / "offset"
        offset.write_text("0")
        command = ["cc", "-shared", "-fPIC", "-o", str(folder / "clock.so"), str(folder / "clock.c"), "-ldl"]
        subprocess.run(command, check=True)
        for side in (starved.pair.client, starved.pair.server):
            side.environment = {"LD_PRELOAD": str(folder / "clock.so"), "MDPT_CLOCK": str(offset)}
            restart(starved, side)
        yield offset
        for side in (starved.pair.client, starved.pair.server):
            side.stop()


@pytest.mark.parametrize("jump_s", [1800, -30], ids=["ahead", "back"])
def test_pr_14_the_wall_clock_jumps(starved: Mesh, clock: Path, jump_s: int) -> None:
    """Half an hour ahead, half a minute back: nothing times out, nothing waits longer, new connections are made."""
    with (
        wire.connect(starved.pair, "outbound") as idle,
        wire.connect(starved.pair, "outbound") as slow,
        wire.connect(starved.pair, "outbound", TCP_PORT) as stream,
        wire.connect(starved.pair, "inbound") as half,
    ):
        idle.sendall(get())
        assert wire.listen(idle, 1).statuses == [200]
        stream.sendall(b"Ehello")
        assert stream.recv(5, socket.MSG_WAITALL) == b"hello"
        slow.sendall(get("/slow/1500"))
        half.sendall(b"GET / HTTP/1.1\r\n")
        clock.write_text(str(jump_s))
        certificate = json.loads(starved.pair.client.admin("/certs"))["certificate"]
        assert certificate["not_before_unix"] < time.time() + jump_s < certificate["not_after_unix"]
        time.sleep(0.5)  # several sweeps of every timer
        half.sendall(f"Host: server\r\nX-Nonce: {wire.nonce().decode()}\r\n\r\n".encode())
        for connection in (half, slow):
            assert wire.listen(connection, 1).statuses == [200]
        idle.sendall(get())
        assert wire.listen(idle, 1).statuses == [200]
        stream.sendall(b"again")
        assert stream.recv(5, socket.MSG_WAITALL) == b"again"
        assert starved.status() == 200
        line = starved.logged(starved.pair.client, 0, lambda line: line["path"] == "/slow/1500")
        assert 1_400 < line["duration"] < 10_000, "durations are of the steady clock"
