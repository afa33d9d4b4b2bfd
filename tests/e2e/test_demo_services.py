"""What the demo sends and compares, without a mesh: all is well on the straight way, and a changed byte is noticed.

Limits:  loopback only, no root.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.local_mesh import wait_until

BOOKINFO = Path(__file__).resolve().parents[2] / "src/meshdp/demo/bookinfo"


@pytest.fixture(scope="module")
def details() -> Iterator[int]:
    """The details service on a port of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(BOOKINFO / "details.py"), str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: listens(port))
        yield port
        process.kill()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def relay(port: int, change: Callable[[bytes], bytes]) -> Iterator[int]:
    """A way to the service on which what comes back may be changed."""
    connections: list[threading.Thread] = []

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                connections.append(threading.Thread(target=carry_both, args=(client, port, change)))
                connections[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, args=(listener,))
        accepting.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        for thread in (accepting, *connections):
            thread.join()


def carry_both(client: socket.socket, port: int, change: Callable[[bytes], bytes]) -> None:
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        there = threading.Thread(target=carry, args=(client, server, bytes))
        there.start()
        carry(server, client, change)
        there.join()


def carry(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(change(data))
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def load(port: int, seconds: float, **wanted: Any) -> dict[str, Any]:
    """What becomes of some traffic that lasts so long."""
    base = f"http://127.0.0.1:{port}"
    words = {"url": f"{base}/details/0", "per_second": 100, "keep_alive": True, "download": "", "websocket": ""}
    words |= {name: f"{base}{value}" if isinstance(value, str) else value for name, value in wanted.items()}
    command = [sys.executable, str(BOOKINFO / "load.py"), json.dumps(words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(seconds)  # how long the traffic lasts, not a wait for something
        said, _ = process.communicate("end\n", timeout=30)
    found: dict[str, Any] = json.loads(said)
    return found


def test_on_a_straight_way_all_is_well(details: int) -> None:
    found = load(details, 0.5, download="/download", websocket="/echo")
    assert (found["failed"], found["errors"]) == (0, [])
    assert found["answered"] > 0
    assert found["download"]["error"] == "" and found["download"]["bytes"] > 0 and found["download"]["bytes"] % 8 == 0
    assert found["websocket"]["error"] == "" and found["websocket"]["echoed"] > 0


def test_fresh_connections_say_when_each_was_answered(details: int) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    found = load(details, 0.2, keep_alive=False)
    assert found["answers"]
    assert {status for _, status in found["answers"]} == {200}
    assert all(before < when < time.clock_gettime(time.CLOCK_BOOTTIME) for when, _ in found["answers"])


def test_a_byte_changed_on_the_way_is_noticed(details: int) -> None:
    # Numbers of the download and messages of the WebSocket below 256 end in a byte that is changed here.
    with relay(details, lambda data: data.replace(b"\x00\x00\x00\x07", b"\x00\x00\x00\x08")) as port:
        assert "wrong bytes" in load(port, 0.2, download="/download")["download"]["error"]
    with relay(details, lambda data: data.replace(b"message 1", b"message 2")) as port:
        assert "message 2" in load(port, 0.3, websocket="/echo")["websocket"]["error"]


def test_an_answer_that_is_cut_short_is_noticed(details: int) -> None:
    passed = 0

    def cut(data: bytes) -> bytes:
        nonlocal passed
        passed += len(data)
        if passed > 40_000:
            raise OSError("cut")
        return data

    with relay(details, cut) as port:
        found = load(port, 0.2, per_second=1, download="/download")
    assert found["download"]["error"] != ""


def test_requests_that_fail_are_counted_and_named(details: int) -> None:
    found = load(details, 0.2, url="/nowhere")
    assert found["answered"] == 0
    assert found["failed"] > 0 and set(found["errors"]) == {"status 404"}
