"""A share of a machine: little processor time, busy neighbours, memory near its limit, and very many who come at once.

In:     a pair whose sidecars are put into control groups of the test's own, or onto one processor with others; their traffic.
Out:    slow but whole: nothing is cut by a timer of our own, new work is refused before anybody is killed, and service recovers.
Limits: `STORM` connections at once; `MESHDP_STORM` sets more. What each test is short of is said in test_process.py.
Source: attack-cases 2.16, PR-05, PR-06, PR-12.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack import test_process_faults
from tests.attack.test_process_faults import Steady, restart
from tests.support import wire
from tests.support.mesh import Mesh, get
from tests.support.pair import SERVER_IP, SERVICE_IP, TCP_PORT, Side

STORM = int(os.environ.get("MESHDP_STORM", "1000"))
NEIGHBOURS = 16
starved = test_process_faults.starved


# --- processor time --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quota(percent: int, pid: int) -> Iterator[None]:
    """A control group of this test's own; skipped where none can be made."""
    name = f"mdpt-{os.getpid()}"
    first, second = Path("/sys/fs/cgroup/cpu") / name, Path("/sys/fs/cgroup") / name
    group = first if first.parent.is_dir() else second
    try:
        group.mkdir()
        if group == first:
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text(str(percent * 1000))
        else:
            (group / "cpu.max").write_text(f"{percent * 1000} 100000")
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group with a quota can be made here: {error}")
    try:
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        empty(group)


def empty(group: Path) -> None:
    """Takes a control group away; whoever is in it goes where the group was made."""
    for line in (group / "cgroup.procs").read_text().split():
        (group.parent / "cgroup.procs").write_text(line)
    group.rmdir()


def test_pr_06_five_percent_of_a_processor(starved: Mesh) -> None:
    """Slow, and nothing else: no timer of its own cuts what it has no time to serve."""
    server = starved.pair.server
    restart(starved, server)
    assert server.process is not None
    with quota(5, server.process.pid), contextlib.ExitStack() as stack:
        asked = [stack.enter_context(wire.connect(starved.pair, "outbound")) for _ in range(30)]
        for connection in asked:
            connection.sendall(get())
        heard = [wire.listen(connection, 1, 60) for connection in asked]
        assert [each.statuses for each in heard] == [[200]] * 30
    assert starved.status() == 200


@pytest.fixture
def crowded(starved: Mesh) -> Iterator[Mesh]:
    """The server's sidecar shares one processor with sixteen who never rest."""
    server = starved.pair.server
    restart(starved, server)
    assert server.process is not None
    processor = {min(os.sched_getaffinity(0))}
    for task in os.listdir(f"/proc/{server.process.pid}/task"):
        os.sched_setaffinity(int(task), processor)
    spin = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {processor})\nwhile True: pass"]
    neighbours = [subprocess.Popen(spin) for _ in range(NEIGHBOURS)]
    try:
        yield starved
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def test_pr_06_sixteen_busy_neighbours(crowded: Mesh) -> None:
    """It gets its turn: every request is answered, on kept and on new connections."""
    with Steady(crowded) as steady, contextlib.ExitStack() as stack:
        asked = [stack.enter_context(wire.connect(crowded.pair, "outbound")) for _ in range(30)]
        for connection in asked:
            connection.sendall(get())
        assert [wire.listen(connection, 1, 60).statuses for connection in asked] == [[200]] * 30
    assert steady.served > 0


# --- memory ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def memory_group(ballast_mib: int) -> Iterator[Path]:
    """A control group with a memory controller; skipped where none can be made.

    Somebody in it holds so much: a few percent of a sidecar alone are less than what the kernel may need before the next look at it,
    a quarter of a second later on a machine that has the time.
    """
    first = Path("/sys/fs/cgroup/memory")
    group = (first if first.is_dir() else first.parent) / f"mdpt-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        if not usage_file(group).exists():
            pytest.skip("control groups here have no memory controller")
        held = f"held = bytearray(b'x') * ({ballast_mib} << 20); print('held', flush=True); input()"
        with subprocess.Popen(
            [*entering(group), sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as ballast:
            assert ballast.stdout is not None and ballast.stdout.readline() == b"held\n"
            yield group
            ballast.kill()
    finally:
        empty(group)


def entering(group: Path) -> list[str]:
    """The beginning of a command line that runs in a group."""
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]


def usage_file(group: Path) -> Path:
    return group / ("memory.usage_in_bytes" if group.parent.name == "memory" else "memory.current")


def test_pr_05_memory_near_its_limit(starved: Mesh) -> None:
    """New connections are refused with a reason, those that are served go on, nobody is killed, and it recovers alone."""
    server = starved.pair.server
    with memory_group(80) as group:
        limit = group / ("memory.limit_in_bytes" if group.parent.name == "memory" else "memory.max")
        server.wrapper = entering(group)
        restart(starved, server)
        with wire.connect(starved.pair, "inbound", TCP_PORT) as live:
            live.sendall(b"Ehello")
            assert live.recv(5, socket.MSG_WAITALL) == b"hello"
            limit.write_text(str(needed(group) * 103 // 100))
            assert starved.origin.wait(lambda: refused_by(starved)), usage_file(group).read_text()
            peers = len(starved.opaque.peers)
            assert 'reason="overload"' in server.admin("/stats/prometheus")
            for number in range(20):
                live.sendall(b"live %02d" % number)
                assert live.recv(7, socket.MSG_WAITALL) == b"live %02d" % number
            assert refused_by(starved)
            assert len(starved.opaque.peers) == peers, "nothing of what is refused reaches the application"
            server.wait_ready()
            limit.write_text(str(1 << 30))
            assert starved.origin.wait(lambda: not refused_by(starved))
        server.stop()


def test_pr_05_memory_that_is_free_again_is_given_back(starved: Mesh) -> None:
    """Callers with long heads that never end fill the memory up to where others are refused; once they are gone, under the same limit,
    there is room again: the heap does not keep for nobody what new callers need."""
    server = starved.pair.server
    with memory_group(40) as group:
        limit = group / ("memory.limit_in_bytes" if group.parent.name == "memory" else "memory.max")
        server.wrapper = entering(group)
        restart(starved, server)
        with contextlib.ExitStack() as stack:
            for _ in range(160):
                connection = stack.enter_context(wire.connect(starved.pair, "inbound"))
                wire.send_pieces(connection, [get("/", "X-Long: " + "x" * 55_000)[:-2]])
            limit.write_text(str(needed(group) * 104 // 100))
            assert starved.origin.wait(lambda: refused_by(starved)), usage_file(group).read_text()
        assert starved.origin.wait(lambda: not refused_by(starved)), (needed(group), limit.read_text())
        assert server.process is not None and server.process.poll() is None
        limit.write_text(str(1 << 30))
        server.stop()


def needed(group: Path) -> int:
    """What a group uses without the caches that the kernel drops first."""
    name = "total_inactive_file" if group.parent.name == "memory" else "inactive_file"
    lines = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
    return int(usage_file(group).read_text()) - next(int(value) for key, value in lines if key == name)


def refused_by(mesh: Mesh) -> bool:
    with wire.connect(mesh.pair, "inbound", TCP_PORT) as attempt:
        wire.send_pieces(attempt, [b"Ehello"])
        try:
            return attempt.recv(5, socket.MSG_WAITALL) != b"hello"
        except OSError:
            return True


# --- many at once ----------------------------------------------------------------------------------------------------


def test_pr_12_a_storm_of_new_connections(starved: Mesh) -> None:
    """`STORM` new mutual-TLS connections at once: all are served; none of those who were there waits for them."""
    for side in (starved.pair.client, starved.pair.server):
        restart(starved, side)
    with Steady(starved) as steady, contextlib.ExitStack() as stack:
        storm = [stack.enter_context(starved.pair.client.connect((SERVICE_IP, TCP_PORT), 20)) for _ in range(STORM)]
        for number, connection in enumerate(storm):
            connection.sendall(b"E%05d" % number)
        for number, connection in enumerate(storm):
            connection.settimeout(20)
            assert connection.recv(5, socket.MSG_WAITALL) == b"%05d" % number
    assert steady.served > 5
    assert starved.origin.wait(lambda: not opaque_connections(starved.pair.server))


def opaque_connections(side: Side) -> list[object]:
    found = json.loads(side.admin("/connections"))["connections"]
    return [row for row in found if row["original_destination"] == f"{SERVER_IP}:{TCP_PORT}"]
