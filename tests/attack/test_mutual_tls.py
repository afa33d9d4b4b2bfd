"""Mutual TLS against OpenSSL's client, which asks for what a sidecar never grants: old versions, weak ciphers, a second handshake,
data before the handshake, and all the time in the world.

In:     a pair whose server demands mutual TLS; the client's own certificate, in the hands of `openssl s_client` and of Python.
Source: attack cases 2.8; istio-semantics B.3 (versions and ciphers).
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack.policies import head, in_force, judged, peer_authentication
from tests.support import wire
from tests.support.mesh import Mesh, opened_mesh
from tests.support.pair import HTTP_PORT, SERVER_IP

HANDSHAKE_MS = 1_500
HALF_OPEN = 200


@pytest.fixture(scope="module")
def strict() -> Iterator[Mesh]:
    with opened_mesh(limits={"handshake_ms": HANDSHAKE_MS}) as opened:
        in_force(opened, peer_authentication("STRICT"))
        yield opened
        assert judged(opened, head("/"), "outbound").status == 200
        assert "panicked" not in opened.pair.server.log.read_text()


def credentials(mesh: Mesh) -> Path:
    return mesh.pair.folder / "credentials-client"


def context(mesh: Mesh) -> ssl.SSLContext:
    """The client's certificate; whom it talks to is not the matter here."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.load_cert_chain(credentials(mesh) / "cert-chain.pem", credentials(mesh) / "key.pem")
    return made


def status(mesh: Mesh, made: ssl.SSLContext) -> int:
    """The status of a request inside TLS; an ssl.SSLError where there is none."""
    with wire.connect(mesh.pair, "inbound") as connection, made.wrap_socket(connection) as secure:
        secure.settimeout(5)
        secure.sendall(head("/"))
        return int(secure.recv(65536).split(b" ")[1])


def s_client(mesh: Mesh, *words: str, said: bytes = b"", wait_s: float = 5) -> str:
    """What `openssl s_client` prints. Its standard input stays open until it has ended or the time is over."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = ["nsenter", f"--net=/run/netns/{mesh.pair.client.namespace}", "setpriv", "--reuid=1337", "--clear-groups"]
    command += ["openssl", "s_client", "-connect", f"{SERVER_IP}:{HTTP_PORT}", *words]
    for flag, name in (("-cert", "cert-chain.pem"), ("-key", "key.pem")):
        command += [flag, str(credentials(mesh) / name)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(said)
        process.stdin.flush()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(wait_s)
    process.kill()
    printed, _ = process.communicate()
    return printed.decode("latin-1")


def test_tl_10_versions(strict: Mesh) -> None:
    for version, expected in ((ssl.TLSVersion.TLSv1_2, 200), (ssl.TLSVersion.TLSv1_3, 200)):
        made = context(strict)
        made.minimum_version = made.maximum_version = version
        assert status(strict, made) == expected
    for flag in ("-tls1", "-tls1_1"):
        printed = s_client(strict, flag, "-cipher", "DEFAULT@SECLEVEL=0")
        assert "Cipher is (NONE)" in printed or "no protocols available" in printed, printed


def test_tl_11_a_second_handshake_on_the_same_connection_is_refused(strict: Mesh) -> None:
    asked = b"GET /before HTTP/1.1\r\nHost: server\r\nX-Nonce: n\r\n\r\n"
    printed = s_client(strict, "-tls1_2", "-crlf", said=b"R\n" + asked)
    assert "RENEGOTIATING" in printed, printed
    assert "no renegotiation" in printed or "alert" in printed or "unexpected eof" in printed, printed
    assert "HTTP/1.1 200" not in printed


@pytest.mark.parametrize(
    "cipher", ["eNULL", "aNULL", "RC4", "3DES", "AES128-SHA", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA"]
)
def test_tl_12_weak_ciphers_find_nobody(strict: Mesh, cipher: str) -> None:
    printed = s_client(strict, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
    assert "Cipher is (NONE)" in printed or "no cipher match" in printed or "no ciphers available" in printed, printed


def test_tl_13_tl_14_there_is_no_ticket_to_resume_or_to_send_early_data_with(strict: Mesh) -> None:
    made = context(strict)
    with wire.connect(strict.pair, "inbound") as connection, made.wrap_socket(connection) as secure:
        secure.settimeout(5)
        secure.sendall(head("/"))
        assert b" 200 " in secure.recv(65536)  # a ticket would have come with it
        session = secure.session
        assert session is None or not session.has_ticket
    with wire.connect(strict.pair, "inbound") as connection, made.wrap_socket(connection, session=session) as again:
        assert not again.session_reused


def test_tl_19_whoever_does_not_finish_a_handshake_is_left_and_others_are_served(strict: Mesh) -> None:
    """200 that say half a ClientHello, or one byte at a time, all gone after the bound; honest callers wait for none of them."""
    waiting = [wire.connect(strict.pair, "inbound") for _ in range(HALF_OPEN)]
    started = time.monotonic()
    try:
        for number, connection in enumerate(waiting):
            connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[: 3 + number % 8])
        assert status(strict, context(strict)) == 200
        for connection in waiting:
            connection.settimeout(20)
            assert ended(connection)
        assert time.monotonic() - started >= HANDSHAKE_MS / 1_000 / 2
    finally:
        for connection in waiting:
            connection.close()


def test_tl_19_a_byte_now_and_then_does_not_lengthen_the_time(strict: Mesh) -> None:
    hello = memory_hello(context(strict))
    with wire.connect(strict.pair, "inbound") as connection:
        connection.settimeout(HANDSHAKE_MS / 1_000 / 8)
        until, sent, over = time.monotonic() + 20, 0, False
        while not over and time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                try:
                    connection.sendall(hello[sent : sent + 1])
                    sent += 1
                    over = connection.recv(1) == b""
                except (ConnectionResetError, BrokenPipeError):
                    over = True
        assert over and sent < len(hello)


def memory_hello(made: ssl.SSLContext) -> bytes:
    out = ssl.MemoryBIO()
    client = made.wrap_bio(ssl.MemoryBIO(), out)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
