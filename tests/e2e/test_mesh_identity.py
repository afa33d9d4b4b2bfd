"""Who gets in: the test shows certificates of its own making to a running sidecar, and reads the link with tcpdump.

In:      a mesh of two workloads under STRICT, and its root key, which root may read.
Fails:   a certificate that should not be honoured gets an answer, a sidecar's own certificate is not a correct SVID, a
         request can be read on the link.
Limits:  needs root and tcpdump; skipped with a reason otherwise.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshdp.local.isolation import kernel
from tests.support.local_mesh import Meshdp, wait_until
from tests.support.pair import PATIENCE_S

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces"),
    pytest.mark.skipif(
        importlib.util.find_spec("meshdp._native") is None, reason="the engine is not built: make build"
    ),
    pytest.mark.skipif(shutil.which("tcpdump") is None, reason="not installed: tcpdump"),
]

FILE = """\
apiVersion: meshdp.io/v1alpha1
kind: LocalMesh
metadata: {name: identity}
spec:
  resources: [services.yaml, policies]
  workloads:
  - {name: server, serviceAccount: server, labels: {app: server}, command: [python3, server.py]}
  - {name: client, serviceAccount: client, labels: {app: client}, command: [sleep, infinity]}
  - {name: stranger, command: [sleep, infinity], sidecar: false}
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{name: http, port: 80, targetPort: 8080}]}
"""
SERVER = """\
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = self.headers.get("x-forwarded-client-cert", "nobody").encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""
MODE = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: istio-system}}
spec: {{mtls: {{mode: {mode}}}}}
"""
CLIENT = "spiffe://cluster.local/ns/default/sa/client"
SERVER_ID = "spiffe://cluster.local/ns/default/sa/server"
NOW = datetime.datetime.now(datetime.UTC)
HOUR = datetime.timedelta(hours=1)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meshdp]:
    folder = tmp_path_factory.mktemp("i")
    meshdp = Meshdp(folder)
    (folder / "policies").mkdir()
    for name, text in (("mesh.yaml", FILE), ("services.yaml", SERVICE), ("server.py", SERVER)):
        (folder / name).write_text(text)
    (folder / "policies" / "mode.yaml").write_text(MODE.format(mode="STRICT"))
    started = meshdp("up", "-f", str(folder / "mesh.yaml"), "--detach")
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield meshdp
    finally:
        meshdp("down", "--mesh", "identity")


@dataclass(frozen=True)
class Root:
    """A certificate authority's key and certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


@dataclass(frozen=True)
class Leaf:
    """What a client's certificate says."""

    uris: tuple[str, ...] = (CLIENT,)
    not_before: datetime.datetime = NOW - HOUR
    not_after: datetime.datetime = NOW + HOUR
    purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def signed_by(self, root: Root) -> x509.Certificate:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in self.uris])
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(root.certificate.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(self.purposes), critical=False)
        )
        return (builder.add_extension(names, critical=True) if self.uris else builder).sign(root.key, hashes.SHA256())


@pytest.fixture(scope="module")
def root(up: Meshdp) -> Root:
    folder = up.state / "identity" / "authority"
    key = serialization.load_pem_private_key((folder / "root-key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Root(key, x509.load_pem_x509_certificate((folder / "root-cert.pem").read_bytes()))


def foreign_root(like: Root) -> Root:
    """Another authority with the same name."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder().subject_name(like.certificate.subject).issuer_name(like.certificate.subject)
    builder = builder.public_key(key.public_key()).serial_number(1).not_valid_before(NOW - HOUR)
    builder = builder.not_valid_after(NOW + HOUR).add_extension(x509.BasicConstraints(True, 0), critical=True)
    return Root(key, builder.sign(key, hashes.SHA256()))


def context_with(folder: Path, leaf: Leaf | None, root: Root) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["istio-http/1.1", "istio"])
    if leaf is not None:
        path = folder / "leaf.pem"
        key = leaf.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(key + leaf.signed_by(root).public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def connected(up: Meshdp) -> Iterator[socket.socket]:
    """A connection from outside the mesh straight to the server's address, past any sidecar of ours."""
    rows = up.rows()
    with kernel.network_of(rows["default/stranger"]["pid"]):
        connection = socket.socket()
    connection.settimeout(PATIENCE_S)
    with connection:
        connection.connect((rows["default/server"]["address"], 8080))
        yield connection


def asked(up: Meshdp, context: ssl.SSLContext) -> bytes:
    """The answer to one request; empty when the connection ends without one."""
    request = b"GET /secret HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n"
    received = b""
    refused = contextlib.suppress(ConnectionError, ssl.SSLError)
    with refused, connected(up) as connection, context.wrap_socket(connection) as secured:
        secured.sendall(request)
        while piece := secured.recv(4096):
            received += piece
    return received


def test_a_certificate_of_the_mesh_is_honoured_and_named(up: Meshdp, root: Root, tmp_path: Path) -> None:
    answer = asked(up, context_with(tmp_path, Leaf(), root))
    assert answer.startswith(b"HTTP/1.1 200")
    assert f"By={SERVER_ID};".encode() in answer
    assert f"URI={CLIENT}".encode() in answer


@pytest.mark.parametrize(
    "leaf",
    [
        None,
        Leaf(not_before=NOW - 3 * HOUR, not_after=NOW - HOUR),
        Leaf(not_before=NOW + HOUR, not_after=NOW + 3 * HOUR),
        Leaf(uris=("spiffe://other.example/ns/default/sa/client",)),
        Leaf(uris=("spiffe://cluster.local.evil/ns/default/sa/client",)),
        Leaf(uris=(CLIENT, SERVER_ID)),
        Leaf(uris=()),
        Leaf(uris=("https://cluster.local/ns/default/sa/client",)),
        Leaf(purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)),
    ],
    ids=["none", "expired", "future", "other-domain", "longer-domain", "two-ids", "no-id", "not-spiffe", "server-only"],
)
def test_a_certificate_that_proves_nothing_gets_no_answer(
    up: Meshdp, root: Root, tmp_path: Path, leaf: Leaf | None
) -> None:
    assert asked(up, context_with(tmp_path, leaf, root)) == b""


def test_a_foreign_authority_gets_no_answer(up: Meshdp, root: Root, tmp_path: Path) -> None:
    assert asked(up, context_with(tmp_path, Leaf(), foreign_root(root))) == b""


def test_plaintext_gets_no_answer(up: Meshdp) -> None:
    with connected(up) as connection:
        connection.sendall(b"GET /secret HTTP/1.1\r\nHost: server\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert connection.recv(100) == b""


def test_the_servers_own_certificate_is_an_svid(up: Meshdp, root: Root, tmp_path: Path) -> None:
    with connected(up) as connection, context_with(tmp_path, Leaf(), root).wrap_socket(connection) as secured:
        raw = secured.getpeercert(binary_form=True)
        assert secured.version() == "TLSv1.3"
        assert secured.selected_alpn_protocol() in (None, "http/1.1")
    assert raw is not None
    certificate = x509.load_der_x509_certificate(raw)
    certificate.verify_directly_issued_by(root.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier(SERVER_ID)]
    assert not certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert life == datetime.timedelta(hours=1, minutes=1)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def on_the_link(up: Meshdp, folder: Path, path: str) -> str:
    """What tcpdump can read of one request from one workload of the mesh to another."""
    state, file = up.state_of("identity"), folder / "link.pcap"
    port = next(each["port_name"] for each in state["instances"] if each["name"] == "client")
    command = [
        "nsenter",
        f"--net=/proc/{state['link']['pid']}/ns/net",
        "tcpdump",
        "--immediate-mode",
        "-U",
        "-Z",
        "root",
    ]
    with subprocess.Popen([*command, "-i", port, "-w", str(file)], stderr=subprocess.PIPE, text=True) as tcpdump:
        assert tcpdump.stderr is not None
        while "listening on" not in tcpdump.stderr.readline():
            pass
        script = f"import urllib.request as u; print(u.urlopen('http://server{path}', timeout=20).status)"
        answer = up.python("client", script)
        tcpdump.send_signal(signal.SIGINT)
        tcpdump.wait(timeout=20)
    assert answer.stdout == "200\n", answer.stderr
    read = subprocess.run(["tcpdump", "-n", "-A", "-r", str(file)], capture_output=True, text=True, check=True).stdout
    assert ".8080:" in read, "the recording holds nothing of the connection"
    return read


def test_the_link_shows_requests_only_where_encryption_is_off(up: Meshdp, tmp_path: Path) -> None:
    assert "GET /first" not in on_the_link(up, tmp_path, "/first")
    before = up.state_of("identity")["documents"]
    (up.folder / "policies" / "mode.yaml").write_text(MODE.format(mode="DISABLE"))
    wait_until(lambda: (state := up.state_of("identity"))["settled"] and state["documents"] != before)
    assert "GET /second" in on_the_link(up, tmp_path, "/second")


def test_leaves_differ_as_the_cases_say(root: Root) -> None:
    # A case that is refused for another reason than its name says would prove nothing: this one differs in time alone.
    expired = replace(Leaf(), not_after=NOW - datetime.timedelta(minutes=1)).signed_by(root)
    expired.verify_directly_issued_by(root.certificate)
    assert expired.not_valid_after_utc < NOW
