"""Decides from recorded bytes and printed rules what really happened. Pure: no sockets, no files, no mesh.

In:      streams of a capture, `iptables-save`, the kernel's table of sockets.
Out:     request lines, unencrypted answers, handshakes, missing rules, listeners, who connected, how long a service was
         away.
Source:  RFC 9112 section 3, RFC 8446 sections 4.1 and 4.2.1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from meshdp.demo.capture import Stream

TLS_1_3 = 0x0304


class Handshake(NamedTuple):
    """A TLS connection that came as far as the server's choice of a version."""

    client: str
    server: str
    version: int


class Listener(NamedTuple):
    """A TCP port that someone listens on, and whose user's it is."""

    port: int
    uid: int


def request_lines(found: Iterable[Stream]) -> list[str]:
    """Every HTTP/1 request line that anyone on the way could read."""
    return [line.decode() for stream in found for line in _REQUEST_LINE.findall(stream.data)]


def handshakes(found: Iterable[Stream]) -> list[Handshake]:
    """Every connection on which both sides said hello."""
    known = list(found)
    clients = {(each.source, each.destination) for each in known if _first_message(each.data)[:1] == _CLIENT_HELLO}
    return [
        Handshake(client=each.destination, server=each.source, version=_chosen_version(message))
        for each in known
        if (message := _first_message(each.data))[:1] == _SERVER_HELLO and (each.destination, each.source) in clients
    ]


def unencrypted(found: Iterable[Stream], server: str) -> list[str]:
    """How every stream begins that a server sent and that is not made of TLS records."""
    sent = [each.data for each in found if each.source == server and each.data]
    return [repr(data[:_SHOWN_BYTES]) for data in sent if data[0] not in _RECORD_KINDS or data[1:2] != _RECORD_MAJOR]


def connected_from(log: str) -> dict[str, int]:
    """Who connected to a service of Bookinfo, and how often, as its own log says."""
    return dict(Counter(_CONNECTION.findall(log)))


class Outage(NamedTuple):
    """What a client saw of a service that went away: requests lost, and when the first was answered again."""

    lost: int
    again_at: float


def outage(answers: Iterable[tuple[float, int]], killed_at: float) -> Outage | None:
    """From times and statuses of requests; None when none was answered any more.

    A request may be answered after the kill though it was served before: what counts is the first success after a
    failure, or after the kill when nothing failed.
    """
    after = sorted(each for each in answers if each[0] > killed_at)
    lost = [when for when, status in after if status != _OK]
    again = [when for when, status in after if status == _OK and (not lost or when > lost[0])]
    return Outage(len(lost), again[0]) if again else None


def missing_rules(saved: str, wanted: Iterable[str]) -> list[str]:
    """Those of the wanted rules that `iptables-save` does not show."""
    present = {line.strip() for line in saved.splitlines()}
    return [rule for rule in wanted if rule not in present]


def listeners(table: str) -> list[Listener]:
    """The listening sockets of a /proc/net/tcp."""
    rows = (line.split() for line in table.splitlines()[1:])
    return sorted(Listener(int(row[1].rpartition(":")[2], 16), int(row[7])) for row in rows if row[3] == _LISTEN)


def _first_message(data: bytes) -> bytes:
    """The first handshake message, put together from the records that carry it; empty when it is none."""
    message = bytearray()
    for body in _handshake_records(data):
        message += body
        if len(message) >= _MESSAGE_HEAD and len(message) >= _MESSAGE_HEAD + int.from_bytes(message[1:4]):
            return bytes(message[: _MESSAGE_HEAD + int.from_bytes(message[1:4])])
    return b""


def _handshake_records(data: bytes) -> Iterator[bytes]:
    offset = 0
    while offset + _RECORD_HEAD <= len(data) and data[offset] == _HANDSHAKE and data[offset + 1] == 3:
        length = int.from_bytes(data[offset + 3 : offset + 5])
        yield data[offset + _RECORD_HEAD : offset + _RECORD_HEAD + length]
        offset += _RECORD_HEAD + length


def _chosen_version(hello: bytes) -> int:
    """The version a ServerHello selects: its extension decides, for the old field says 1.2 for ever."""
    body = hello[_MESSAGE_HEAD:]
    after_session = 35 + body[34] + 3 if len(body) > _SERVER_HELLO_FIXED else len(body)
    offset = after_session + 2
    while offset + 4 <= len(body):
        kind, length = int.from_bytes(body[offset : offset + 2]), int.from_bytes(body[offset + 2 : offset + 4])
        if kind == _SUPPORTED_VERSIONS:
            return int.from_bytes(body[offset + 4 : offset + 4 + length])
        offset += 4 + length
    return int.from_bytes(body[:2])


_REQUEST_LINE = re.compile(rb"((?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|CONNECT|TRACE) \S+ HTTP/1\.[01])\r\n")
_RECORD_KINDS = range(20, 24)  # RFC 8446 section 5.1
_RECORD_MAJOR = b"\x03"
_SHOWN_BYTES = 40
_CONNECTION = re.compile(r"^connection from (\S+)$", re.MULTILINE)
_OK = 200
_LISTEN = "0A"
_HANDSHAKE = 22
_RECORD_HEAD = 5
_MESSAGE_HEAD = 4
_CLIENT_HELLO = b"\x01"
_SERVER_HELLO = b"\x02"
_SERVER_HELLO_FIXED = 38
_SUPPORTED_VERSIONS = 43
