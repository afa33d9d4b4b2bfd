"""HTTP/1 fields and chunks, H1-21 to H1-30: what a name, a value and a chunk line may hold.

In:     raw bytes, by both ways in; `arena` checks the post-conditions after every one of them.
Source: RFC 9112 5 and 7.1, RFC 9110 5; attack cases 2.1.
"""

from __future__ import annotations

import pytest

from tests.attack.conftest import Arena, request
from tests.support import wire
from tests.support.origin import Request

FORBIDDEN_IN_NAMES = [*range(0x21), *b'"(),/;<=>?@[\\]{}', 0x7F, *range(0x80, 0x100, 9), 0xFF]
FORBIDDEN_IN_VALUES = [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F]


def chunked(body: bytes) -> bytes:
    return request("/echo", "Transfer-Encoding: chunked", method="POST", body=body)


@pytest.mark.parametrize(
    "lines",
    [
        b"X-Folded: a\r\n b\r\n",
        b"X-Folded: a\r\n\tb\r\n",
        b"X-Folded:\r\n \r\n",
        b"X-Na\r\n me: a\r\n",
        b"X-Na\r\nme: a\r\n",
    ],
)
def test_h1_21_folded_line(arena: Arena, lines: bytes) -> None:
    arena.refuse(b"GET / HTTP/1.1\r\nHost: server\r\n" + lines + b"\r\n")


@pytest.mark.parametrize("space", [b" ", b"\t"])
def test_h1_22_white_space_before_the_first_name(arena: Arena, space: bytes) -> None:
    arena.refuse(b"GET / HTTP/1.1\r\n" + space + b"Host: server\r\nX-Other: a\r\n\r\n")


@pytest.mark.parametrize("line", [b"no-colon", b": value", b":", b"two words"])
def test_h1_23_line_without_a_name(arena: Arena, line: bytes) -> None:
    arena.refuse(b"GET / HTTP/1.1\r\nHost: server\r\n" + line + b"\r\nX-After: a\r\n\r\n")
    arena.refuse(b"GET / HTTP/1.1\r\n" + line + b"\r\nHost: server\r\n\r\n")


@pytest.mark.parametrize("byte", FORBIDDEN_IN_NAMES)
def test_h1_24_byte_that_is_no_token_in_a_name(arena: Arena, byte: int) -> None:
    arena.refuse(b"GET / HTTP/1.1\r\nHost: server\r\nX-%bName: a\r\n\r\n" % bytes([byte]))


@pytest.mark.parametrize("byte", FORBIDDEN_IN_VALUES)
def test_h1_25_control_byte_in_a_value(arena: Arena, byte: int) -> None:
    arena.refuse(b"GET / HTTP/1.1\r\nHost: server\r\nX-Name: a%bb\r\n\r\n" % bytes([byte]))


def test_h1_26_high_bytes_pass_unchanged(arena: Arena) -> None:
    value = bytes(range(0x80, 0x100))

    def check(requests: list[Request]) -> None:
        assert [found.values(b"x-high") for found in requests] == [[value]]

    arena.accept(b"GET / HTTP/1.1\r\nHost: server\r\nX-High: " + value + b"\r\n\r\n", check)


@pytest.mark.parametrize("name", ["Host", "Transfer-Encoding", "Content-Length"])
@pytest.mark.parametrize("byte", [0x80, 0x85, 0xA0, 0xFF])
def test_h1_26_high_byte_where_it_decides(arena: Arena, name: str, byte: int) -> None:
    value = {"Host": "server", "Transfer-Encoding": "chunked", "Content-Length": "5"}[name].encode() + bytes([byte])
    host = b"" if name == "Host" else b"Host: server\r\n"
    arena.refuse(b"POST / HTTP/1.1\r\n" + host + name.encode() + b": " + value + b"\r\n\r\nhello")


@pytest.mark.parametrize("size", [255, 256])
def test_h1_27_long_name_within_the_limit(arena: Arena, size: int) -> None:
    name = b"n" * size

    def check(requests: list[Request]) -> None:
        assert [found.values(name) for found in requests] == [[b"a"]]

    arena.accept(b"GET / HTTP/1.1\r\nHost: server\r\n" + name + b": a\r\n\r\n", check)


@pytest.mark.parametrize("size", [257, 65_535, 65_536, 65_537])
def test_h1_27_long_name_above_the_limit(arena: Arena, size: int) -> None:
    arena.refuse(b"GET / HTTP/1.1\r\nHost: server\r\n" + b"n" * size + b": a\r\n\r\n", (431,))


@pytest.mark.parametrize("size", [255, 256, 257, 50_000])
def test_h1_27_long_value_within_the_limit(arena: Arena, size: int) -> None:
    def check(requests: list[Request]) -> None:
        assert [found.values(b"x-long") for found in requests] == [[b"v" * size]]

    arena.accept(b"GET / HTTP/1.1\r\nHost: server\r\nX-Long: " + b"v" * size + b"\r\n\r\n", check)


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537])
def test_h1_27_long_value_above_the_limit(arena: Arena, size: int) -> None:
    arena.refuse(b"GET / HTTP/1.1\r\nHost: server\r\nX-Long: " + b"v" * size + b"\r\n\r\n", (431,))


@pytest.mark.parametrize(
    "size",
    ["0x5", "+5", "-0", "5_0", " 5", "5 ", "", "G", "00000000000000005", "FFFFFFFFFFFFFFFF", "10000000000000005"],
)
def test_h1_28_odd_chunk_size(arena: Arena, size: str) -> None:
    arena.refuse(chunked(size.encode() + b"\r\nhello\r\n0\r\n\r\n"), in_body=True)


def test_h1_29_valid_extensions_are_not_forwarded(arena: Arena) -> None:
    def check(requests: list[Request]) -> None:
        assert [found.body for found in requests] == [b"hello"]  # the origin faults any extension

    arena.accept(chunked(b'5;a=b;c="d \\" e";f\r\nhello\r\n0;last\r\n\r\n'), check)


def test_h1_29_too_many_extensions(arena: Arena) -> None:
    arena.refuse(chunked(b"5;a=" + b"b" * 17_000 + b"\r\nhello\r\n0\r\n\r\n"), in_body=True)
    arena.refuse(chunked((b"1;" + b"a" * 200 + b"\r\nx\r\n") * 100 + b"0\r\n\r\n"), in_body=True)


@pytest.mark.parametrize(
    "line",
    [
        b"5;",
        b"5;;a",
        b"5; a=b",
        b"5;a=",
        b"5;a\r=b",
        b"5;a\n",
        b"5;a=\0",
        b"5;a=b c",
        b"5;a(=b",
        b'5;a="b',
        b"5;a\rX",
        b'5;a="\n"',
    ],
)
def test_h1_30_broken_extension(arena: Arena, line: bytes) -> None:
    arena.refuse(chunked(line + b"\r\nhello\r\n0\r\n\r\n"), in_body=True)


def test_the_canary_can_fail(arena: Arena) -> None:
    """The test of the test: an application that does not answer is noticed."""
    heard = wire.ask(arena.pair, arena.direction, request("/slow/2500"), 1, 1)
    assert heard.ended == "silent"
