"""TLS that a DestinationRule asks for, between a real sidecar and a real TLS server that has none.

In:     a pair whose service leads to a port that the server's sidecar does not capture: there Python's own TLS answers.
Source: spec/istio-semantics.md B.5; attack cases TL-02 to TL-04 for servers outside the mesh; DESIGN section 3 (fails closed).
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509

from tests.support import wire
from tests.support.certificates import Root
from tests.support.listening import Listening
from tests.support.mesh import Mesh, get, opened_mesh, position
from tests.support.pair import UNCAPTURED_PORT, service

HTTP, OPAQUE = 8443, 8444
HOST = "outside.default.svc.cluster.local"
ADDRESS = "10.96.0.9"
SERVICE = service("outside", ADDRESS, http=(HTTP, UNCAPTURED_PORT), tcp=(OPAQUE, UNCAPTURED_PORT))


class Outside(Listening):
    """A TLS server that counts what reaches it: handshakes, the names asked for, certificates shown, plain bytes."""

    def __init__(self, mesh: Mesh, folder: Path) -> None:
        self.folder = folder
        self.root = Root("outside")
        self.asked: list[str | None] = []
        self.shown: list[str] = []
        self.requests = 0
        self.demands_certificate = False
        self.put("ca.pem", self.root.bundle)
        self.serve(HOST)
        super().__init__(mesh.pair.server, [UNCAPTURED_PORT])

    def put(self, name: str, text: bytes) -> Path:
        """A file that the client's sidecar may read."""
        path = self.folder / name
        path.write_bytes(text)
        path.chmod(0o644)
        return path

    def serve(self, name: str, root: Root | None = None) -> None:
        """Show a certificate for a name from now on."""
        chain, key = (root or self.root).server(name)
        self.certificate = (self.put("server.pem", chain), self.put("server.key", key))

    def _admit(self, accepted: socket.socket, peer: tuple[str, int]) -> Callable[[], None]:
        return partial(self._serve, accepted)

    def _serve(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError), accepted, self._context().wrap_socket(accepted, server_side=True) as secure:
            shown = secure.getpeercert(binary_form=True)
            self.shown.append(uri_of(shown) if shown else "")
            text = b""
            while chunk := secure.recv(65536):
                text += chunk
                while b"\r\n\r\n" in text:
                    _, _, text = text.partition(b"\r\n\r\n")
                    self.requests += 1
                    secure.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\noutside")

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate)
        context.sni_callback = lambda _socket, name, _context: self.asked.append(name)
        if self.demands_certificate:
            context.load_verify_locations(self.folder / "ca.pem")
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def uri_of(certificate: bytes) -> str:
    names = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)[0]


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with opened_mesh() as opened:
        yield opened
        assert "panicked" not in opened.pair.client.log.read_text()


@pytest.fixture
def outside(mesh: Mesh) -> Iterator[Outside]:
    folder = mesh.pair.folder / "outside"
    folder.mkdir(exist_ok=True)
    server = Outside(mesh, folder)
    yield server
    server.stop()


def put_in_force(mesh: Mesh, tls: str) -> None:
    """The service and a rule with these TLS settings, on the client's side."""
    metadata = "metadata: {name: outside, namespace: default}"
    rule = f"apiVersion: networking.istio.io/v1\nkind: DestinationRule\n{metadata}\n"
    body = f"spec: {{host: outside, trafficPolicy: {{tls: {{{tls}}}}}}}\n" if tls else "spec: {host: outside}\n"
    documents = f"{SERVICE}{rule}{body}"
    if (mesh.pair.configuration / "policies.yaml").read_text() != documents:
        mesh.pair.replace("policies.yaml", documents, mesh.pair.client)


def ask(mesh: Mesh, port: int = HTTP, host: str = "outside", target: str = "/") -> int:
    """The status of a request of the application, which speaks plain HTTP."""
    with mesh.pair.client.connect((ADDRESS, port)) as connection:
        wire.send_pieces(connection, [get(target, host=host)])
        heard = wire.listen(connection, 1, 5)
        return heard.statuses[0] if heard.statuses else 0


def refused(mesh: Mesh, host: str = "outside") -> tuple[int, str]:
    """The status of a request, and the reason that the log gives for this very one."""
    at, target = position(mesh.pair.client), f"/{wire.nonce().decode()}"
    status = ask(mesh, host=host, target=target)
    line = mesh.logged(mesh.pair.client, at, lambda line: line["path"] == target)
    return status, str(line["response_code_details"])


@pytest.mark.parametrize("port", [HTTP, OPAQUE])
def test_simple_begins_tls_and_shows_no_certificate(mesh: Mesh, outside: Outside, port: int) -> None:
    put_in_force(mesh, f"mode: SIMPLE, caCertificates: {outside.folder}/ca.pem")
    assert ask(mesh, port) == 200
    assert (outside.asked, outside.shown, outside.requests) == ([HOST], [""], 1)


def test_connections_are_kept_and_shared_and_a_rule_that_changes_ends_that(mesh: Mesh, outside: Outside) -> None:
    put_in_force(
        mesh, f"mode: SIMPLE, caCertificates: {outside.folder}/ca.pem, sni: first.example, subjectAltNames: [{HOST}]"
    )
    assert [ask(mesh) for _ in range(3)] == [200] * 3
    assert (outside.asked, outside.requests) == (["first.example"], 3)
    put_in_force(
        mesh, f"mode: SIMPLE, caCertificates: {outside.folder}/ca.pem, sni: other.example, subjectAltNames: [{HOST}]"
    )
    assert ask(mesh) == 200
    assert outside.asked == ["first.example", "other.example"]


def test_tl_02_a_server_of_another_authority_gets_nothing(mesh: Mesh, outside: Outside) -> None:
    put_in_force(mesh, f"mode: SIMPLE, caCertificates: {outside.folder}/ca.pem")
    outside.serve(HOST, Root("somebody else"))
    assert (*refused(mesh), outside.requests) == (503, "upstream_tls_untrusted", 0)


@pytest.mark.parametrize("more", ["", ", sni: elsewhere.example", ", subjectAltNames: [elsewhere.example]"])
def test_tl_04_a_server_with_another_name_gets_nothing(mesh: Mesh, outside: Outside, more: str) -> None:
    put_in_force(mesh, f"mode: SIMPLE, caCertificates: {outside.folder}/ca.pem{more}")
    if not more:
        outside.serve("elsewhere.example")
    # The name in the request does not choose the name that is looked for.
    assert (*refused(mesh, HOST), outside.requests) == (503, "upstream_tls_identity", 0)


def test_mutual_shows_the_certificate_that_is_named_and_not_the_sidecars_own(mesh: Mesh, outside: Outside) -> None:
    outside.demands_certificate = True
    chain, key = outside.root.leaf("spiffe://elsewhere/client")
    certificate, secret = outside.put("client.pem", chain), outside.put("client.key", key)
    ca = outside.folder / "ca.pem"
    put_in_force(mesh, f"mode: MUTUAL, caCertificates: {ca}, clientCertificate: {certificate}, privateKey: {secret}")
    assert ask(mesh) == 200
    assert outside.shown == ["spiffe://elsewhere/client"]
    put_in_force(mesh, f"mode: SIMPLE, caCertificates: {ca}")
    assert (ask(mesh), outside.requests) == (503, 1)


@pytest.mark.parametrize(
    "tls",
    [
        "mode: SIMPLE, caCertificates: /nowhere/ca.pem",
        "mode: MUTUAL, clientCertificate: /nowhere/c.pem, privateKey: /nowhere/k.pem, insecureSkipVerify: true",
        "mode: SIMPLE, credentialName: a-secret",
        "mode: MUTUAL, clientCertificate: /only/one.pem",
        "mode: SIMPLE, misspelt: true",
    ],
)
def test_what_cannot_be_honoured_is_refused_and_never_sent_in_plaintext(mesh: Mesh, outside: Outside, tls: str) -> None:
    # A good rule of the same name would stay in force where the next one is not accepted.
    mesh.pair.replace("policies.yaml", f"{SERVICE}# {tls}\n", mesh.pair.client)
    put_in_force(mesh, tls)
    before = len(outside.asked)
    assert (*refused(mesh), ask(mesh, OPAQUE)) == (503, "upstream_tls_unusable", 0)
    assert (outside.requests, len(outside.asked)) == (0, before)


def test_without_a_bundle_the_systems_authorities_are_asked_and_do_not_know_ours(mesh: Mesh, outside: Outside) -> None:
    put_in_force(mesh, "mode: SIMPLE")
    there = os.path.exists("/etc/ssl/certs/ca-certificates.crt")
    expected = "upstream_tls_untrusted" if there else "upstream_tls_unusable"
    assert (*refused(mesh), outside.requests) == (503, expected, 0)


def test_unverified_servers_are_taken_where_the_rule_says_so(mesh: Mesh, outside: Outside) -> None:
    outside.serve("elsewhere.example", Root("somebody else"))
    put_in_force(mesh, "mode: SIMPLE, insecureSkipVerify: true")
    assert (ask(mesh), outside.requests) == (200, 1)


def test_a_bundle_that_is_replaced_counts_for_the_next_connection(mesh: Mesh, outside: Outside) -> None:
    other = Root("the next one")
    put_in_force(mesh, f"mode: SIMPLE, caCertificates: {outside.folder}/ca.pem")
    outside.serve(HOST, other)
    assert ask(mesh) == 503
    outside.put("next.pem", other.bundle).replace(outside.folder / "ca.pem")
    assert ask(mesh) == 200


def test_a_rule_without_tls_leaves_mutual_tls_automatic(mesh: Mesh) -> None:
    """Nothing listens on the uncaptured port now; the mesh's own service is as before."""
    put_in_force(mesh, "")
    assert mesh.status() == 200


@pytest.mark.parametrize(("mode", "secured"), [("DISABLE", False), ("ISTIO_MUTUAL", True)])
def test_modes_of_the_mesh(mesh: Mesh, mode: str, secured: bool) -> None:
    rule = (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: server, namespace: default}\n"
        f"spec: {{host: server, trafficPolicy: {{tls: {{mode: {mode}}}}}}}\n"
    )
    mesh.pair.replace("policies.yaml", rule, mesh.pair.client)
    at = position(mesh.pair.server)
    assert mesh.status(f"/{mode}") == 200
    line = mesh.logged(mesh.pair.server, at, lambda line: line["path"] == f"/{mode}")
    assert line["source_principal"] == ("spiffe://cluster.local/ns/default/sa/client" if secured else None)
