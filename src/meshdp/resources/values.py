"""Checks single values of security policies: addresses, ports, path templates, accounts, condition keys.

In:     strings as written in a policy.
Out:    a sentence that says what is wrong, empty when nothing is.
Source: spec/istio-semantics.md D.3, D.4; conformance/authz/security_validation_cases.json.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from meshdp.resources.shape import nearest

Check = Callable[[str], str]

VALUE_LENGTH_LIMIT = 4096
SERVICE_ACCOUNTS_LIMIT = 16
SERVICE_ACCOUNT_LENGTH_LIMIT = 320


def lists_of(struct: msgspec.Struct) -> dict[str, list[str]]:
    """The list fields of a source or operation by their YAML names."""
    names = zip(struct.__struct_encode_fields__, struct.__struct_fields__, strict=True)
    return {written: getattr(struct, name) for written, name in names}


def is_address(text: str) -> bool:
    """True for an IPv4 or IPv6 address without a zone."""
    try:
        return "%" not in str(ipaddress.ip_address(text))
    except ValueError:
        return False


def length_problem(text: str) -> str:
    """Values become patterns of the matcher, whose size is bounded."""
    return f"longer than {VALUE_LENGTH_LIMIT} characters" if len(text) > VALUE_LENGTH_LIMIT else ""


def network_problem(text: str) -> str:
    """An IP address or a CIDR block."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"{text!r} is neither an IP address nor a CIDR block"
    return f"{text!r} has a netmask; write a prefix length" if "/" in text and "." in text.partition("/")[2] else ""


def port_problem(text: str) -> str:
    """A decimal port; 0 is accepted and never matches."""
    return "" if _PORT.fullmatch(text) and int(text) <= 65535 else f"{text!r} is not a port (0 to 65535)"


def path_problem(text: str) -> str:
    """A plain path value, or a template whose braces are only `{*}` and `{**}`."""
    if not is_template(text):
        braces = "{" in text or "}" in text
        return f"{text!r} has braces that are not {{*}} or {{**}}" if braces else ""
    if not text.startswith("/"):
        return f"{text!r}: a template starts with '/'"
    seen_any = False
    for segment in text.removeprefix("/").split("/"):
        if segment in ("{*}", "{**}"):
            if seen_any:
                return f"{text!r}: {{**}} must be the last operator"
            seen_any = segment == "{**}"
        elif not is_literal(segment):
            return f"{text!r}: segment {segment!r} is neither {{*}}, {{**}} nor plain path characters"
    return ""


def is_literal(segment: str) -> bool:
    """True for RFC 3986 pchar only; empty segments count."""
    return _LITERAL.fullmatch(segment) is not None


def is_template(path: str) -> bool:
    """True when the value is a path template rather than a string rule."""
    return "{*}" in path or "{**}" in path


def service_account_problem(text: str) -> str:
    """`namespace/name` or `name`, without wildcards."""
    if "*" in text:
        return f"{text!r}: wildcards are not accepted here"
    if len(text) > SERVICE_ACCOUNT_LENGTH_LIMIT:
        return f"longer than {SERVICE_ACCOUNT_LENGTH_LIMIT} characters"
    parts = text.split("/")
    return "" if len(parts) <= 2 and all(parts) else f"{text!r} is not namespace/name or name"


def wildcard_problem(text: str) -> str:
    """At most one star, at the start or the end."""
    inner = text[1:] if text.startswith("*") else text.removesuffix("*")
    return f"{text!r}: one wildcard is accepted, at the start or the end" if "*" in inner else ""


def trust_domain_problem(text: str) -> str:
    """A trust domain without scheme and path, with at most one outer star."""
    if "/" in text:
        return f"{text!r} is not a trust domain (no scheme, no path)"
    return wildcard_problem(text) if text else "a trust domain must not be empty"


def key_problem(key: str) -> str:
    """A key of `when` that Istio knows."""
    if key in _PLAIN_KEYS:
        return ""
    for prefix in _BRACKET_KEYS:
        if key == prefix or key.startswith((prefix + "[", prefix + "]")):
            rest = key[len(prefix) :]
            return "" if _BRACKETS.fullmatch(rest) else f"{key!r} should have the form {prefix}[name]"
    if key.startswith("experimental.envoy.filters."):
        return "" if _FILTER_KEY.fullmatch(key) else f"{key!r} should have the form experimental.envoy.filters.a.b[c]"
    known = [*_PLAIN_KEYS, *(f"{prefix}[name]" for prefix in _BRACKET_KEYS)]
    return f"unknown key {key!r}: {nearest(key, known)}"


def value_check(key: str) -> Check:
    """How the values of a condition are checked."""
    return _CHECKS.get(key, _anything)


def needs_metadata(key: str) -> bool:
    """True for keys whose facts only Envoy's filters have."""
    return key.startswith("experimental.")


def request_principal_problem(text: str) -> str:
    """Issuer and subject are kept apart by a character that neither may hold."""
    return f"{text!r} has a NUL character" if "\0" in text else ""


def jwks_uri_problem(uri: str) -> str:
    """An http or https address with a numeric port."""
    try:
        parts = urlsplit(uri)
        port_is_number = parts.port is None or parts.port > 0
    except ValueError:
        port_is_number = False
        parts = None
    usable = port_is_number and parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
    return "" if usable else f"{uri!r} is not an http or https address"


def _anything(_text: str) -> str:
    return ""


_CHECKS: dict[str, Check] = {
    "source.ip": network_problem,
    "remote.ip": network_problem,
    "destination.ip": network_problem,
    "destination.port": port_problem,
    "source.serviceAccount": service_account_problem,
    "source.trustDomain": trust_domain_problem,
    "request.auth.principal": request_principal_problem,
}
_PLAIN_KEYS = (
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.serviceAccount",
    "source.trustDomain",
    "source.principal",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "destination.ip",
    "destination.port",
    "connection.sni",
)
_BRACKET_KEYS = ("request.headers", "request.auth.claims")
_BRACKETS = re.compile(r"(?:\[[^\[\]]+\])+")
_FILTER_KEY = re.compile(r"experimental\.envoy\.filters\.[^\[\]]+\[[^\[\]]+\]")
_PORT = re.compile(r"[0-9]{1,10}")
_LITERAL = re.compile(r"(?:[A-Za-z0-9._~!$&'()+,;:@=-]|%[0-9A-Fa-f]{2})*")
