"""PeerAuthentication on ports that no service declares: Istio's own end-to-end cases between real sidecars.

In:     behaviour-e2e/pass_through_filter_chain_e2e_cases.json; a pair whose server listens on two undeclared ports.
Out:    who reaches them: a caller in plaintext, and one with the mesh's certificate and ALPN.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import wire
from tests.support.conformance import Unsupported, params, table
from tests.support.mesh import Mesh, Opaque, get, opened_mesh
from tests.support.origin import Origin

TOPIC = "behaviour-e2e"
PORTS = {"ports.TCPWorkloadOnly": 19092, "ports.HTTPWorkloadOnly": 19093}
OFFERED = {19092: ["istio"], 19093: ["istio-http/1.1", "istio", "http/1.1"]}
Json = dict[str, Any]
CASES: dict[str, Json] = {
    f"pass-through/{case['name'].replace(' ', '-')}": case
    for case in table("behaviour-e2e/pass_through_filter_chain_e2e_cases.json", "TestPassThroughFilterChain")
    if "expected" in case
}


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with opened_mesh() as opened:
        origin = Origin(opened.pair.server, [PORTS["ports.HTTPWorkloadOnly"]])
        opaque = Opaque(opened.pair.server, PORTS["ports.TCPWorkloadOnly"])
        yield opened
        origin.stop()
        opaque.stop()


@pytest.mark.parametrize("case", params(TOPIC, list(CASES)))
def test_undeclared_ports(mesh: Mesh, case: str) -> None:
    config = CASES[case]["config"].replace("{{ .To.ServiceName }}", "server")
    config = re.sub(r"\{\{ \(\.To\.PortForName .tcp-wl-only.\)\.WorkloadPort \}\}", "19092", config)
    mesh.pair.configure(re.sub(r"\n  name: ([a-z-]+)\n", r"\n  name: \1\n  namespace: default\n", config + "\n"))
    wanted, got = {}, {}
    for expected in CASES[case]["expected"]:
        port = PORTS[expected["port"]["$ref"]]
        wanted[port] = (expected["plaintextSucceeds"], expected["mtlsSucceeds"])
        got[port] = (reaches(mesh, port, None), reaches(mesh, port, context(mesh, OFFERED[port])))
    Unsupported.of(TOPIC).settle(case, None if got == wanted else f"expected {wanted}, got {got}")


def context(mesh: Mesh, alpn: list[str]) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    folder = mesh.pair.folder / "credentials-client"
    made.load_cert_chain(folder / "cert-chain.pem", folder / "key.pem")
    made.set_alpn_protocols(alpn)
    return made


def reaches(mesh: Mesh, port: int, tls: ssl.SSLContext | None) -> bool:
    """Whether the application on this port answers. A TLS client that meets an application without TLS is not answered."""
    asked, answer = (b"Ehello", b"hello") if port == PORTS["ports.TCPWorkloadOnly"] else (get(), b"HTTP/1.1 200")
    try:
        with wire.connect(mesh.pair, "inbound", port) as plain:
            plain.settimeout(5)
            with plain if tls is None else tls.wrap_socket(plain) as connection:
                connection.sendall(asked)
                return connection.recv(len(answer)) == answer
    except OSError:
        return False
