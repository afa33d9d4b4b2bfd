"""A real client, two real sidecars and a real application in two network namespaces made by the test.

In:     YAML documents (policies, mesh settings) to put beside the two pods and their service.
Out:    `Pair`: run code inside either namespace, change the configuration, read the admin pages and the access logs.
Limits: needs root for the namespaces; everything is ended by pid and deleted by name at the end.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshdp.compiler import compile_workload, workloads
from meshdp.control.authority import Authority
from meshdp.sources.files import read_once

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
INIT = Path(os.environ.get("MESHDP_INIT", ROOT / "src/meshdp/bin/meshdp-init"))
CLIENT_IP, SERVER_IP, SERVICE_IP = "10.99.0.1", "10.99.0.2", "10.96.0.2"
HTTP_PORT, TCP_PORT, AUTO_PORT = 9080, 9091, 9092
# How long a test waits for what is bound to come. It says nothing about speed: only how long a test takes that fails.
PATIENCE_S = 20.0
# What comes to this port of either side meets no sidecar: there a test plays the sidecar itself.
UNCAPTURED_PORT = 9098

BASE = f"""
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: default, labels: {{app: client, security.istio.io/tlsMode: istio, meshdp.io/sidecar: "true"}}}}
spec: {{serviceAccountName: client}}
status: {{podIP: {CLIENT_IP}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: server, namespace: default, labels: {{app: server, security.istio.io/tlsMode: istio, meshdp.io/sidecar: "true"}}}}
spec: {{serviceAccountName: server}}
status: {{podIP: {SERVER_IP}}}
---
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: default}}
spec:
  clusterIP: {SERVICE_IP}
  selector: {{app: server}}
  ports:
  - {{name: http, port: {HTTP_PORT}, targetPort: {HTTP_PORT}}}
  - {{name: tcp, port: {TCP_PORT}, targetPort: {TCP_PORT}}}
  - {{name: auto, port: {AUTO_PORT}, targetPort: {AUTO_PORT}}}
---
apiVersion: meshdp.io/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec: {{accessLogFile: /dev/stdout, accessLogEncoding: JSON}}
"""


def service(name: str, address: str, **ports: int | tuple[int, int]) -> str:
    """A Service of the server's workload: by port names, which say the protocol, the port, or it and the workload's own."""
    written = {each: number if isinstance(number, tuple) else (number, number) for each, number in ports.items()}
    listed = "".join(
        f"  - {{name: {each.replace('_', '-')}, port: {port}, targetPort: {target}}}\n"
        for each, (port, target) in written.items()
    )
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  clusterIP: {address}
  selector: {{app: server}}
  ports:
{listed}---
"""


class Side:
    """One end of the pair: a namespace with its redirection rules and its sidecar.

    wrapper: a program and its arguments around the sidecar's, such as prlimit. output: where the sidecar prints instead
    of its log.
    """

    def __init__(self, folder: Path, name: str, address: str, number: int) -> None:
        self.name = name
        self.address = address
        self.namespace = f"mdpt-{os.getpid()}-{number}-{name}"
        self.link = f"mp{os.getpid():x}{number:x}{name[0]}"  # 15 characters at most
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.program = ["meshdp"]
        self.wrapper: list[str] = []
        self.environment: dict[str, str] = {}
        self.output: int | None = None

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function in a thread that has entered the namespace: sockets made there stay there."""
        results: list[T] = []
        failures: list[BaseException] = []

        def enter() -> None:
            try:
                with open(f"/run/netns/{self.namespace}") as handle:
                    if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), 0x40000000) != 0:
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

    def connect(self, address: tuple[str, int], timeout_s: float = PATIENCE_S) -> socket.socket:
        """A TCP connection from inside the namespace."""
        return self.inside(lambda: socket.create_connection(address, timeout=timeout_s))

    def admin(self, path: str, port: int = 15000) -> str:
        """The body of an admin page."""
        with self.connect(("127.0.0.1", port)) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        return answer.split(b"\r\n\r\n", 1)[1].decode()

    def serial(self) -> str:
        """The certificate in use."""
        return str(json.loads(self.admin("/certs"))["certificate"]["serial"])

    def digest(self) -> str:
        """The version in force."""
        return str(json.loads(self.admin("/config"))["digest"])

    def start(self, configuration: Path, arguments: list[str] | None = None) -> None:
        """Start the sidecar as uid 1337 without rights, and wait until it is ready."""
        command = ["nsenter", f"--net=/run/netns/{self.namespace}", *self.wrapper]
        command += [
            "setpriv",
            "--reuid=1337",
            "--regid=1337",
            "--clear-groups",
            "--bounding-set=-all",
            "--no-new-privs",
        ]
        command += [sys.executable, "-m", *self.program, "sidecar"]
        command += ["--config", str(configuration), "--workload", f"default/{self.name}"]
        command += ["--credentials", str(self.folder / f"credentials-{self.name}"), *(arguments or [])]
        with self.log.open("ab") as log:
            environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"} | self.environment
            output = log if self.output is None else self.output
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        self.wait_ready()

    def wait_ready(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait for 200 on the readiness port."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            try:
                with self.connect(("127.0.0.1", 15021), 1) as connection:
                    connection.sendall(b"GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    if connection.recv(64).startswith(b"HTTP/1.1 200"):
                        return
            except OSError:
                pass
            assert self.process is None or self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)
        raise AssertionError(f"{self.name} was not ready in {timeout_s} s:\n{self.log.read_text()}")

    def stop(self) -> None:
        """End the sidecar."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Pair:
    """A client side and a server side joined by one link."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self.folder = folder
        self.configuration = folder / "configuration"
        number = next(_PAIRS)
        self.client = Side(folder, "client", CLIENT_IP, number)
        self.server = Side(folder, "server", SERVER_IP, number)
        self.authority = Authority.open(folder / "authority", "test")

    def configure(self, documents: str, *, wait: bool = True) -> None:
        """Put documents in force beside the base, and wait until both sides have them."""
        if (self.configuration / "policies.yaml").read_text() == documents:
            return
        self._put("policies.yaml", documents, [self.client, self.server] if wait else [])

    def replace(self, name: str, documents: str, *sides: Side) -> None:
        """Replace a file of the configuration, and wait until these sides have it."""
        self._put(name, documents, list(sides))

    def _put(self, name: str, documents: str, sides: list[Side]) -> None:
        """The last of the sides is the one that certainly changes."""
        awaited = [side for side in sides if side.process is not None and side.process.poll() is None]
        before = {side.name: side.digest() for side in awaited}
        staged = self.folder / "staged.yaml"
        staged.write_text(documents)
        staged.replace(self.configuration / name)
        loaded = read_once([self.configuration])
        if any(finding.severity == "error" for finding in loaded.findings):
            # What was said before may stay in force, in part.
            for side in awaited[-1:]:
                self.await_other(side, before[side.name])
            return
        # Another version than before would not do: an earlier change may be on its way.
        wanted = {
            each.name: compile_workload(loaded.resources, each).digest
            for each in workloads(loaded.resources)
            if each.name in before
        }
        for side in awaited:
            self._await(side, lambda side=side: side.digest() == wanted[side.name])

    def await_other(self, side: Side, digest: str) -> None:
        """Wait until a side has another version than this."""
        self._await(side, lambda: side.digest() != digest)

    @staticmethod
    def _await(side: Side, holds: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < until, f"{side.name} keeps its version:\n{side.log.read_text()[-3000:]}"
            time.sleep(0.005)

    def certify(self, name: str, identity: str | None = None) -> Path:
        """Write a key and a certificate of the test's authority for one side."""
        folder = self.folder / f"credentials-{name}"
        folder.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        identity = identity or f"spiffe://cluster.local/ns/default/sa/{name}"
        chain = self.authority.sign(request.public_bytes(serialization.Encoding.PEM), identity)
        (folder / "cert-chain.pem").write_text(chain)
        (folder / "root-cert.pem").write_text(self.authority.bundle)
        (folder / "key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        for path in folder.iterdir():
            shutil.chown(path, 1337, 1337)
            path.chmod(0o600)
        return folder


_PAIRS = itertools.count()  # several pairs may live in one test run


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def pair(
    folder: Path,
    documents: str = "",
    limits: dict[str, int] | None = None,
    environment: dict[str, dict[str, str]] | None = None,
) -> Iterator[Pair]:
    """Two namespaces, redirection in both, a sidecar in each; the caller runs the application. environment: by side."""
    made = Pair(folder)
    for side in (made.client, made.server):
        side.environment |= (environment or {}).get(side.name, {})
    if limits is not None:
        for side in (made.client, made.server):
            side.program = ["tests.support.impatient", json.dumps(limits)]
    made.configuration.mkdir()
    (made.configuration / "base.yaml").write_text(BASE)
    (made.configuration / "policies.yaml").write_text(documents)
    sides = (made.client, made.server)
    try:
        for side in sides:
            _ip("netns", "add", side.namespace)
            _ip("-n", side.namespace, "link", "set", "lo", "up")
        links = [side.link for side in sides]
        _ip("link", "add", links[0], "netns", sides[0].namespace, "type", "veth",
            "peer", "name", links[1], "netns", sides[1].namespace)  # fmt: skip
        for side, link, other in zip(sides, links, reversed(sides), strict=True):
            _ip("-n", side.namespace, "addr", "add", f"{side.address}/24", "dev", link)
            _ip("-n", side.namespace, "link", "set", link, "up")
            _ip("-n", side.namespace, "route", "add", "default", "via", other.address)
        for side in sides:
            command = ["ip", "netns", "exec", side.namespace, str(INIT)]
            command += f"-p 15001 -z 15006 -u 1337 -g 1337 -b * -d 15090,15021,15020,{UNCAPTURED_PORT} -i *".split()
            subprocess.run(command, check=True, capture_output=True)
            made.certify(side.name)
            side.start(made.configuration)
        yield made
    finally:
        for side in sides:
            side.stop()
            subprocess.run(["ip", "netns", "del", side.namespace], check=False, capture_output=True)
