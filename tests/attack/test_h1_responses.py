"""HTTP/1 from the upstream, some of H1-37 to H1-48: what an application answers wrongly reaches no other request.

In:     canned bytes of the application (`Origin.canned`), asked for by both ways in; `arena` checks the post-conditions.
Limits: the rest of H1-36 to H1-48 (CONNECT, expectations, early answers) is not here; early answers are in tests/e2e/test_http.py.
Source: RFC 9112 6.3 and 9.2, RFC 9110 7.8 and 15.2; attack cases 2.1.
"""

from __future__ import annotations

import pytest

from tests.attack.conftest import Arena, request
from tests.support import wire

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer(arena: Arena, *pieces: bytes, fields: tuple[str, ...] = (), method: str = "GET") -> wire.Heard:
    """What the client hears of these bytes, on a connection that it asks to be closed."""
    arena.origin.canned[b"odd"] = list(pieces)
    with wire.connect(arena.pair, arena.direction) as connection:
        wire.send_pieces(connection, [request("/canned/odd", *(fields or ("Connection: close",)), method=method)])
        return wire.listen(connection, None, head=method == "HEAD")


def carrier_ends(arena: Arena) -> bool:
    """Whether the connection that carried the odd answer was given up."""
    carrier = next(one for one in reversed(arena.origin.connections) if b"/canned/odd" in one.received)
    return arena.origin.wait(lambda: carrier.ended != "")


def test_h1_37_upgrade_field_on_a_200_is_no_switch(arena: Arena) -> None:
    odd = b"HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: loud\r\nContent-Length: 2\r\n\r\nok"
    heard = answer(arena, odd, fields=("Connection: upgrade, close", "Upgrade: loud"))
    assert [(one.status, one.body) for one in heard.answers] == [(200, b"ok")]


def test_h1_38_unasked_switch(arena: Arena) -> None:
    heard = answer(arena, b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: loud\r\n\r\n")
    assert heard.statuses == [502]
    assert carrier_ends(arena)


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n"


@pytest.mark.parametrize("named", [b"Upgrade: other\r\n", b"Upgrade: loud, other\r\n", b"", b"Upgrade: \r\n"])
def test_h1_38_switch_to_another_protocol(arena: Arena, named: bytes) -> None:
    asked = ("Connection: upgrade", "Upgrade: loud/1, loud")
    assert answer(arena, SWITCH + named + b"\r\n", fields=asked).statuses == [502]
    assert carrier_ends(arena)


@pytest.mark.parametrize("named", [b"Upgrade: LOUD\r\n", b"Upgrade: loud/1, loud\r\n"])
def test_h1_38_switch_as_asked(arena: Arena, named: bytes) -> None:
    arena.origin.canned[b"close-switched"] = [SWITCH + named + b"\r\n"]
    asked = request("/canned/close-switched", "Connection: upgrade", "Upgrade: loud/1, loud")
    heard = arena.send([asked])
    assert (heard.statuses, heard.ended) == ([101], "fin")


@pytest.mark.parametrize(("count", "status"), [(10, 200), (11, 502)])
def test_h1_43_interim_responses_are_counted(arena: Arena, count: int, status: int) -> None:
    heard = answer(arena, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * count + OK)
    if status == 200:
        assert [one.status for one in heard.answers] == [103] * count + [200]
    else:
        assert 200 not in heard.statuses
        assert carrier_ends(arena)


@pytest.mark.parametrize(
    "odd",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nX-Control: a\x01b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"not http at all\r\n\r\n",
    ],
)
def test_h1_44_malformed_response(arena: Arena, odd: bytes) -> None:
    assert answer(arena, odd).statuses == [502]
    assert carrier_ends(arena)


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", b"200 OK"), ("GET", b"204 No Content"), ("GET", b"304 Not Modified")]
)
def test_h1_45_body_where_there_is_none(arena: Arena, method: str, status: bytes) -> None:
    heard = answer(arena, b"HTTP/1.1 " + status + b"\r\nContent-Length: 40\r\n\r\n" + OK, method=method)
    assert [(one.status, one.body) for one in heard.answers] == [(int(status[:3]), b"")]
    assert b"ok" not in heard.raw
    assert carrier_ends(arena)


@pytest.mark.parametrize("late", [False, True])
def test_h1_46_surplus_never_answers_the_next_request(arena: Arena, late: bool) -> None:
    surplus = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned"
    heard = answer(arena, *([OK, surplus] if late else [OK + surplus]))
    assert b"poisoned" not in heard.raw
    assert carrier_ends(arena)
    for _ in range(3):
        arena.healthy()


def test_h1_48_close_delimited(arena: Arena) -> None:
    arena.origin.canned[b"close-whole"] = [b"HTTP/1.1 200 OK\r\n\r\n", b"all of it"]
    heard = arena.send([request("/canned/close-whole")])
    assert ([one.body for one in heard.answers], heard.ended) == ([b"all of it"], "fin")
