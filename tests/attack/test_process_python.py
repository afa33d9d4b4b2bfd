"""Python around the data plane: whatever the interpreter does or fails to do, bytes do not notice.

In:     a sidecar in a busy interpreter; engines in interpreters that end, fork and swap.
Source: attack-cases 2.16, PR-09 to PR-11; DESIGN section 3, "Python is never on the path".
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import wire
from tests.support.mesh import Mesh, get
from tests.support.pair import ROOT

HELD_S, ASKING_S = 7.0, 2.0


@pytest.fixture
def busy(mesh: Mesh) -> Iterator[tuple[Mesh, Path]]:
    """The pair with the server's sidecar in an interpreter that obeys files."""
    server = mesh.pair.server
    with tempfile.TemporaryDirectory(prefix="mdpt-busy-") as name:
        Path(name).chmod(0o777)
        server.program = ["tests.support.busy_python", name]
        restart(mesh)
        assert mesh.status() == 200
        yield mesh, Path(name)
        server.program = ["meshdp"]
        restart(mesh)
    assert mesh.status() == 200


def restart(mesh: Mesh) -> None:
    mesh.pair.server.stop()
    mesh.pair.server.start(mesh.pair.configuration)


def slowest_answer(mesh: Mesh, seconds: float) -> float:
    """The slowest of many answers, each on its own connection or on one that is kept."""
    slowest, until = 0.0, time.monotonic() + seconds
    with wire.connect(mesh.pair, "inbound") as kept:
        while time.monotonic() < until:
            started = time.monotonic()
            kept.sendall(get())
            assert wire.listen(kept, 1).statuses == [200]
            assert mesh.status("/", "inbound") == 200
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.005)
    return slowest


def test_pr_09_the_interpreters_lock_is_held(busy: tuple[Mesh, Path]) -> None:
    mesh, folder = busy
    (folder / "hold").write_text(str(HELD_S))
    assert mesh.origin.wait(lambda: not (folder / "hold").exists())
    assert slowest_answer(mesh, ASKING_S) < HELD_S - 2 * ASKING_S, "who waited for the lock would wait for its end"
    mesh.pair.server.wait_ready()  # the control thread is Rust's, too


def test_pr_09_garbage_is_collected_without_a_pause(busy: tuple[Mesh, Path]) -> None:
    mesh, folder = busy
    (folder / "collect").touch()
    assert slowest_answer(mesh, ASKING_S) < HELD_S - 2 * ASKING_S


ENGINE = f"""
import http.client, os, signal, sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "src")!r}]
from meshdp import settings
from meshdp.supervise.engine import Engine
from tests.support.sidecar import LISTENERS, free_ports
PORTS = dict(zip(LISTENERS, free_ports(len(LISTENERS))))
addresses = {{name: f"127.0.0.1:{{port}}" for name, port in PORTS.items()}}
engine = Engine(settings.Settings(addresses | {{"workload": "default/details-v1", "single_instance": False}}).for_engine())
engine.start()
def ready():
    connection = http.client.HTTPConnection("127.0.0.1", PORTS["readiness"], timeout=20)
    connection.request("GET", "/healthz/ready")
    return connection.getresponse().status
def child(body):
    pid = os.fork()
    if pid == 0:
        body()
        os._exit(7)
    for _ in range(2000):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "it hangs"
"""


def python(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ENGINE + script]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=dict(os.environ))


@pytest.mark.parametrize(
    "ending",
    ["sys.exit(0)", "del engine", "raise SystemExit", "engine.stop(); engine.stop()", "os.kill(os.getpid(), 15)"],
)
def test_pr_10_the_interpreter_ends_while_threads_of_the_engine_live(ending: str) -> None:
    done = python(f"assert ready() == 503\n{ending}\n")
    assert done.returncode == (-15 if "kill" in ending else 0), done.stderr
    assert "panicked" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "body", ["os._exit(7)", "sys.exit(7)", "(engine.stop(), os._exit(7))", "(engine.drain(5.0), os._exit(7))"]
)
def test_pr_10_fork_without_exec(body: str) -> None:
    """A child has the engine's memory and none of its threads: it ends without waiting for them, and the parent serves on."""
    done = python(f"print(child(lambda: {body}), ready())\nengine.stop()\n")
    assert done.stdout.split() == ["7", "503"], done.stdout + done.stderr
    assert "panicked" not in done.stderr


SWAPS = """
import gc, resource
from tests.support.meshes import policy, snapshot
one = snapshot(policy("AuthorizationPolicy", "{action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}]}"))
two = snapshot(policy("AuthorizationPolicy", "{action: DENY, rules: [{to: [{operation: {paths: [/b]}}]}]}"))
engine.swap(one.transaction(None))
there, back = two.transaction(one), one.transaction(two)
def resident_kb():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
def swap(count):
    for _ in range(count):
        engine.swap(there)
        engine.swap(back)
swap(1000)
counts, before = (sys.getrefcount(there), sys.getrefcount(back), sys.getrefcount(engine)), resident_kb()
swap(4000)
assert (sys.getrefcount(there), sys.getrefcount(back), sys.getrefcount(engine)) == counts
print(resident_kb() - before)
engine.stop()
"""


def test_pr_11_ten_thousand_swaps_leak_nothing() -> None:
    """The long form of the catalogue is 10^7; a leak of one small object a swap would show here as 300 KiB."""
    done = python(SWAPS)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 256, f"{done.stdout} KiB more after 8,000 swaps"
