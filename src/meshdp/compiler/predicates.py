"""Turns the fields of one policy's rules into predicates over facts of a connection or request.

In:     sources, operations and conditions as written.
Out:    predicates of docs/snapshot.md.
Fails:  what cannot be honoured becomes field "unsupported": ALLOW never matches by it, DENY matches without it.
Source: spec/istio-semantics.md D.3 (values), D.4 (keys); spec/istio-observed.md 10 to 12.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence

from meshdp.compiler.snapshot import Predicate, Value
from meshdp.compiler.trust import expand_principals, expand_trust_domains
from meshdp.resources.security import Operation, Source, When
from meshdp.resources.values import is_template

Values = Sequence[str]


class Predicates:
    """Compiles for one policy: its namespace completes service accounts, the trust domains expand principals."""

    def __init__(self, namespace: str, trust_domains: tuple[str, ...]) -> None:
        self.namespace = namespace
        self.trust_domains = trust_domains

    def source(self, source: Source) -> list[Predicate]:
        """All of a source's fields, which hold together."""
        return [
            *_both(self._principals, source.principals, source.not_principals),
            *_both(_request_principals, source.request_principals, source.not_request_principals),
            *_both(self._namespaces, source.namespaces, source.not_namespaces),
            *_both(self._service_accounts, source.service_accounts, source.not_service_accounts),
            *_both(self._trust_domains, source.trust_domains, source.not_trust_domains),
            *_both(_networks("source_ip"), source.ip_blocks, source.not_ip_blocks),
            *_both(_networks("remote_ip"), source.remote_ip_blocks, source.not_remote_ip_blocks),
        ]

    def operation(self, operation: Operation) -> list[Predicate]:
        """All of an operation's fields, which hold together."""
        return [
            *_both(_headers("host", ""), operation.hosts, operation.not_hosts),
            *_both(_ports, operation.ports, operation.not_ports),
            *_both(_headers("method", ""), operation.methods, operation.not_methods),
            *_both(_paths, operation.paths, operation.not_paths),
        ]

    def condition(self, condition: When) -> list[Predicate]:
        """One `when` entry: its values and its notValues."""
        header = _HEADER_KEY.fullmatch(condition.key)
        if header is not None:
            compiled = _headers("header", header[1].lower())
            return list(_both(compiled, condition.values, condition.not_values))
        claim = _CLAIM_KEY.fullmatch(condition.key)
        if claim is not None:
            return list(_both(_claim(claim[1]), condition.values, condition.not_values))
        by_key: dict[str, _Compile] = {
            "request.auth.principal": _request_principals,
            "request.auth.audiences": _claim("[aud]"),
            "request.auth.presenter": _claim("[azp]"),
            "source.ip": _networks("source_ip"),
            "remote.ip": _networks("remote_ip"),
            "source.namespace": self._namespaces,
            "source.serviceAccount": self._service_accounts,
            "source.trustDomain": self._trust_domains,
            "source.principal": self._principals,
            "destination.ip": _networks("destination_ip"),
            "destination.port": _ports,
            "connection.sni": lambda values, negate: _of("sni", values, negate),
        }
        if condition.key not in by_key:
            return list(_unsupported(condition.key, condition.values, condition.not_values))
        return list(_both(by_key[condition.key], condition.values, condition.not_values))

    def _principals(self, values: Values, negate: bool) -> Predicate:
        """Suffix values span the trust domain, so they are compared with the whole identity."""
        written = expand_principals(values, self.trust_domains)
        if not any(value.startswith("*") and value != "*" for value in written):
            return _of("principal", written, negate)
        return Predicate("identity", "", negate, [_identity_value(value) for value in written])

    def _namespaces(self, values: Values, negate: bool) -> Predicate:
        patterns = (f".*/ns/{_wildcards(value)}/.*" for value in values)
        return Predicate("identity", "", negate, [Value("regex", pattern) for pattern in patterns])

    def _service_accounts(self, values: Values, negate: bool) -> Predicate:
        return Predicate("identity", "", negate, [self._service_account(value) for value in values])

    def _service_account(self, value: str) -> Value:
        namespace, slash, name = value.rpartition("/")
        namespace = namespace if slash else self.namespace
        return Value("regex", f"spiffe://.+/ns/{_literal(namespace)}/(.+/)?sa/{_literal(name)}(/.+)?")

    def _trust_domains(self, values: Values, negate: bool) -> Predicate:
        written = expand_trust_domains(values, self.trust_domains)
        return Predicate("identity", "", negate, [_trust_domain(value) for value in written])


_Compile = Callable[[Values, bool], Predicate]


def _both(compiled: _Compile, values: Values, not_values: Values) -> Iterable[Predicate]:
    if values:
        yield compiled(values, False)
    if not_values:
        yield compiled(not_values, True)


def _unsupported(name: str, values: Values, not_values: Values) -> Iterable[Predicate]:
    if values:
        yield Predicate("unsupported", name, False, [])
    if not_values:
        yield Predicate("unsupported", f"not {name}", True, [])


def _of(field: str, values: Values, negate: bool) -> Predicate:
    return Predicate(field, "", negate, [_string(value) for value in values])


def _string(value: str) -> Value:
    """D.3: one leading or trailing star has meaning, the leading one first."""
    if value == "*":
        return Value("present", "")
    if value.startswith("*"):
        return Value("suffix", value[1:])
    if value.endswith("*"):
        return Value("prefix", value[:-1])
    return Value("exact", value)


def _identity_value(value: str) -> Value:
    string = _string(value)
    match string.kind:
        case "present":
            return Value("prefix", "spiffe://")
        case "suffix":
            return Value("regex", f"spiffe://.*{_literal(string.value)}")
    return Value(string.kind, f"spiffe://{string.value}")


def _trust_domain(value: str) -> Value:
    if value == "*":
        return Value("prefix", "spiffe://")
    if "*" not in value:
        return Value("prefix", f"spiffe://{value}/")
    return Value("regex", f"spiffe://{_literal(value, star='[^/]*')}/.*")


def _headers(field: str, name: str) -> _Compile:
    """Headers, the host and the method are present even when empty, unlike other facts."""

    def compiled(values: Values, negate: bool) -> Predicate:
        strings = (Value("prefix", "") if value == "*" else _string(value) for value in values)
        return Predicate(field, name, negate, list(strings))

    return compiled


def _claim(path: str) -> _Compile:
    """Texts of a claim: itself, its words, or the elements of its list."""

    def compiled(values: Values, negate: bool) -> Predicate:
        return Predicate("claim", path, negate, [_string(value) for value in values])

    return compiled


def _request_principals(values: Values, negate: bool) -> Predicate:
    return Predicate("request_principal", "", negate, [_request_principal(value) for value in values])


def _request_principal(value: str) -> Value:
    """D.3: issuer and subject, cut at the last slash; the engine compares them joined by a NUL."""
    if value == "*":
        return Value("regex", r"[^\x00]+\x00[^\x00]+")
    issuer, slash, subject = value.rpartition("/")
    if not slash:
        # `*x` is a subject that ends so, `x*` an issuer that begins so; neither holds a NUL.
        return _string(value)
    if issuer.startswith("*"):
        return Value("suffix", f"{issuer[1:]}\0{subject}")
    if subject == "*":
        return Value("regex", rf"{_literal(issuer)}\x00[^\x00]+")
    if subject.endswith("*"):
        return Value("prefix", f"{issuer}\0{subject[:-1]}")
    return Value("exact", f"{issuer}\0{subject}")


def _paths(values: Values, negate: bool) -> Predicate:
    templates = (Value("template", value) if is_template(value) else _string(value) for value in values)
    return Predicate("path", "", negate, list(templates))


def _ports(values: Values, negate: bool) -> Predicate:
    return Predicate("destination_port", "", negate, [Value("exact", str(int(value))) for value in values])


def _networks(field: str) -> _Compile:
    def compiled(values: Values, negate: bool) -> Predicate:
        networks = (str(ipaddress.ip_network(value, strict=False)) for value in values)
        return Predicate(field, "", negate, [Value("cidr", network) for network in networks])

    return compiled


def _wildcards(value: str) -> str:
    return _literal(value, star=".*")


def _literal(text: str, star: str = r"\*") -> str:
    """Escapes what has a meaning in regular expressions, in a way Rust and Python read alike."""
    escaped = (rf"\{char}" if char in _REGEX_META else char for char in text)
    return "".join(star if char == r"\*" else char for char in escaped)


_HEADER_KEY = re.compile(r"request\.headers\[(.+)\]")
_CLAIM_KEY = re.compile(r"request\.auth\.claims(\[.+\])")
_REGEX_META = frozenset(r"\.+*?()|[]{}^$")
