"""TLS as the beginning of a connection, and the protocol that is spoken inside. TL-15, TL-17, TL-21; SN-09 for TLS.

In:     a TLS client over memory with the client's certificate, plaintext sockets straight to the server's sidecar.
Limits: cuts at sampled offsets of a ClientHello; hand-made ones (GREASE, key shares of two packets) in native/proto.
Source: attack cases 2.8 and 2.9; istio-semantics B.2, B.3.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import pytest

from tests.support import wire
from tests.support.mesh import get
from tests.support.pair import AUTO_PORT, HTTP_PORT, TCP_PORT
from tests.support.sniffing import Client, Sniffing, opened

MESH_HTTP = ["istio-http/1.1", "istio", "http/1.1"]
MESH_HTTP2 = ["istio-h2", "istio", "h2"]
MESH_TCP = ["istio-peer-exchange", "istio"]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
PORTS = (HTTP_PORT, AUTO_PORT, TCP_PORT)
OK, ECHO = b"HTTP/1.1 200", b"echo"


def mode(word: str) -> str:
    return (
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: default}\n"
        f"spec: {{mtls: {{mode: {word}}}}}\n"
    )


@pytest.fixture(scope="module")
def module() -> Iterator[Sniffing]:
    with opened() as made:
        yield made


@pytest.fixture
def sniffing(module: Sniffing) -> Iterator[Sniffing]:
    """Afterwards both sidecars serve (U1, U2)."""
    yield module
    module.configure("")
    assert [module.mesh.status(direction=direction) for direction in wire.DIRECTIONS] == [200, 200]


def client(sniffing: Sniffing, alpn: list[str], *, only_1_3: bool = False) -> Client:
    return Client(sniffing.mesh.pair.folder / "credentials-client", alpn, only_1_3=only_1_3)


def served(sniffing: Sniffing, port: int, made: Client, pieces: list[bytes], pause_s: float = 0.002) -> bytes:
    """The beginning of what is answered inside TLS when the ClientHello comes in these pieces."""
    with sniffing.connect("inbound", port) as connection:
        wire.send_pieces(connection, pieces, pause_s)
        try:
            made.shake(connection)
        except (ssl.SSLError, OSError, EOFError) as failure:
            return type(failure).__name__.encode()
        return made.ask(connection, b"Eecho" if port == TCP_PORT else get())[:12]


def end_of(connection: socket.socket) -> tuple[bytes, bool]:
    """What was answered in plaintext, and whether the connection ended."""
    heard = wire.listen(connection, None)
    return heard.raw, heard.ended in ("fin", "reset")


# --- TL-15: the protocol follows ALPN ---------------------------------------------------------------------------------


@pytest.mark.parametrize("alpn", [[], ["foo"], ["foo", "http/1.1"], ["http/1.1"], MESH_HTTP, ["istio"], MESH_TCP])
def test_tl_15_no_istio_name_is_ever_chosen_and_nothing_is_refused_for_its_list(
    sniffing: Sniffing, alpn: list[str]
) -> None:
    sniffing.configure(mode("STRICT"))
    made = client(sniffing, alpn)
    assert served(sniffing, HTTP_PORT, made, [made.hello]) == OK
    assert made.tls.selected_alpn_protocol() == ("http/1.1" if "http/1.1" in alpn else None)
    made = client(sniffing, alpn)
    assert served(sniffing, TCP_PORT, made, [made.hello]) == ECHO
    assert made.tls.selected_alpn_protocol() in (None, "http/1.1"), "B.2: a TCP chain may advertise it"


@pytest.mark.parametrize("port", [HTTP_PORT, AUTO_PORT])
def test_tl_15_a_preface_where_http_1_was_chosen_is_refused(sniffing: Sniffing, port: int) -> None:
    made, before = client(sniffing, MESH_HTTP), sniffing.received()
    with sniffing.connect("inbound", port) as connection:
        wire.send_pieces(connection, [made.hello])
        made.shake(connection)
        assert made.tls.selected_alpn_protocol() == "http/1.1"
        assert made.ask(connection, PREFACE)[:12] == b"HTTP/1.1 400"
        assert made.ask(connection, get()) == b"", "closed behind it"
    assert sniffing.received() == before


@pytest.mark.parametrize("port", [HTTP_PORT, AUTO_PORT])
def test_tl_15_http_1_where_http_2_was_chosen_is_refused(sniffing: Sniffing, port: int) -> None:
    made, before = client(sniffing, MESH_HTTP2), sniffing.received()
    with sniffing.connect("inbound", port) as connection:
        wire.send_pieces(connection, [made.hello])
        made.shake(connection)
        assert made.tls.selected_alpn_protocol() == "h2"
        heard = made.ask(connection, get())
        assert not heard.startswith(b"HTTP/"), "SETTINGS, GOAWAY, or nothing"
        while heard:
            heard = made.ask(connection, b" ")
            assert not heard.startswith(b"HTTP/")
    assert sniffing.received() == before


# --- TL-17 and SN-09: the ClientHello in any pieces -------------------------------------------------------------------


@pytest.mark.parametrize("port", PORTS)
def test_tl_17_a_client_hello_in_any_pieces(sniffing: Sniffing, port: int) -> None:
    expected = ECHO if port == TCP_PORT else OK
    alpn = MESH_TCP if port == TCP_PORT else MESH_HTTP
    for size in (1, 40, 200):
        made = client(sniffing, alpn)
        assert served(sniffing, port, made, [made.records(size)]) == expected, f"records of {size}"
    made = client(sniffing, alpn, only_1_3=True)
    assert served(sniffing, port, made, [bytes([byte]) for byte in made.hello], 0.0002) == expected, "bytewise"


@pytest.mark.parametrize("port", PORTS)
def test_sn_09_tls_is_known_at_every_split(sniffing: Sniffing, port: int) -> None:
    alpn = MESH_TCP if port == TCP_PORT else MESH_HTTP
    length = len(client(sniffing, alpn).hello)
    for at in [*range(1, 12), *range(12, length, max(1, length // 12)), length - 1]:
        made = client(sniffing, alpn)
        expected = ECHO if port == TCP_PORT else OK
        assert served(sniffing, port, made, [made.hello[:at], made.hello[at:]], 0.004) == expected, at


OVERSIZED = {
    "a handshake message that declares 16 MiB": b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + b"\0" * 2_000,
    "64 KiB of a hello": b"".join(
        b"\x16\x03\x01\x40\x00" + part for part in [b"\x01\0\xff\xf0" + b"\x03" * 16_380] * 4
    ),
    "no end of empty records": b"\x16\x03\x01\x00\x00" * 3_000,
}


@pytest.mark.parametrize("name", OVERSIZED)
def test_tl_17_what_is_too_large_for_a_client_hello_reaches_nobody_under_strict(sniffing: Sniffing, name: str) -> None:
    sniffing.configure(mode("STRICT"))
    before = sniffing.received()
    for port in PORTS:
        with sniffing.connect("inbound", port) as connection:
            wire.send_pieces(connection, [OVERSIZED[name]])
            heard, ended = end_of(connection)
            assert ended
            assert not heard.startswith(b"HTTP/"), "not misread as plaintext"
    assert sniffing.received() == before


# --- TL-21: TLS where none is expected ---------------------------------------------------------------------------------


def test_tl_21_tls_on_a_port_without_mtls_is_opaque_or_refused(sniffing: Sniffing) -> None:
    sniffing.configure(mode("DISABLE"))
    for alpn in ([], MESH_HTTP, ["h2", "http/1.1"]):
        hello = client(sniffing, alpn).hello
        with sniffing.connect("inbound", AUTO_PORT) as connection:
            wire.send_pieces(connection, [hello])
            assert sniffing.arrived(hello), "every byte, as it came"
        before = sniffing.received()
        with sniffing.connect("inbound", HTTP_PORT) as connection:
            wire.send_pieces(connection, [hello])
            heard, ended = end_of(connection)
            assert (heard[:12], ended) == (b"HTTP/1.1 400", True)
        assert sniffing.received() == before


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_tl_21_an_application_s_own_tls_is_passed_on_untouched(sniffing: Sniffing, direction: str) -> None:
    """B.3, PERMISSIVE: without a name of the mesh in its list it is not ours."""
    for alpn in ([], ["h2", "http/1.1"]):
        hello = client(sniffing, alpn).hello
        for at in (len(hello), 1, 5, 60):
            with sniffing.connect(direction, AUTO_PORT) as connection:
                wire.send_pieces(connection, [piece for piece in (hello[:at], hello[at:]) if piece], 0.004)
                assert sniffing.arrived(hello), (alpn, at)


def test_tl_21_tls_of_an_application_to_an_http_port_is_refused(sniffing: Sniffing) -> None:
    before, hello = sniffing.received(), client(sniffing, []).hello
    with sniffing.connect("outbound", HTTP_PORT) as connection:
        wire.send_pieces(connection, [hello])
        heard, ended = end_of(connection)
        assert (heard[:12], ended) == (b"HTTP/1.1 400", True), "its own sidecar reads HTTP there"
    with sniffing.connect("inbound", HTTP_PORT) as connection:
        wire.send_pieces(connection, [hello])
        assert end_of(connection) == (b"", True), "no chain takes it"
    assert sniffing.received() == before
