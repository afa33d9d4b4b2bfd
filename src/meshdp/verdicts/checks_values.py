"""Finds values that nothing has, and rules that cannot match because of them.

In:     fields and rules as written.
Out:    (index of the value, sentence) for a field; a sentence for a rule.
Limits: looks at one value, or at the two lists of one field; never at what a workload really gets.
Source: spec/istio-semantics.md D.3; spec/istio-observed.md 6, 8, 9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from meshdp.compiler.trust import LOCAL_DOMAIN
from meshdp.verdicts.written import Field, WrittenRule

Named = tuple[int, str]


def idle_values(field: Field, trust_domains: Sequence[str]) -> Iterator[Named]:
    """Values that no request can have."""
    check = _CHECKS.get(_kind(field))
    for index, value in enumerate(field.values):
        problem = check(value, trust_domains) if check else ""
        if problem:
            yield index, problem


def hosts_without_port(field: Field) -> Iterator[Named]:
    """Hosts that would be missed when the client names the port, as it does for all but 80 and 443."""
    if _kind(field) != "hosts":
        return
    for index, value in enumerate(field.values):
        named = value.rpartition("]")[2]  # of an IPv6 address
        if value.endswith("*") or ":" in named:
            continue
        if not any(
            other.startswith(f"{value}:") or (other[:-1] and value.startswith(other[:-1]) and other.endswith("*"))
            for other in field.values
        ):
            yield index, f"{value!r} is not {value + ':8080'!r}: a request that names its port is another host"


def never_matches(rule: WrittenRule, trust_domains: Sequence[str]) -> str:
    """Why a rule cannot match; empty when it may."""
    for name, alternatives in (("from", rule.from_), ("to", rule.to)):
        reasons = [_contradiction(fields, trust_domains) for fields in alternatives]
        if reasons and all(reasons):
            return f"{name}: {reasons[0]}"
    reason = _contradiction(rule.when, trust_domains)
    return f"when: {reason}" if reason else ""


def _contradiction(fields: Sequence[Field], trust_domains: Sequence[str]) -> str:
    """Why fields that must hold together cannot."""
    for field in fields:
        if not field.negated and len(list(idle_values(field, trust_domains))) == len(field.values):
            return f"no value of {field.name} can be had"
        if field.negated and "*" in field.values and _kind(field) in ("hosts", "methods", "paths", "ports"):
            return f"{field.name} refuses every request"
    for field in fields:
        for other in fields:
            if _opposed(field, other) and all(_is_covered(value, other.values) for value in field.values):
                return f"all that {field.name} asks for is refused by {_last(other)}"
    return ""


def _opposed(field: Field, other: Field) -> bool:
    same = _kind(field) == _kind(other) and field.key == other.key
    return same and not field.negated and other.negated


def _is_covered(value: str, others: Sequence[str]) -> bool:
    """Whether whatever matches the value matches one of the others."""
    return any(covers(other, value) for other in others)


def covers(wide: str, narrow: str) -> bool:
    """Whether all that a string value means is meant by another, as their spelling says."""
    if wide in (narrow, "*"):
        return True
    if wide.startswith("*"):
        return not narrow.endswith("*") and narrow.endswith(wide[1:])
    if wide.endswith("*"):
        return not narrow.startswith("*") and narrow.startswith(wide[:-1])
    return False


def _kind(field: Field) -> str:
    """The attribute, however it is written: `notPaths` and `paths` are one, and conditions go by their key."""
    if field.key:
        return _BY_KEY.get(field.key, field.key)
    name = field.name.removeprefix("not")
    return name[:1].lower() + name[1:]


def _last(field: Field) -> str:
    return f"{field.key} {field.path[-1]}" if field.key else field.name


def _path(value: str, _domains: Sequence[str]) -> str:
    if not value.startswith(("/", "*")):
        return f"{value!r} does not start with '/', as every path does"
    if "?" in value or "#" in value:
        return f"{value!r} holds a query or fragment, which is no part of the path"
    segments = value.split("/")
    return f"{value!r} holds dot segments, which are resolved first" if ".." in segments or "." in segments else ""


def _method(value: str, _domains: Sequence[str]) -> str:
    return f"{value!r} is not in capitals, as methods are" if value != value.upper() else ""


def _host(value: str, _domains: Sequence[str]) -> str:
    return f"{value!r} holds a scheme or a path; a host is a name with or without a port" if "/" in value else ""


def _port(value: str, _domains: Sequence[str]) -> str:
    return "nothing comes to port 0" if value.isdecimal() and int(value) == 0 else ""


def _sni(value: str, _domains: Sequence[str]) -> str:
    return f"{value!r} has capitals; server names are compared in lower case" if value != value.lower() else ""


def _principal(value: str, domains: Sequence[str]) -> str:
    if value.startswith("spiffe://"):
        return f"{value!r} begins with 'spiffe://', which is left out of a principal"
    domain, slash, _ = value.partition("/")
    if slash and "*" not in domain and domain not in (*domains, LOCAL_DOMAIN):
        return f"{value!r} is of the trust domain {domain!r}, which this mesh does not trust ({', '.join(domains)})"
    return ""


_BY_KEY = {
    "source.principal": "principals",
    "source.namespace": "namespaces",
    "destination.port": "ports",
    "connection.sni": "sni",
}
_CHECKS: dict[str, Callable[[str, Sequence[str]], str]] = {
    "paths": _path,
    "methods": _method,
    "hosts": _host,
    "ports": _port,
    "sni": _sni,
    "principals": _principal,
}
