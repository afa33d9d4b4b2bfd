"""A real `meshdp sidecar` process on loopback, on ports of its own."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

LISTENERS = ("outbound", "inbound", "admin", "status", "readiness", "metrics")
PATIENCE_S = 20.0


class Sidecar:
    """Started with the flags given and free ports; ended with the block. Standard error is kept in `errors`."""

    def __init__(self, folder: Path, *flags: str, single_instance: bool = False) -> None:
        self.ports = dict(zip(LISTENERS, free_ports(len(LISTENERS)), strict=True))
        self.errors = folder / "stderr.txt"
        addresses = [word for name, port in self.ports.items() for word in (f"--{name}", f"127.0.0.1:{port}")]
        environment = os.environ | {"MESHDP_SINGLE_INSTANCE": str(single_instance).lower(), "MESHDP_DRAIN_S": "0.2"}
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "meshdp", "sidecar", *addresses, *flags],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def __enter__(self) -> "Sidecar":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()

    def get(self, listener: str, path: str) -> tuple[int, str]:
        """Ask one of its own pages."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[listener], timeout=20)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def is_ready(self) -> bool:
        try:
            return self.get("readiness", "/healthz/ready")[0] == 200
        except OSError:
            return False

    def said(self, text: str) -> bool:
        return text in self.errors.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end and give its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


def until(holds: object, what: str) -> None:
    """Wait for a condition that is bound to come."""
    assert callable(holds)
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S} s"
        time.sleep(0.01)


def free_ports(count: int) -> list[int]:
    """Ports that nothing uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports
