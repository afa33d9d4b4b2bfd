"""HTTP/1 request lines and hosts, H1-49 to H1-55: which versions, methods, hosts and targets there are.

In:     raw bytes, by both ways in; `arena` checks the post-conditions after every one of them.
Limits: methods are those of Envoy's parser and unknown ones are refused with 400 (the catalogue lets them pass); an empty Host is legal
        and served, as Istio serves it; `OPTIONS *` is answered 404, as by Istio (`native/proto/src/http1_head.rs` says so beside each check).
Source: RFC 9112 2.3, 3 and 3.2; attack cases 2.1.
"""

from __future__ import annotations

import pytest

from tests.attack.conftest import Arena, request
from tests.attack.test_h1_bodies import DENIAL
from tests.support import wire
from tests.support.origin import Request

HOST = b"\r\nHost: server\r\n\r\n"

LINES = [
    b"GET /", b"GET / ", b"GET / HTTP/1.2", b"GET / HTTP/01.1", b"GET / http/1.1", b"GET / HTTP/1.1 ", b"GET / HTTP/1.1\t",
    b"GET\t/ HTTP/1.1", b"GET /\tHTTP/1.1", b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b" GET / HTTP/1.1", b"GET / x HTTP/1.1",
    b"GET / HTTP/1", b"GET / HTTP/1.", b"GET / HTTP/11", b"GET / HTTP/1.10", b"GET / HTTP /1.1", b"GET / HTTPS/1.1",
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_h1_49_odd_request_line(arena: Arena, line: bytes) -> None:
    arena.refuse(line + HOST)


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9", b"HTTP/3.0"])
def test_h1_49_other_major_version(arena: Arena, version: bytes) -> None:
    arena.refuse(b"GET / " + version + HOST, (505,))


def test_h1_49_http_09(arena: Arena) -> None:
    arena.refuse(b"GET /\r\n\r\n")


@pytest.mark.parametrize("method", ["get", "Get", 'G="x"', "A" * 65, "FOO", "GET\x00", "GE T", ""])
def test_h1_50_method_that_is_none(arena: Arena, method: str) -> None:
    arena.refuse(method.encode() + b" / HTTP/1.1" + HOST)


@pytest.mark.parametrize("method", ["PATCH", "PROPFIND", "TRACE", "UNSUBSCRIBE"])
def test_h1_50_method_is_kept(arena: Arena, method: str) -> None:
    def check(requests: list[Request]) -> None:
        assert [found.method.decode() for found in requests] == [method]

    arena.accept(request("/", method=method), check)


BY_METHOD = DENIAL.replace('paths: ["/secret*"]', 'methods: ["DELETE"]')


def test_h1_50_methods_are_compared_exactly(arena: Arena) -> None:
    """What a policy says of DELETE holds for DELETE: another spelling of it is no method at all."""
    arena.pair.configure(BY_METHOD)
    assert wire.ask(arena.pair, arena.direction, request("/", method="DELETE")).statuses == [403]
    arena.refuse(request("/", method="delete"))
    arena.refuse(request("/", method="Delete"))


ODD_HOSTS = [
    "a,b",
    "a b",
    "u@server",
    "server/x",
    "server#x",
    "server?x",
    "a%00",
    "server:99999",
    "server:x",
    "::1",
    "[::1",
    "a\\b",
    '"a"',
]


@pytest.mark.parametrize("host", ODD_HOSTS)
def test_h1_51_odd_host(arena: Arena, host: str) -> None:
    arena.refuse(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


def test_h1_51_no_host_two_hosts_nul(arena: Arena) -> None:
    arena.refuse(b"GET / HTTP/1.1\r\nX-Other: a\r\n\r\n")
    arena.refuse(b"GET / HTTP/1.1\r\nHost: server\r\nHost: server\r\n\r\n")
    arena.refuse(b"GET / HTTP/1.1\r\nHost: server\r\nhost: other\r\n\r\n")
    arena.refuse(b"GET / HTTP/1.1\r\nHost: server\0\r\n\r\n")
    arena.refuse(b"GET / HTTP/1.1\r\nHost : server\r\n\r\n")


BY_HOST = DENIAL.replace('paths: ["/secret*"]', 'hosts: ["server"]')


def test_h1_52_authority_of_the_target_wins(arena: Arena) -> None:
    """Router, policy and application see the same one, and the application sees it once."""

    def check(requests: list[Request]) -> None:
        assert [(found.target, found.values(b"host")) for found in requests] == [(b"/x?y", [b"server"])]

    arena.accept(b"GET http://server/x?y HTTP/1.1\r\nHost: elsewhere\r\n\r\n", check)
    arena.accept(b"GET HTTP://server/x?y HTTP/1.1\r\nHost: elsewhere:81\r\n\r\n", check)


def test_h1_52_policy_sees_the_authority_of_the_target(arena: Arena) -> None:
    arena.pair.configure(BY_HOST)
    lines = [b"GET / HTTP/1.1\r\nHost: server", b"GET http://server/ HTTP/1.1\r\nHost: elsewhere"]
    if arena.direction == "inbound":  # outbound, these are names of nothing in the mesh
        lines += [b"GET / HTTP/1.1\r\nHost: SERVER"]
    for line in lines:
        before = arena.origin.received()
        heard = wire.ask(arena.pair, arena.direction, line + b"\r\nConnection: close\r\n\r\n")
        assert (heard.statuses, arena.origin.received()) == ([403], before), line
    if arena.direction == "inbound":  # outbound, `elsewhere` is no service of the mesh
        heard = wire.ask(arena.pair, "inbound", b"GET http://elsewhere/ HTTP/1.1\r\nHost: server\r\n\r\n")
        assert heard.statuses == [200], "the policy's host is not the request's"
    arena.pair.configure("# none\n")


@pytest.mark.parametrize(
    "target",
    [
        "http:///x",
        "http://u:p@server/",
        "http://server#f",
        "ftp://server/",
        "http://server:99999/",
        "http:/x",
        "http://",
        "http://a b/",
    ],
)
def test_h1_53_broken_absolute_target(arena: Arena, target: str) -> None:
    arena.refuse(b"GET " + target.encode() + b" HTTP/1.1" + HOST)


@pytest.mark.parametrize("target", ["/visible#/secret", "/visible#", "/visible#?x", "http://server/visible#f"])
def test_h1_54_fragment_is_cut(arena: Arena, target: str) -> None:
    def check(requests: list[Request]) -> None:
        assert [found.target for found in requests] == [b"/visible"]

    arena.accept(request(target), check)


def test_h1_54_what_is_before_the_fragment_is_judged(arena: Arena) -> None:
    arena.pair.configure(DENIAL)
    for target in ("/secret#/visible", "/secret#", "/secret/x#y?z"):
        assert wire.ask(arena.pair, arena.direction, request(target)).statuses == [403], target
    arena.pair.configure("# none\n")


def test_h1_54_an_escaped_number_sign_stays(arena: Arena) -> None:
    def check(requests: list[Request]) -> None:
        assert [found.target for found in requests] == [b"/a%23b"]

    arena.accept(request("/a%23b"), check)


@pytest.mark.parametrize("line", ["GET *", "GET admin", "GET */x", "OPTIONS *x", "GET \\a", "POST server:80"])
def test_h1_55_target_that_is_no_path(arena: Arena, line: str) -> None:
    arena.refuse(line.encode() + b" HTTP/1.1" + HOST)


def test_h1_55_asterisk_of_options(arena: Arena) -> None:
    arena.refuse(b"OPTIONS * HTTP/1.1" + HOST, (404,))
