"""HTTP/1 limits, pipelines and hops, H1-56 to H1-64: what one connection may carry, and what of it goes on to the next.

In:     raw bytes, by both ways in; `arena` checks the post-conditions after every one of them.
Source: RFC 9112 9.3, RFC 9110 7.6; attack cases 2.1.
"""

from __future__ import annotations

import json
import re
import ssl

import pytest

from tests.attack.conftest import Arena, request
from tests.attack.test_h1_bodies import DENIAL
from tests.support import wire
from tests.support.origin import Request
from tests.support.pair import HTTP_PORT, SERVER_IP

FIRST_LINE_BYTES, HEAD_BYTES, FIELDS = 8_192, 61_440, 100


def line_of(size: int) -> bytes:
    """A request whose first line has so many bytes without its CRLF."""
    path = b"/" + b"a" * (size - len(b"GET / HTTP/1.1"))
    return b"GET " + path + b" HTTP/1.1\r\nHost: server\r\n\r\n"


def head_of(size: int) -> bytes:
    """A head of so many bytes, the empty line included."""
    fixed = request("/", "X-Pad: ")
    return request("/", "X-Pad: " + "p" * (size - len(fixed)))


def fields_of(count: int) -> bytes:
    """A head with so many fields."""
    return request("/", *[f"X-{number}: a" for number in range(count - 2)])


def one(requests: list[Request]) -> None:
    assert len(requests) == 1


def test_h1_56_first_line_to_the_byte(arena: Arena) -> None:
    arena.accept(line_of(FIRST_LINE_BYTES), one)
    arena.refuse(line_of(FIRST_LINE_BYTES + 1), (414,))


def test_h1_56_head_to_the_byte(arena: Arena) -> None:
    """Outbound too: what the first sidecar adds is allowed for at the second."""
    arena.accept(head_of(HEAD_BYTES), one)
    arena.refuse(head_of(HEAD_BYTES + 1), (431,))


def test_h1_56_fields_to_the_one(arena: Arena) -> None:
    arena.accept(fields_of(FIELDS), one)
    arena.refuse(fields_of(FIELDS + 1), (431,))


def test_h1_57_a_hundred_pipelined_requests(arena: Arena) -> None:
    """One answer each, in order, each authorized by itself."""
    arena.pair.configure(DENIAL)
    arena.origin.canned[b"gone"] = [b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"]
    kinds = ["/", "/secret", "/canned/gone", "/slow/5"] * 25
    before = len(arena.origin.requests)
    data = [request(target, nonce=b"p%d" % number) for number, target in enumerate(kinds)]
    with wire.connect(arena.pair, arena.direction) as connection:
        wire.send_pieces(connection, [b"".join(data)])
        heard = wire.listen(connection, len(kinds))
    expected = {"/": 200, "/secret": 403, "/canned/gone": 404, "/slow/5": 200}
    assert heard.statuses == [expected[target] for target in kinds]
    bodies = [answer.body for answer in heard.answers]
    assert [body for body, target in zip(bodies, kinds, strict=True) if target in ("/", "/slow/5")] == [
        b"nonce:p%d" % number for number, target in enumerate(kinds) if target in ("/", "/slow/5")
    ]
    reached = [found.target.decode() for found in arena.origin.requests[before:]]
    assert reached == [target for target in kinds if target != "/secret"]
    arena.pair.configure("# none\n")


@pytest.mark.parametrize(
    "garbage", [b"\x00\x01garbage", b"garbage\r\n\r\n", b"\r\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"0\r\n\r\n"]
)
def test_h1_58_garbage_behind_a_request(arena: Arena, garbage: bytes) -> None:
    nonce = wire.nonce()
    heard = arena.send([request(nonce=nonce) + garbage])
    assert (heard.statuses, heard.ended) == ([200, 400], "fin")
    assert heard.answers[0].body == b"nonce:" + nonce


def test_h1_59_listed_names_end_here(arena: Arena) -> None:
    lines = ["Authorization: Bearer a", "Cookie: b=c", "X-Mine: d", "X-Kept: e"]

    def check(requests: list[Request]) -> None:
        names = {name.lower() for found in requests for name, _ in found.fields}
        assert b"x-kept" in names
        assert not names & {b"authorization", b"cookie", b"x-mine", b"connection"}

    arena.accept(request("/", "Connection: authorization, Cookie ,, x-mine", *lines), check)


BY_HEADER = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-marked, namespace: default}
spec:
  selector: {matchLabels: {app: server}}
  action: ALLOW
  rules: [{when: [{key: "request.headers[x-mark]", values: ["yes"]}]}]
"""


def test_h1_59_listed_names_are_gone_before_the_policy_looks(arena: Arena) -> None:
    arena.pair.configure(BY_HEADER)
    asked = [
        wire.ask(arena.pair, arena.direction, request("/", "X-Mark: yes", *more))
        for more in ((), ("Connection: x-mark",))
    ]
    arena.pair.configure("# none\n")
    assert [heard.statuses for heard in asked] == [[200], [403]]


PROTECTED = [
    "x-forwarded-for", "X-Forwarded-Client-Cert", "x-forwarded-host", "x-forwarded-proto", "forwarded", "x-envoy-any", "x-meshdp-any",
    "x-request-id",
]  # fmt: skip


@pytest.mark.parametrize("name", PROTECTED)
def test_h1_59_protected_names_may_not_be_listed(arena: Arena, name: str) -> None:
    arena.refuse(request("/", f"Connection: close, {name}", f"{name}: a"))


@pytest.mark.parametrize("name", ["transfer-encoding", "content-length", "host", "Host"])
def test_h1_60_framing_may_not_be_listed(arena: Arena, name: str) -> None:
    arena.refuse(request("/echo", f"Connection: {name}", "Content-Length: 5", method="POST", body=b"hello"))


HOP_BY_HOP = [
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "TE: trailers",
    "Trailer: x-sum",
    "Proxy-Authorization: Basic x",
]


@pytest.mark.parametrize("line", HOP_BY_HOP)
def test_h1_61_hop_by_hop_fields_are_consumed(arena: Arena, line: str) -> None:
    name = line.partition(":")[0].lower().encode()

    def check(requests: list[Request]) -> None:
        assert [found.values(name) for found in requests] == [[]]

    arena.accept(request("/", line), check)


def test_h1_61_hop_by_hop_fields_of_an_answer_are_consumed(arena: Arena) -> None:
    fields = b"Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nConnection: x-mine\r\nX-Mine: a\r\nX-Kept: b\r\n"
    arena.origin.canned[b"hops"] = [b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 2\r\n\r\nok"]
    heard = arena.send([request("/canned/hops")], 0, 1)
    names = {name.lower() for name, _ in heard.answers[0].fields}
    assert b"x-kept" in names
    assert not names & {b"keep-alive", b"proxy-connection", b"connection", b"x-mine"}


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def test_h1_62_preface_behind_an_http1_request(arena: Arena) -> None:
    """Once a connection speaks HTTP/1.1 it speaks nothing else: the preface is no method."""
    before = len(arena.origin.requests)
    for preface in (PREFACE, PREFACE[:18]):
        heard = arena.send([request() + preface])
        assert (heard.statuses, heard.ended) == ([200, 400], "fin")
    assert [found.method for found in arena.origin.requests[before:]] == [b"GET", b"GET"]


@pytest.mark.parametrize(
    "preface", [b"PRI * HTTP/2.0\r\nHost: server\r\n\r\n", b"PRI / HTTP/1.1\r\nHost: server\r\n\r\n"]
)
def test_h1_62_what_only_looks_like_a_preface(arena: Arena, preface: bytes) -> None:
    arena.refuse(preface)


def test_h1_62_preface_where_http1_was_agreed(attacked: Arena) -> None:
    """Mutual TLS whose ALPN said http/1.1: the preface is refused as HTTP/1.1 is, and no frame answers it."""
    folder = attacked.pair.folder / "credentials-client"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(folder / "cert-chain.pem", folder / "key.pem")
    context.set_alpn_protocols(["istio-http/1.1", "http/1.1"])
    for data, statuses in ((request(nonce=b"tls") + PREFACE, [200, 400]), (PREFACE + b"\0\0\0\4\0\0\0\0\0", [400])):
        before = len(attacked.origin.requests)
        plain = wire.connect_uncaptured(attacked.pair.client, (SERVER_IP, HTTP_PORT))
        with context.wrap_socket(plain) as connection:
            assert connection.selected_alpn_protocol() == "http/1.1"
            connection.sendall(data)
            heard = wire.listen(connection)
        assert (heard.statuses, len(attacked.origin.requests) - before) == (statuses, len(statuses) - 1)


@pytest.mark.parametrize("upgrade", ["h2c", "H2C", "h2c, loud", "loud, h2c"])
def test_h1_63_upgrade_to_h2c_is_stripped(arena: Arena, upgrade: str) -> None:
    """Served as HTTP/1.1; a preface behind it is no request."""
    asked = request(
        "/", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}", "HTTP2-Settings: AAMAAABkAAQAAP__"
    )
    before = len(arena.origin.requests)
    heard = arena.send([asked + PREFACE])
    assert (heard.statuses, heard.ended) == ([200, 400], "fin")
    found = arena.origin.requests[before:]
    assert [(one.values(b"upgrade"), one.values(b"http2-settings"), one.values(b"connection")) for one in found] == [
        ([], [], [])
    ]


def test_h1_63_answer_that_switches_to_h2c_all_the_same(arena: Arena) -> None:
    arena.origin.canned[b"h2c"] = [
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n\0\0\0\4\0\0\0\0\0"
    ]
    asked = request(
        "/canned/h2c", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"
    )
    assert arena.send([asked], 0, 1).statuses == [502]


INJECTED = {
    "request id": ("", 'X-Request-Id: a"b{}%0d%0aX-Injected: c'),
    "path": ('"b%0d%0aX-Injected:%20c\\n{}', ""),
    "user agent": ("", 'User-Agent: "\\"}\\u000a{"response_code": 999}'),
    "forwarded for": ("", 'X-Forwarded-For: 1.2.3.4", "x": "y\\'),
    "high bytes": ("", "User-Agent: \xff\xfe\x80"),
}


@pytest.mark.parametrize("where", INJECTED)
def test_h1_64_bytes_in_what_we_build(arena: Arena, where: str) -> None:
    """Quotes, escapes and escaped line ends reach the application and the log as they are: one head, one line."""
    more, field = INJECTED[where]
    mark = f"/h1-64-{wire.nonce().decode()}"
    at = arena.attacked_side.log.stat().st_size
    before = len(arena.origin.requests)
    heard = arena.send([request(mark + more, *([field] if field else []), nonce=b"logged")], 0, 1)
    assert heard.statuses == [200]
    assert b"x-injected" not in {name.lower() for name, _ in heard.answers[0].fields}
    found = arena.origin.requests[before:]
    assert len(found) == 1 and not found[0].values(b"x-injected"), found
    assert arena.send([request("/h1-64-behind")], 0, 1).statuses == [200]
    lines = arena.log_lines(at, until="/h1-64-behind")
    parsed = [json.loads(line) for line in lines]
    assert [(line["response_code"], line["path"]) for line in parsed if mark in (line["path"] or "")] == [
        (200, mark + more)
    ]


@pytest.mark.parametrize("byte", ["\r", "\n", "\0"])
@pytest.mark.parametrize("field", ["X-Request-Id", "X-Forwarded-For", "User-Agent"])
def test_h1_64_raw_line_ends_are_refused(arena: Arena, field: str, byte: str) -> None:
    arena.refuse(request("/", f"{field}: a{byte}X-Injected: b"))


def test_h1_64_the_id_that_we_make_is_plain(arena: Arena) -> None:
    before = len(arena.origin.requests)
    arena.send([request()], 0, 1)
    assert re.fullmatch(rb"[0-9a-f-]{36}", arena.origin.requests[before].value(b"x-request-id") or b"")
