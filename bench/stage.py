"""Two network namespaces per contender, joined by one link, with the redirection rules of a mesh in both.

In:     a folder, the program `meshdp-init`.
Out:    `Lane`: run programs at either end, as whom and on which processor one says.
Limits: needs root. Every contender gets a lane of the same shape, the floor too: same addresses, same rules, same path.
Fails:  with the program's own message; what was made is taken away at the end.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from meshdp.local.isolation import kernel
from meshdp.local.isolation.namespaces import Holder

T = TypeVar("T")
P = TypeVar("P", str, bytes)
ROOT = Path(__file__).resolve().parents[1]
INIT = Path(os.environ.get("MESHDP_INIT", ROOT / "src/meshdp/bin/meshdp-init"))

CLIENT_IP, SERVER_IP, PLAIN_IP = "10.99.0.1", "10.99.0.2", "10.99.0.3"
PORT, PLAIN_PORT, BULK_PORT, GRPC_PORT = 9080, 9083, 9090, 9084
MANY_IPS = [f"10.99.0.{10 + number}" for number in range(16)]  # more addresses of the server's end
OUTBOUND, INBOUND = 15001, 15006
PROXY_UID, APPLICATION_UID = 1337, 1000
PROXY_CPU, OTHER_CPU = 0, 1

# Everything is redirected but a sidecar's own ports and the application that is outside the mesh.
RULES = f"-p {OUTBOUND} -z {INBOUND} -u {PROXY_UID} -g {PROXY_UID} -b * -d 15090,15021,15020,{PLAIN_PORT} -i *"
NEW_NETWORK = 0x40000000
LISTENING_LIMIT_S = 10
PORTS = "16384 65535"


class Lane:
    """A client end and a server end. The application runs at the server end, in and outside the mesh."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.namespaces = {end: f"mdpb-{os.getpid()}-{name}-{end}" for end in ("client", "server")}
        self.log_file = folder / f"{name}.log"
        self._holders: dict[str, Holder] = {}
        self._running: list[subprocess.Popen[Any]] = []

    def inside(self, end: str, function: Callable[[], T]) -> T:
        """Calls a function in a thread that has entered an end: sockets and processes made there stay there."""
        results: list[T] = []
        failures: list[BaseException] = []

        def enter() -> None:
            try:
                with open(f"/run/netns/{self.namespaces[end]}") as handle:
                    if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), NEW_NETWORK) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                results.append(function())
            except BaseException as failure:  # noqa: BLE001 - handed to the caller below
                failures.append(failure)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return results[0]

    def start(self, end: str, words: list[str], uid: int = PROXY_UID, cpu: int = PROXY_CPU) -> subprocess.Popen[str]:
        """Starts a program at an end: its id is the process's own, for nothing stands between."""

        def pin() -> None:
            os.sched_setaffinity(0, {cpu})

        def spawn() -> subprocess.Popen[str]:
            with self.log_file.open("a") as log:
                return subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT / "src",
                    user=uid, group=uid, extra_groups=[], preexec_fn=pin,  # noqa: PLW1509 - the child pins itself only
                )  # fmt: skip

        return self.adopt(self.inside(end, spawn))

    def adopt(self, process: subprocess.Popen[P]) -> subprocess.Popen[P]:
        """Ends this process with the lane."""
        self._running.append(process)
        return process

    def holder(self, end: str) -> Holder:
        """A process that does nothing at an end, for programs that are started beside one."""
        if end not in self._holders:
            idle = self.start(end, ["/bin/sleep", "infinity"], cpu=OTHER_CPU)
            self._holders[end] = Holder(idle.pid, kernel.started_at(idle.pid) or 0, keeper=idle.pid)
        return self._holders[end]

    def log(self) -> str:
        """What the programs of this lane wrote on stderr."""
        return self.log_file.read_text()

    def last_words(self) -> str:
        """The last line of the log."""
        said = [line for line in self.log().splitlines() if line.strip()]
        return said[-1].strip() if said else "nothing was said on stderr"

    def stop(self, process: subprocess.Popen[Any]) -> None:
        """Ends a program of this lane."""
        process.kill()
        process.communicate()
        self._running.remove(process)

    def forget(self, process: subprocess.Popen[Any]) -> None:
        """A program of this lane has ended by itself."""
        self._running.remove(process)

    def close(self) -> None:
        """Ends every program and deletes the namespaces, and the link with them."""
        for process in list(self._running):
            self.stop(process)
        for namespace in self.namespaces.values():
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


@contextmanager
def lane(name: str, folder: Path, programs: dict[str, Path], *, redirected: bool = True) -> Iterator[Lane]:
    """A lane with its rules in place and the applications running: one answers requests, one sends bytes."""
    made = Lane(name, folder)
    try:
        _join(made)
        for namespace in made.namespaces.values() if redirected else ():
            _run("ip", "netns", "exec", namespace, str(INIT), *RULES.split())
        backend = [str(programs["backend"]), f"0.0.0.0:{PORT}", f"0.0.0.0:{PLAIN_PORT}"]
        source = [str(programs["bulk"]), "source", f"0.0.0.0:{BULK_PORT}"]
        applications = [(backend, PORT), (source, BULK_PORT)]
        if answering_grpc := shutil.which("nghttpd"):
            applications.append(([answering_grpc, *_grpc_words(folder)], GRPC_PORT))
        for words, port in applications:
            await_listening(made, "server", port, made.start("server", words, APPLICATION_UID, OTHER_CPU))
        yield made
    finally:
        made.close()


def _grpc_words(folder: Path) -> list[str]:
    """An HTTP/2 application whose answers look like unary gRPC: 1 KB, then a status as a trailer."""
    pages = folder / "pages"
    if not pages.exists():
        (pages / "shop.Items").mkdir(parents=True)
        (pages / "shop.Items" / "Get").write_bytes(b"x" * 1024)
    return ["--no-tls", "--trailer", "grpc-status: 0", "--htdocs", str(pages), str(GRPC_PORT)]


def await_listening(where: Lane, end: str, port: int, process: subprocess.Popen[Any], pause_s: float = 0.01) -> None:
    """Waits until something accepts connections on a port.

    Raises:
        RuntimeError: the process ended, or did not listen in LISTENING_LIMIT_S; with what it said.
    """
    until = time.monotonic() + LISTENING_LIMIT_S

    def wait() -> None:
        while not attempt(lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close()):
            if process.poll() is not None or time.monotonic() > until:
                end_of_it = "it does not end" if process.poll() is None else f"it exited with {process.poll()}"
                raise RuntimeError(
                    f"nothing listens on {port} in lane {where.name}, {end_of_it}: {where.last_words()}\n{where.log()}"
                )
            time.sleep(pause_s)

    where.inside(end, wait)


def attempt(function: Callable[[], None]) -> bool:
    """Whether a function ran without a socket error."""
    try:
        function()
    except OSError:
        return False
    return True


def _join(made: Lane) -> None:
    client, server = made.namespaces["client"], made.namespaces["server"]
    for namespace in (client, server):
        _run("ip", "netns", "add", namespace)
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        # A load of fresh connections uses up the usual range within a minute. This is the namespace's own setting.
        _run("ip", "netns", "exec", namespace, "sh", "-c", f"echo {PORTS} > /proc/sys/net/ipv4/ip_local_port_range")
    link = ("link", "add", "mesh0", "netns", client, "type", "veth", "peer", "name", "mesh0", "netns", server)
    _run("ip", *link)
    addresses = {client: [CLIENT_IP], server: [SERVER_IP, PLAIN_IP, *MANY_IPS]}
    gateways = {client: SERVER_IP, server: CLIENT_IP}
    for namespace, own in addresses.items():
        for address in own:
            _run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "mesh0")
        _run("ip", "-n", namespace, "link", "set", "mesh0", "up")
        _run("ip", "-n", namespace, "route", "add", "default", "via", gateways[namespace])


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
