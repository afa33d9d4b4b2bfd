"""HTTP/1 framing, H1-01 to H1-20 of the catalogue: one message must have one length, for every reader.

In:     raw bytes, by both ways in; `arena` checks the post-conditions after every one of them.
Source: RFC 9112 2.2, 6 and 8; attack cases 2.1.
"""

from __future__ import annotations

import socket
import struct

import pytest

from tests.attack.conftest import SMUGGLED, Arena, request
from tests.support import wire
from tests.support.origin import Request

CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"


def post(*fields: str, body: bytes = b"", target: str = "/echo") -> bytes:
    return request(target, *fields, method="POST", body=body)


def one_body(body: bytes) -> object:
    def check(requests: list[Request]) -> None:
        assert [(found.method, found.body) for found in requests] == [(b"POST", body)]

    return check


def test_h1_01_content_length_with_chunked(arena: Arena) -> None:
    arena.refuse(post("Content-Length: 5", "Transfer-Encoding: chunked", body=CHUNKED))
    arena.refuse(post("Content-Length: 15", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"))


def test_h1_02_chunked_with_content_length(arena: Arena) -> None:
    arena.refuse(post("Transfer-Encoding: chunked", "Content-Length: 4", body=b"40\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"))


def test_h1_03_two_transfer_encodings(arena: Arena) -> None:
    arena.refuse(post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKED))


@pytest.mark.parametrize("coding", ["chunked, chunked", "chunked, gzip", "identity", "gzip", "gzip, chunked"])
def test_h1_04_other_codings(arena: Arena, coding: str) -> None:
    arena.refuse(post(f"Transfer-Encoding: {coding}", body=CHUNKED), (400, 501))


@pytest.mark.parametrize("coding", [",chunked", "chunked,", ""])
def test_h1_05_empty_list_elements(arena: Arena, coding: str) -> None:
    arena.refuse(post(f"Transfer-Encoding: {coding}", body=CHUNKED))


@pytest.mark.parametrize(
    "coding",
    ["xchunked", "chunked;a=b"] + [text for c in "\x0b\x0c\0\xa0\x85\xff" for text in (f"{c}chunked", f"chunked{c}")],
)
def test_h1_06_disguised_coding(arena: Arena, coding: str) -> None:
    arena.refuse(post(f"Transfer-Encoding: {coding}", body=CHUNKED))


def test_h1_06_white_space_around_a_clean_value(arena: Arena) -> None:
    def check(requests: list[Request]) -> None:
        assert [(found.values(b"transfer-encoding"), found.body) for found in requests] == [([b"chunked"], b"hello")]

    arena.accept(post("Transfer-Encoding: \t chunked \t", body=CHUNKED), check)


def test_h1_07_coding_in_capitals(arena: Arena) -> None:
    def check(requests: list[Request]) -> None:
        assert [(found.values(b"transfer-encoding"), found.body) for found in requests] == [([b"chunked"], b"hello")]

    arena.accept(post("Transfer-Encoding: CHUNKED", body=CHUNKED), check)


def test_h1_08_coding_continued_on_the_next_line(arena: Arena) -> None:
    arena.refuse(post("Transfer-Encoding:\r\n chunked", body=CHUNKED))


@pytest.mark.parametrize("line", ["Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked", "X-Other : a"])
def test_h1_09_white_space_before_the_colon(arena: Arena, line: str) -> None:
    arena.refuse(post(line, body=CHUNKED))


@pytest.mark.parametrize(
    "line", ["Transfer_Encoding: chunked", "Content_Length: 5", "X_Forwarded_For: 1.2.3.4", "content_length: 0"]
)
def test_h1_10_underscore_alias(arena: Arena, line: str) -> None:
    arena.refuse(post(line, body=CHUNKED))


def test_h1_10_other_underscores_pass(arena: Arena) -> None:
    def check(requests: list[Request]) -> None:
        assert [found.values(b"my_own_name") for found in requests] == [[b"kept"]]

    arena.accept(request("/", "My_Own_Name: kept"), check)


def test_h1_11_coding_in_http_1_0(arena: Arena) -> None:
    arena.refuse(post("Transfer-Encoding: chunked", body=CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0", 1))


def test_h1_12_http_1_0_body_without_a_length(arena: Arena) -> None:
    # Istio answers HTTP/1.0 with 426; either way the bytes behind the head are no body and no request.
    arena.refuse(post(body=b"hello").replace(b"HTTP/1.1", b"HTTP/1.0", 1), (400, 426))


@pytest.mark.parametrize("lengths", [["5", "5"], ["5", "6"], ["5, 5"], ["5, 6"]])
def test_h1_13_repeated_length(arena: Arena, lengths: list[str]) -> None:
    arena.refuse(post(*(f"Content-Length: {length}" for length in lengths), body=b"hello!"))


@pytest.mark.parametrize("length", ["+5", "-1", "-0", "0x5", "5_0", "1e1", "5 5", "", "5Z", "5\t5"])
def test_h1_14_odd_length(arena: Arena, length: str) -> None:
    arena.refuse(post(f"Content-Length: {length}", body=b"hello"))


@pytest.mark.parametrize(("length", "body"), [("005", b"hello"), ("010", b"helloworld")])
def test_h1_15_length_with_zeros(arena: Arena, length: str, body: bytes) -> None:
    def check(requests: list[Request]) -> None:
        assert [found.values(b"content-length") for found in requests] == [[str(int(length)).encode()]]
        assert [found.body for found in requests] == [body]

    arena.accept(post(f"Content-Length: {length}", body=body), check)


@pytest.mark.parametrize("length", [str(2**63 - 1), str(2**64 - 1), str(2**64 + 5), str(2**63), "9" * 400])
def test_h1_16_length_that_wraps(arena: Arena, length: str) -> None:
    arena.refuse(post(f"Content-Length: {length}", body=b"hello"), (400, 413))


@pytest.mark.parametrize("end", ["fin", "reset"])
def test_h1_17_body_shorter_than_its_length(arena: Arena, end: str) -> None:
    before, connections = len(arena.origin.requests), len(arena.origin.connections)
    arena.origin.drop_connections()
    with wire.connect(arena.pair, arena.direction) as connection:
        wire.send_pieces(connection, [post("Content-Length: 100", body=b"hello")])
        assert arena.origin.wait(lambda: len(arena.origin.connections) > connections)
        assert arena.origin.wait(lambda: arena.origin.connections[-1].received.endswith(b"hello"))
        if end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            connection.shutdown(socket.SHUT_WR)
            assert wire.listen(connection).statuses in ([], [400])
    assert arena.origin.wait(lambda: arena.origin.connections[connections].ended != ""), "the upstream is aborted"
    assert arena.origin.requests[before:] == []


def test_h1_17_stalled_body(arena: Arena) -> None:
    with wire.connect(arena.pair, arena.direction) as connection:
        wire.send_pieces(connection, [post("Content-Length: 100", body=b"hello")])
        heard = wire.listen(connection, None)
    assert (heard.statuses, heard.ended) == ([408], "fin")


BARE_LF = {
    "request line": b"POST /echo HTTP/1.1\nHost: server\r\n\r\n",
    "field": b"GET / HTTP/1.1\r\nHost: server\nX-Other: a\r\n\r\n",
    "last field": b"GET / HTTP/1.1\r\nHost: server\n\r\n",
    "empty line": b"GET / HTTP/1.1\r\nHost: server\r\n\n",
}
CHUNK_LF = {
    "chunk size": b"5\nhello\r\n0\r\n\r\n",
    "chunk data": b"5\r\nhello\n0\r\n\r\n",
    "last chunk": b"5\r\nhello\r\n0\n\r\n",
    "trailer": b"5\r\nhello\r\n0\r\nX-Trailer: a\n\r\n",
    "final line": b"5\r\nhello\r\n0\r\n\n",
}


@pytest.mark.parametrize("where", BARE_LF)
def test_h1_18_bare_lf(arena: Arena, where: str) -> None:
    arena.refuse(BARE_LF[where])


@pytest.mark.parametrize("where", CHUNK_LF)
def test_h1_18_bare_lf_in_a_chunked_body(arena: Arena, where: str) -> None:
    arena.refuse(post("Transfer-Encoding: chunked", body=CHUNK_LF[where]), in_body=True)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /a\r HTTP/1.1\r\nHost: server\r\n\r\n",
        b"GET / HTTP/1.1\rHost: server\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: server\r\nX-\rName: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: server\r\nX-Name: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: server\r\nX-Name\r: a\r\n\r\n",
        b"GET / HTTP/1.1\rHost: server\r\r",
        b"GET / HTTP/1.1\r\nHost: server\r\n\rX",
    ],
)
def test_h1_19_bare_cr(arena: Arena, data: bytes) -> None:
    arena.refuse(data)


def test_h1_20_one_empty_line_first(arena: Arena) -> None:
    def check(requests: list[Request]) -> None:
        assert [found.method for found in requests] == [b"GET"]

    arena.accept(b"\r\n" + request(), check)


def test_h1_20_many_empty_lines_first(arena: Arena) -> None:
    arena.refuse(b"\r\n" * 5 + request())
