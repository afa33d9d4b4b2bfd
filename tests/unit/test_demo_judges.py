"""The demo's judges: they see what is in a recording, and they do not see what is not there."""

import socket
import struct
from pathlib import Path

import pytest

from meshdp.demo import capture, judges
from meshdp.demo.capture import Packet, Stream

CLIENT, SERVER = ("10.244.1.1", 40000), ("10.244.1.2", 9080)
REQUEST = b"GET /details/0 HTTP/1.1\r\nHost: details:9080\r\n\r\n"
SYN, ACK, PSH = 0x02, 0x10, 0x08


def tcp_frame(
    source: tuple[str, int], to: tuple[str, int], sequence: int, payload: bytes = b"", flags: int = ACK
) -> bytes:
    tcp = struct.pack(">HHIIBBHHH", source[1], to[1], sequence, 0, 5 << 4, flags, 65535, 0, 0) + payload
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(to[0])
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0) + addresses
    return b"\x02" * 12 + b"\x08\x00" + ip + tcp


def conversation(from_client: bytes, from_server: bytes, piece: int = 10) -> list[Packet]:
    """A connection whose bytes come in small segments, with a resent one and one out of order."""
    frames = [tcp_frame(CLIENT, SERVER, 99, flags=SYN), tcp_frame(SERVER, CLIENT, 499, flags=SYN | ACK)]
    for source, to, start, data in ((CLIENT, SERVER, 100, from_client), (SERVER, CLIENT, 500, from_server)):
        pieces = [
            tcp_frame(source, to, start + offset, data[offset : offset + piece], PSH | ACK)
            for offset in range(0, len(data), piece)
        ]
        frames += [*pieces[:1], *pieces[2:3], *pieces[1:2], *pieces[1:2], *pieces[3:]]
    return [Packet(1000.5 + number, frame) for number, frame in enumerate(frames)]


def record(kind: int, body: bytes) -> bytes:
    return bytes([kind, 3, 3]) + len(body).to_bytes(2) + body


def hello(kind: int, extensions: bytes) -> bytes:
    fixed = b"\x03\x03" + b"r" * 32 + b"\x20" + b"s" * 32
    choice = b"\x13\x01\x00" if kind == 2 else b"\x00\x02\x13\x01\x01\x00"
    body = fixed + choice + len(extensions).to_bytes(2) + extensions
    return bytes([kind]) + len(body).to_bytes(3) + body


def extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2) + len(body).to_bytes(2) + body


CLIENT_HELLO = record(22, hello(1, extension(43, b"\x02\x03\x04")))
SERVER_HELLO_13 = record(22, hello(2, extension(51, b"\0" * 36) + extension(43, b"\x03\x04")))
SERVER_HELLO_12 = record(22, hello(2, extension(23, b"")))


def streams_of(packets: list[Packet], folder: Path) -> list[Stream]:
    """Through a file, as the demo does it."""
    capture.write_pcap(folder / "taken.pcap", packets)
    return capture.streams(capture.read_pcap(folder / "taken.pcap"))


def test_a_recording_survives_its_file(tmp_path: Path) -> None:
    packets = conversation(REQUEST, b"HTTP/1.1 200 OK\r\n\r\n")
    capture.write_pcap(tmp_path / "taken.pcap", packets)
    assert capture.read_pcap(tmp_path / "taken.pcap") == packets


def test_streams_are_in_order_and_once(tmp_path: Path) -> None:
    found = streams_of(conversation(REQUEST, b"answer" * 50), tmp_path)
    assert {(each.source, each.data) for each in found} == {
        ("10.244.1.1:40000", REQUEST),
        ("10.244.1.2:9080", b"answer" * 50),
    }


def test_a_readable_request_line_is_seen(tmp_path: Path) -> None:
    found = streams_of(conversation(REQUEST + REQUEST.replace(b"GET", b"POST"), b""), tmp_path)
    assert judges.request_lines(found) == ["GET /details/0 HTTP/1.1", "POST /details/0 HTTP/1.1"]


def test_an_encrypted_one_is_not(tmp_path: Path) -> None:
    sealed = bytes(byte ^ 0x5A for byte in REQUEST)
    found = streams_of(conversation(CLIENT_HELLO + record(23, sealed), SERVER_HELLO_13), tmp_path)
    assert judges.request_lines(found) == []


def test_a_gap_does_not_join_what_was_apart(tmp_path: Path) -> None:
    packets = conversation(REQUEST, b"")
    cut = [packet for packet in packets if b"ls/0 " not in packet.frame]
    assert len(cut) < len(packets)
    assert judges.request_lines(streams_of(cut, tmp_path)) == []


@pytest.mark.parametrize(("answer", "version"), [(SERVER_HELLO_13, 0x0304), (SERVER_HELLO_12, 0x0303)])
def test_the_version_is_the_one_the_server_chose(tmp_path: Path, answer: bytes, version: int) -> None:
    found = streams_of(conversation(CLIENT_HELLO, answer + record(23, b"x" * 100)), tmp_path)
    assert judges.handshakes(found) == [judges.Handshake("10.244.1.1:40000", "10.244.1.2:9080", version)]


def test_a_message_in_two_records_is_one(tmp_path: Path) -> None:
    body = SERVER_HELLO_13[5:]
    split = record(22, body[:20]) + record(22, body[20:])
    found = streams_of(conversation(CLIENT_HELLO, split), tmp_path)
    assert [each.version for each in judges.handshakes(found)] == [0x0304]


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (CLIENT_HELLO, b""),
        (CLIENT_HELLO, b"HTTP/1.1 400\r\n"),
        (REQUEST, SERVER_HELLO_13),
        (CLIENT_HELLO, b"\x16\x03\x03"),
    ],
)
def test_half_a_handshake_is_none(tmp_path: Path, client: bytes, server: bytes) -> None:
    assert judges.handshakes(streams_of(conversation(client, server), tmp_path)) == []


def test_what_is_not_tcp_is_passed_over(tmp_path: Path) -> None:
    odd = [Packet(1.0, b"\xff" * 20), Packet(1.0, b""), Packet(1.0, b"\x02" * 12 + b"\x08\x06" + b"\0" * 40)]
    assert streams_of(odd, tmp_path) == []


def test_a_file_that_is_no_pcap_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match="not a little-endian pcap"):
        capture.read_pcap(tmp_path / "odd")


def test_missing_rules_are_named() -> None:
    saved = "*nat\n-A OUTPUT -j ISTIO_OUTPUT\nCOMMIT\n"
    wanted = ["-A OUTPUT -j ISTIO_OUTPUT", "-A PREROUTING -p tcp -j ISTIO_INBOUND"]
    assert judges.missing_rules(saved, wanted) == ["-A PREROUTING -p tcp -j ISTIO_INBOUND"]


def test_only_listening_sockets_are_listeners() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 00000000:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1337 0 1 1 0 100 0 0 10 0\n"
        "   1: 00000000:2378 0100007F:9999 01 00000000:00000000 00:00000000 00000000    0 0 2 1 0 100 0 0 10 0\n"
    )
    assert judges.listeners(table) == [judges.Listener(15001, 1337)]


# --- a service that goes away ----------------------------------------------------------------------------------------

DETAILS, VISITOR, PEER = "10.244.1.2:9080", "10.244.1.9:40000", "10.244.1.1:40000"


def test_an_answer_in_plaintext_is_seen_whoever_gets_it() -> None:
    records = Stream(DETAILS, PEER, record(22, b"hello") + record(23, b"sealed"))
    begun_before = Stream(DETAILS, PEER, record(23, b"sealed"))
    refused = Stream(DETAILS, VISITOR, b"")
    request = Stream(VISITOR, DETAILS, REQUEST)
    answer = Stream(DETAILS, VISITOR, b"HTTP/1.1 403 Forbidden\r\n\r\n")
    assert judges.unencrypted([records, begun_before, refused, request], DETAILS) == []
    assert judges.unencrypted([records, request, answer], DETAILS) == [repr(answer.data[:40])]
    assert judges.unencrypted([Stream(DETAILS, VISITOR, b"\x16")], DETAILS) == [repr(b"\x16")]


def test_who_connected_is_in_the_log() -> None:
    log = "connection from 127.0.0.6\n127.0.0.6 - - GET\nconnection from 127.0.0.6\nconnection from 10.244.1.9\n"
    assert judges.connected_from(log) == {"127.0.0.6": 2, "10.244.1.9": 1}
    assert judges.connected_from("nothing") == {}


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        ([(1.0, 200), (2.1, 0), (2.2, 503), (2.5, 200), (2.6, 200)], judges.Outage(2, 2.5)),
        ([(1.0, 200), (2.05, 200), (2.1, 0), (2.5, 200)], judges.Outage(1, 2.5)),  # answered on its way out
        ([(2.5, 200), (2.1, 200)], judges.Outage(0, 2.1)),
        ([(1.0, 200), (2.1, 0)], None),
        ([(1.0, 200)], None),
        ([], None),
    ],
)
def test_how_long_a_service_was_away(answers: list[tuple[float, int]], wanted: judges.Outage | None) -> None:
    assert judges.outage(answers, killed_at=2.0) == wanted
