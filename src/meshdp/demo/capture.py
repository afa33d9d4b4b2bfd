"""Records what passes a veth of the link, and takes recordings apart: packets to TCP streams.

In:      the link's namespace and the name of an instance's port there; or a pcap file.
Out:     a pcap file that tcpdump and Wireshark read; streams of bytes, one for each direction of each connection.
Limits:  IPv4 and TCP only.
Source:  packet(7); pcap-savefile(5); RFC 791 section 3.1, RFC 9293 section 3.1.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from meshdp.local.isolation import doors

SNAP_BYTES = 65535


class Packet(NamedTuple):
    """One Ethernet frame and when it was seen."""

    time_s: float
    frame: bytes


class Segment(NamedTuple):
    """One TCP segment; addresses are "ip:port"."""

    source: str
    destination: str
    sequence: int
    syn: bool
    payload: bytes


@dataclass(frozen=True, slots=True)
class Stream:
    """The bytes of one direction of one connection, in order and once."""

    source: str
    destination: str
    data: bytes


@contextlib.contextmanager
def recording(link_pid: int, port: str, path: Path) -> Iterator[None]:
    """Records everything that passes `port` while its body runs, and writes it to `path`."""
    with doors.socket_in(link_pid, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERTYPE_ALL)) as tap:
        tap.bind((port, _ETHERTYPE_ALL))
        with _Taker(tap) as taker:
            yield
        write_pcap(path, taker.packets)


def write_pcap(path: Path, packets: list[Packet]) -> None:
    """Writes frames in libpcap's classic format, Ethernet link type."""
    pieces = [struct.pack("<IHHiIII", _PCAP_MAGIC, 2, 4, 0, 0, SNAP_BYTES, _LINKTYPE_ETHERNET)]
    for packet in packets:
        seconds = int(packet.time_s)
        micros = int((packet.time_s - seconds) * 1e6)
        pieces.append(struct.pack("<IIII", seconds, micros, len(packet.frame), len(packet.frame)) + packet.frame)
    path.write_bytes(b"".join(pieces))


def read_pcap(path: Path) -> list[Packet]:
    """Reads frames in libpcap's classic format, as written by us or by tcpdump on this kind of machine."""
    raw = path.read_bytes()
    if len(raw) < _PCAP_HEADER_BYTES or struct.unpack_from("<I", raw)[0] != _PCAP_MAGIC:
        raise ValueError(f"{path} is not a little-endian pcap file with microseconds")
    packets, offset = [], _PCAP_HEADER_BYTES
    while offset + _PCAP_RECORD_BYTES <= len(raw):
        seconds, micros, length, _ = struct.unpack_from("<IIII", raw, offset)
        offset += _PCAP_RECORD_BYTES
        packets.append(Packet(seconds + micros / 1e6, raw[offset : offset + length]))
        offset += length
    return packets


def streams(packets: list[Packet]) -> list[Stream]:
    """Puts the segments of each direction of each connection in order; a gap ends a stream."""
    grouped: dict[tuple[str, str, int], list[Segment]] = {}
    first_sequence: dict[tuple[str, str], int] = {}
    for packet in packets:
        segment = _segment(packet.frame)
        if segment is None:
            continue
        way = (segment.source, segment.destination)
        if segment.syn or way not in first_sequence:
            first_sequence[way] = segment.sequence + segment.syn
        grouped.setdefault((*way, first_sequence[way]), []).append(segment)
    return [
        Stream(source, destination, _in_order(segments, start))
        for (source, destination, start), segments in grouped.items()
    ]


def _in_order(segments: list[Segment], start: int) -> bytes:
    data = bytearray()
    for segment in sorted(segments, key=lambda each: (each.sequence + each.syn - start) % _SEQUENCES):
        offset = (segment.sequence + segment.syn - start) % _SEQUENCES
        if offset > len(data):
            break
        data += segment.payload[len(data) - offset :]
    return bytes(data)


def _segment(frame: bytes) -> Segment | None:
    if frame[12:14] != _ETHERTYPE_IPV4 or len(frame) < _ETHERNET_BYTES + 20:
        return None
    packet = frame[_ETHERNET_BYTES:]
    header_bytes = (packet[0] & 0x0F) * 4
    total_bytes = struct.unpack_from(">H", packet, 2)[0]
    if packet[9] != socket.IPPROTO_TCP or total_bytes < header_bytes + 20:
        return None
    # A frame handed over before segmentation may say 0 or be longer than one packet: what is there counts.
    tcp = packet[header_bytes:total_bytes]
    if len(tcp) < 20:
        return None
    source_port, destination_port, sequence = struct.unpack_from(">HHI", tcp)
    source, destination = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    return Segment(
        source=f"{source}:{source_port}",
        destination=f"{destination}:{destination_port}",
        sequence=sequence,
        syn=bool(tcp[13] & _SYN),
        payload=tcp[(tcp[12] >> 4) * 4 :],
    )


class _Taker:
    """Takes frames off a tap in a thread while a block runs: for ordinary users the kernel's buffer is small."""

    def __init__(self, tap: socket.socket) -> None:
        self.packets: list[Packet] = []
        self._tap = tap
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._tap.settimeout(_POLL_S)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        """What is there when the end comes is still taken, for `_LAST_S` where traffic never pauses; times are those of
        the taking, close enough for reading."""
        until = math.inf
        while time.monotonic() < until:
            if self._ended.is_set():
                until = min(until, time.monotonic() + _LAST_S)
            try:
                frame = self._tap.recv(SNAP_BYTES)
            except TimeoutError:
                if self._ended.is_set():
                    return
                continue
            self.packets.append(Packet(time.time(), frame))


_ETHERTYPE_ALL = 0x0003
_ETHERTYPE_IPV4 = b"\x08\x00"
_ETHERNET_BYTES = 14
_POLL_S = 0.05
_LAST_S = 1.0
_SYN = 0x02
_SEQUENCES = 1 << 32
_PCAP_MAGIC = 0xA1B2C3D4
_PCAP_HEADER_BYTES = 24
_PCAP_RECORD_BYTES = 16
_LINKTYPE_ETHERNET = 1
