"""What HTTP/2 can say and HTTP/1.1 cannot: never a byte of it in a head that we write.

Source: attack cases DG-01 to DG-13, DG-16 to DG-18; RFC 9113 8.2, 8.3.
"""

from __future__ import annotations

import pytest

from tests.support import frames, wire
from tests.support.frames import data, head, number, request_fields
from tests.support.h2_arena import H2Arena
from tests.support.origin import Request

Field = tuple[str | bytes, str | bytes]
PSEUDO = request_fields("/never")
SMUGGLED = "x\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: server\r\nX: y"


def with_fields(h2: H2Arena, *fields: Field) -> None:
    h2.stream_fault(lambda at: head(at, [*PSEUDO, *fields]))


def with_pseudo(h2: H2Arena, name: str, value: str | bytes) -> None:
    """A request that is good but for one pseudo-header."""
    h2.stream_fault(lambda at: head(at, [(known, value if known == name else good) for known, good in PSEUDO]))


@pytest.mark.parametrize(
    "value", ["a\rb", "a\nb", "a\0b", "\r\n", SMUGGLED], ids=["cr", "lf", "nul", "crlf", "smuggled"]
)
def test_dg_01_control_bytes_in_values(h2: H2Arena, value: str) -> None:
    with_fields(h2, ("x-value", value))


@pytest.mark.parametrize(
    "name", ["a\rb", "a\nb", "a b", "a:b", "X-Upper", "x\0", "x\x7f", b"x\xff", f"x: y\r\n{SMUGGLED}"],
    ids=["cr", "lf", "space", "colon", "upper", "nul", "del", "latin", "smuggled"],
)  # fmt: skip
def test_dg_02_names(h2: H2Arena, name: str | bytes) -> None:
    with_fields(h2, (name, "value"))


@pytest.mark.parametrize("value", [" a", "a ", "\ta", "a\t", " "])
def test_dg_03_white_space_around_values(h2: H2Arena, value: str) -> None:
    with_fields(h2, ("x-value", value))


@pytest.mark.parametrize(
    "field",
    [
        ("transfer-encoding", "chunked"), ("connection", "close"), ("upgrade", "websocket"), ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"), ("te", "gzip"), ("te", "trailers, gzip"),
    ],
)  # fmt: skip
def test_dg_04_fields_of_one_connection(h2: H2Arena, field: Field) -> None:
    with_fields(h2, field)


def test_dg_04_te_trailers_is_fine(h2: H2Arena) -> None:
    h2.accept(head(1, request_fields("/te", ("te", "trailers"))), lambda request: None)


@pytest.mark.parametrize("method", ["GET / HTTP/1.1\r\nx: y", "GET /", "G T", "", " GET", "GET\0", "GÉT"])
def test_dg_05_methods(h2: H2Arena, method: str) -> None:
    with_pseudo(h2, ":method", method)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "never",
        "/a b",
        "/a\r\nx: y",
        "/a HTTP/1.1\r\nHost: evil\r\n\r\n",
        "/a\0",
        "http://server/never",
        "*",
        "/a\tb",
        "?q",
    ],
)
def test_dg_06_paths(h2: H2Arena, path: str) -> None:
    with_pseudo(h2, ":path", path)


def test_dg_06_a_fragment_is_removed_before_any_decision(h2: H2Arena) -> None:
    h2.accept(head(1, request_fields("/before#behind")), lambda request: equal(request.target, b"/before"))


@pytest.mark.parametrize("scheme", ["http://evil/?", "", "ht tp", "http\r\nx: y", "1http"])
def test_dg_07_schemes(h2: H2Arena, scheme: str) -> None:
    with_pseudo(h2, ":scheme", scheme)


def test_dg_07_mixed_case_is_the_same_scheme(h2: H2Arena) -> None:
    fields = [(name, "HtTp" if name == ":scheme" else value) for name, value in request_fields("/scheme")]
    h2.accept(head(1, fields), lambda request: equal(request.values(b"x-forwarded-proto"), [b"http"]))


def equal(found: object, wanted: object) -> None:
    assert found == wanted


@pytest.mark.parametrize(
    "authority", ["a@server", "ser ver", "server/never", "server,other", "server\r\nx: y", "server\0", "server:8o"]
)
def test_dg_08_authorities(h2: H2Arena, authority: str) -> None:
    with_pseudo(h2, ":authority", authority)


def test_dg_08_two_authorities(h2: H2Arena) -> None:
    h2.stream_fault(lambda at: head(at, [(":authority", "other"), *PSEUDO]))


def test_dg_09_authority_and_host(h2: H2Arena) -> None:
    with_fields(h2, ("host", "other"))
    with_fields(h2, ("host", "server"), ("host", "server"))
    h2.accept(
        head(1, request_fields("/host", ("host", "server"))),
        lambda request: equal(request.values(b"host"), [b"server"]),
    )
    alone = [(name, value) for name, value in request_fields("/host", ("host", "server")) if name != ":authority"]
    h2.accept(head(1, alone), lambda request: equal(request.values(b"host"), [b"server"]))


@pytest.mark.parametrize(
    "fields",
    [
        *[[field for field in PSEUDO if field[0] != missing] for missing in (":method", ":scheme", ":path")],
        *[[field, *PSEUDO] for field in PSEUDO],
        [*PSEUDO, (":unknown", "1")],
        [*PSEUDO, (":status", "200")],
        [*PSEUDO[:3], ("x-early", "1"), PSEUDO[3]],
        [*PSEUDO, (":", "1")],
        [*PSEUDO, (":Path", "/other")],
    ],
    ids=["no-method", "no-scheme", "no-path", "two-methods", "two-schemes", "two-authorities", "two-paths", "unknown", "status", "late", "colon", "upper"],
)  # fmt: skip
def test_dg_10_pseudo_headers(h2: H2Arena, fields: list[Field]) -> None:
    h2.stream_fault(lambda at: head(at, fields))


def test_dg_11_cookie_crumbs_are_joined_once(h2: H2Arena) -> None:
    crumbs = request_fields(
        "/cookies", ("cookie", "a=1"), ("x-between", "1"), ("cookie", "b=2"), ("cookie", "c=3; d=4")
    )
    h2.accept(head(1, crumbs), lambda request: equal(request.values(b"cookie"), [b"a=1; b=2; c=3; d=4"]))


def test_dg_12_framing_for_http1(h2: H2Arena) -> None:
    def framed(request: Request, length: list[bytes], coding: list[bytes], body: bytes) -> None:
        found = (request.values(b"content-length"), request.values(b"transfer-encoding"), request.body)
        assert found == (length, coding, body)

    h2.accept(head(1, request_fields("/get")), lambda request: framed(request, [], [], b""))
    sent = head(1, request_fields("/echo", method="POST"), end=False) + data(1, b"abc") + data(1, end=True)
    h2.accept(sent, lambda request: framed(request, [], [b"chunked"], b"abc"))
    sent = head(1, request_fields("/echo", ("content-length", "3"), method="POST"), end=False) + data(
        1, b"abc", end=True
    )
    h2.accept(sent, lambda request: framed(request, [b"3"], [], b"abc"))
    sent = head(1, request_fields("/echo", method="GET"), end=False) + data(1, end=True)
    h2.accept(sent, lambda request: equal(request.body, b""))


def test_dg_13_a_reset_in_a_body_aborts_the_http1_upstream(h2: H2Arena) -> None:
    faults = len(h2.origin.faults)
    with h2.open() as peer:
        nonce = wire.nonce()
        peer.send(
            head(1, request_fields("/echo", ("x-nonce", nonce), method="POST"), end=False), data(1, b"part of it")
        )

        def there() -> bool:
            return any(
                nonce in each.received and bytes(each.received).endswith(b"part of it\r\n")
                for each in h2.origin.connections
            )

        assert h2.origin.wait(there)
        peer.send(number(frames.RST_STREAM, 1, frames.CANCEL))
        assert h2.origin.wait(lambda: h2.origin.faults[faults:] == ["cut in chunk size"]), h2.origin.faults[faults:]
        assert peer.ask(3, nonce=b"after")
    h2.arena.healthy()


@pytest.mark.parametrize("kind", ["close-length", "close-chunks"])
def test_dg_14_an_answer_that_is_cut_is_reset(h2: H2Arena, kind: str) -> None:
    framing = b"Content-Length: 100" if kind == "close-length" else b"Transfer-Encoding: chunked"
    h2.origin.canned[kind.encode()] = [b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n", b"5\r\nhello\r\n"]
    with h2.open() as peer:
        peer.send(head(1, request_fields(f"/canned/{kind}")))
        assert peer.wait(lambda: peer.is_over(1)) and not peer.has_ended(1), peer.frames
        assert peer.reset_code(1) is not None
        call = request_fields(
            f"/canned/{kind}", ("content-type", "application/grpc"), ("te", "trailers"), method="POST"
        )
        peer.send(head(3, call))
        assert peer.wait(lambda: peer.is_over(3)), peer.frames
        assert peer.reset_code(3) is not None or dict(peer.heads[3][-1]).get(b"grpc-status") == b"14", peer.heads
        assert peer.ask(5, nonce=b"after")
    h2.arena.healthy()


def test_dg_16_bytes_of_values_are_the_same_at_the_end(h2: H2Arena) -> None:
    value = bytes(byte for byte in range(0x21, 0x100) if byte != 0x7F)
    h2.accept(
        head(1, request_fields("/bytes-of", ("x-all", value))), lambda request: equal(request.values(b"x-all"), [value])
    )


@pytest.mark.parametrize("size", [254, 255, 256, 5_000])
def test_dg_17_long_authorities(h2: H2Arena, size: int) -> None:
    with h2.open() as peer:
        fields = [(name, "a" * size if name == ":authority" else value) for name, value in request_fields("/long")]
        peer.send(head(1, fields))
        assert peer.wait(lambda: peer.is_over(1)), peer.frames
        assert peer.status(1) in (200, 400, 404, 421, 431, 503) or peer.reset_code(1) is not None
        assert peer.ask(3, nonce=b"after")
    h2.arena.healthy()


@pytest.mark.parametrize(
    "field",
    [
        ("transfer-encoding", "Chunked"), ("transfer-encoding", "\x0bchunked"), ("transfer_encoding", "chunked"),
        ("content-length", "5;"), ("content-length", "5\x0b"), ("content_length", "5"), ("transfer-encoding ", "chunked"),
        ("x", "y\r\ntransfer-encoding: chunked"), ("transfer-encoding", "chunked\0"), ("content-length", "5, 5"),
    ],
)  # fmt: skip
def test_dg_18_disguised_framing(h2: H2Arena, field: Field) -> None:
    fields = [*request_fields("/disguised", field, method="POST")]
    sent = head(1, fields, end=False) + data(1, b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: server\r\n\r\n", end=True)
    with h2.open() as peer:
        before, faults = len(h2.origin.requests), len(h2.origin.faults)
        peer.send(sent)
        assert peer.wait(lambda: peer.is_over(1)), peer.frames
        found = h2.origin.requests[before:]
        inert = peer.status(1) == 200 and len(found) == 1 and found[0].body.startswith(b"0\r\n\r\nGET /smuggled")
        assert inert or (found == [] and (peer.reset_code(1) is not None or peer.status(1) == 400)), (
            peer.frames,
            found,
        )
        assert h2.origin.faults[faults:] == []
        assert peer.ask(3, nonce=b"after")
    h2.arena.healthy()
