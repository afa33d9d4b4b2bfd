"""Reads a request as people and programs write it, and writes it as the data plane's decisions take it.

In:     one JSON object (docs/authz.md, requests), from a line of a file, a command line or a test.
Out:    `Request`, and `asked`: the document of `meshdp._native.authorize`.
Limits: `LINE_LIMIT_BYTES` a line.
Fails:  `Malformed`, naming the field and what was expected.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

LINE_LIMIT_BYTES = 1 << 20

# From the range for documentation (RFC 5737): what stands for an address that nobody gave.
SOURCE_IP, DESTINATION_IP = "192.0.2.1", "192.0.2.2"

# Words for what a port speaks, as `appProtocol` has them; "auto": to be found out.
PROTOCOLS = ("http", "http2", "grpc", "grpc-web", "tcp", "tls", "https", "auto")
_HTTP2 = ("http2", "grpc", "grpc-web")
_HTTP = ("http", *_HTTP2)

# What a sidecar offers that carries HTTP/1.1, HTTP/2 or bytes (istio-semantics B.2).
_ALPN = {
    "http": ["istio-http/1.1", "istio", "http/1.1"],
    "http2": ["istio-h2", "istio", "h2"],
    "tcp": ["istio-peer-exchange", "istio"],
}


class Malformed(ValueError):
    """A request that cannot be read: the field, and what was expected there."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A part of a request; what it does not know is refused."""


class Source(_Part, frozen=True):
    """Who asks. principal: with or without `spiffe://`; none for plaintext."""

    principal: str | None = None
    namespace: str | None = None
    ip: str = SOURCE_IP
    remote_ip: str | None = None


class Destination(_Part, frozen=True):
    """Who is asked. labels: those of the workload that has the address, where nothing else is said."""

    namespace: str
    port: int
    labels: dict[str, str] | None = None
    ip: str | None = None
    protocol: str | None = None


class Http(_Part, frozen=True):
    """What is asked. host: null leaves the header out; without it the client names the address.

    version: of HTTP; without it 2 where the port is declared so, else 1.1.
    """

    version: Literal["1.0", "1.1", "2"] | None = None
    method: str | None = None
    path: str | None = None
    host: str | msgspec.UnsetType | None = msgspec.UNSET
    headers: dict[str, str | list[str]] | list[tuple[str, str]] = {}
    claims: dict[str, Any] | None = None
    jwt: str | None = None
    sni: str | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing of HTTP in it."""
        named = (self.method, self.path, self.claims, self.jwt)
        return named == (None, None, None, None) and not self.headers and self.host is msgspec.UNSET

    @property
    def line(self) -> tuple[str, str]:
        """Method and path as they are sent."""
        return "GET" if self.method is None else self.method, "/" if self.path is None else self.path


class Request(_Part, frozen=True):
    """One request, or one opaque connection where nothing of HTTP is said."""

    destination: Destination
    source: Source = Source()
    request: Http = Http()
    id: str | int | None = None

    @property
    def protocol(self) -> str | None:
        """What the port is said to speak."""
        return self.destination.protocol.lower() if self.destination.protocol else None

    @property
    def is_http(self) -> bool:
        return not self.request.is_empty or self.protocol in _HTTP

    @property
    def principal(self) -> str | None:
        """Without its scheme."""
        return self.source.principal.removeprefix("spiffe://") if self.source.principal else None


def read(line: bytes | str) -> Request:
    """Reads a request from JSON."""
    if len(line) > LINE_LIMIT_BYTES:
        raise Malformed("", f"a line has at most {LINE_LIMIT_BYTES} bytes")
    try:
        return checked(_DECODER.decode(line))
    except msgspec.ValidationError as error:
        raise _malformed(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed("", f"not JSON: {error}") from error


def convert(data: Mapping[str, Any]) -> Request:
    """Reads a request from plain data."""
    try:
        return checked(msgspec.convert(data, Request))
    except msgspec.ValidationError as error:
        raise _malformed(error) from error


def checked(request: Request) -> Request:
    """The request, unless the data plane could never see such a one."""
    for field, problem in _problems(request):
        raise Malformed(field, problem)
    return request


def asked(request: Request, ip: str, *, in_plaintext: bool = False) -> dict[str, Any]:
    """The document that `meshdp._native.authorize` takes. ip: of the destination.

    in_plaintext: as clients of the mesh send to a port that ends no TLS, whoever they are.
    """
    kind, version = "http", request.request.version
    if not request.is_http or request.protocol in ("tcp", "tls", "https"):
        kind = "tcp"
    elif version == "2" or (version is None and request.protocol in _HTTP2):
        kind = "http2"
    tls = request.source.principal is not None and not in_plaintext
    plain = {"http": ["http/1.1"], "http2": ["h2c"], "tcp": []}[kind]
    return {
        "direction": "inbound",
        "peer": f"spiffe://{request.principal}" if tls else None,
        "source": _socket_address(request.source.ip, 40000),
        "destination": _socket_address(ip, request.destination.port),
        "sni": request.request.sni if tls else None,
        "head": _head(request, ip) if request.is_http and kind != "http2" else None,
        "fields": _fields(request, ip) if kind == "http2" else None,
        "detected": {"tls": tls, "alpn": _ALPN[kind] if tls else plain},
    }


def headers_of(request: Request) -> list[tuple[str, str]]:
    """All headers but the host, in their order: the token first, the remote address last."""
    written = request.request.headers
    pairs = list(_pairs(written)) if isinstance(written, dict) else list(written)
    first = [("authorization", f"Bearer {request.request.jwt}")] if request.request.jwt else []
    last = [("x-forwarded-for", request.source.remote_ip)] if request.source.remote_ip else []
    return [*first, *pairs, *last]


def host_of(request: Request, ip: str) -> str | None:
    """The host as it is sent."""
    host = request.request.host
    return _socket_address(ip, request.destination.port) if isinstance(host, msgspec.UnsetType) else host


def _pairs(headers: Mapping[str, str | list[str]]) -> Iterator[tuple[str, str]]:
    for name, values in headers.items():
        for value in [values] if isinstance(values, str) else values:
            yield name, value


def _head(request: Request, ip: str) -> str:
    host = host_of(request, ip)
    method, path = request.request.line
    lines = [f"{method} {path} HTTP/{request.request.version or '1.1'}"]
    lines += [] if host is None else [f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers_of(request)]
    return _bytes("\r\n".join(lines) + "\r\n\r\n")


def _fields(request: Request, ip: str) -> list[tuple[str, str]]:
    host, (method, path) = host_of(request, ip), request.request.line
    pseudo = [(":method", method), (":scheme", "https" if request.source.principal else "http")]
    pseudo += [] if host is None else [(":authority", host)]
    pseudo += [(":path", path)]
    return [(_bytes(name), _bytes(value)) for name, value in (*pseudo, *_lowered(headers_of(request)))]


def _lowered(headers: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for name, value in headers:
        yield name.lower(), value


def _bytes(text: str) -> str:
    """One character a byte of its UTF-8; bytes that are none come as the interpreter escapes them (PEP 383)."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("latin-1")


def _socket_address(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _problems(request: Request) -> Iterator[tuple[str, str]]:
    source, destination, http = request.source, request.destination, request.request
    addresses = {"source.ip": source.ip, "source.remoteIp": source.remote_ip, "destination.ip": destination.ip}
    for field, address in addresses.items():
        if address is not None and not _is_address(address):
            yield field, f"expected an IP address, found {address!r}"
    if not 1 <= destination.port <= 65535:
        yield "destination.port", f"expected a port (1 to 65535), found {destination.port}"
    if not destination.namespace:
        yield "destination.namespace", "expected a namespace"
    if request.protocol is not None and request.protocol not in PROTOCOLS:
        yield "destination.protocol", f"expected one of {', '.join(PROTOCOLS)}, found {destination.protocol!r}"
    yield from _source_problems(request)
    texts = {"method": http.method, "path": http.path, "host": http.host, "jwt": http.jwt, "sni": http.sni}
    for field, text in texts.items():
        if isinstance(text, str) and _BREAKS_A_LINE.search(text):
            yield f"request.{field}", "expected text without line breaks and zero bytes"
    for name, value in headers_of(request):
        if not _TOKEN.fullmatch(name):
            yield "request.headers", f"{name!r} is not the name of a header"
        elif _BREAKS_A_LINE.search(value):
            yield f"request.headers.{name}", "expected text without line breaks and zero bytes"


def _source_problems(request: Request) -> Iterator[tuple[str, str]]:
    source, principal = request.source, request.principal
    if principal is None:
        if source.principal is not None:
            yield "source.principal", "expected an identity, or null for plaintext"
        return
    named = _ISTIO_FORM.fullmatch(principal)
    if not _IDENTITY.fullmatch(principal):
        yield "source.principal", f"expected TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, found {principal!r}"
    elif named is not None and source.namespace not in (None, named[1]):
        yield "source.namespace", f"expected {named[1]!r}, which the principal names, found {source.namespace!r}"


def _is_address(text: str) -> bool:
    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _malformed(error: msgspec.ValidationError) -> Malformed:
    """msgspec names the place at the end of its sentence: `… - at `$.source.ip``; and a field of an object before."""
    said, _, place = str(error).partition(" - at `$")
    place = place.rstrip("`").removeprefix(".").removesuffix("[...]")
    named = _NAMED_FIELD.fullmatch(said)
    if named is None:
        return Malformed(place, said[:1].lower() + said[1:])
    field = f"{place}.{named[2]}" if place else named[2]
    return Malformed(field, "is missing" if named[1] == "missing required" else "there is no such field")


_DECODER = msgspec.json.Decoder(Request)
_NAMED_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`")
_BREAKS_A_LINE = re.compile("[\r\n\0\ud800-\udc7f\udd00-\udfff]")  # and what no bytes stand for
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_IDENTITY = re.compile(r"[^/\s]+(/[^/\s]+)+")
_ISTIO_FORM = re.compile(r"[^/]+/ns/([^/]+)/sa/[^/]+")
