"""The reference evaluator: judges one request against a snapshot transaction, slowly and obviously.

In:     a transaction (docs/snapshot.md) and a request: the JSON that `meshdp._native.authorize` takes.
Out:    the JSON that it answers. Independent of the Rust code, so that both can be held against each other.
Limits: of the HTTP/1 parser's refusals only those that the recorded verdicts contain.
"""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any

from tests.support.reference_path import normalize

Json = dict[str, Any]


def authorize(transaction: bytes, request: Json) -> Json:
    """The verdict for one connection (head null) or one request."""
    sections = json.loads(transaction)["put"]
    port = int(request["destination"].rpartition(":")[2])
    inbound = sections.get(f"inbound/{port}") or sections["inbound/passthrough"]
    chain = _chain(inbound, request)
    if chain is None:
        return _answer(False, 0, "filter_chain_not_found", "", None, "")
    peer = request["peer"] if chain["terminate"] else None
    if chain["terminate"] and not _trusted(sections["mesh"], peer):
        return _answer(False, 0, "tls_rejected", chain["name"], None, "")
    facts: Json = {
        "peer": peer,
        "source_ip": request["source"].rpartition(":")[0].strip("[]"),
        "destination_ip": request["destination"].rpartition(":")[0].strip("[]"),
        "destination_port": str(port),
        "sni": (request["sni"] or "").lower() if request["detected"]["tls"] and inbound["inspect_tls"] else "",
    }
    facts["remote_ip"] = facts["source_ip"]
    if chain["protocol"] == "http":
        normalization = sections["mesh"]["path_normalization"]
        fields = request.get("fields")
        read = _read_head(request["head"] or "", normalization, facts) if fields is None else None
        refusal = read if fields is None else _read_fields(fields, normalization, facts)
        if refusal is not None:
            return _answer(False, *refusal, chain["name"], None, "")
    policy = _denying(sections["authz"]["policies"], facts, chain["protocol"] == "http")
    grpc = facts.get("grpc", False)
    status = 0 if chain["protocol"] == "tcp" else 200 if policy is None or grpc else 403
    detail = "" if policy is None else f"rbac_access_denied_matched_policy[{policy}]"
    answer = _answer(policy is None, status, detail, chain["name"], policy, facts.get("target", ""))
    return answer | {"grpc_status": 7 if policy is not None and grpc else None}


def _answer(allowed: bool, status: int, detail: str, chain: str, policy: str | None, path: str) -> Json:
    return {
        "grpc_status": None,
        "allowed": allowed,
        "status": status,
        "detail": detail,
        "chain": chain,
        "policy": policy,
        "upstream_path": path,
    }


def _chain(inbound: Json, request: Json) -> Json | None:
    tls = request["detected"]["tls"] and inbound["inspect_tls"]
    seen: list[str] = request["detected"]["alpn"] or []
    if not tls:
        plain = inbound["inspect_http"] and not request["detected"]["tls"]
        seen = ["h2c"] if request.get("fields") else _sniffed(request["head"] or "")
        seen = seen if plain else []
    for chain in inbound["chains"]:
        transport = chain["transport"] in ("any", "tls" if tls else "raw")
        if transport and (not chain["application"] or set(chain["application"]) & set(seen)):
            return dict(chain)
    return None


def _sniffed(head: str) -> list[str]:
    version = re.search(r"^\S+ \S+ HTTP/(1\.[01])\r\n", head)
    return [f"http/{version[1]}"] if version else []


def _trusted(mesh: Json, peer: str | None) -> bool:
    if peer is None or not peer.startswith("spiffe://"):
        return False
    domains = [mesh["trust_domain"], *mesh["trust_domain_aliases"]]
    return not mesh["validate_trust_domain"] or any(peer.startswith(f"spiffe://{domain}/") for domain in domains)


def _read_head(head: str, normalization: str, facts: Json) -> tuple[int, str] | None:
    lines = head.split("\r\n")
    start = re.fullmatch(r"([A-Z]+) (\S+) HTTP/1\.([01])", lines[0])
    malformed = any(line.startswith(":") for line in lines[1:])
    if start is None or start[1] not in _METHODS or malformed:
        return (400, "http1.codec_error")
    if start[3] == "0":
        return (426, "low_version")
    headers = [(line.partition(":")[0].lower(), line.partition(":")[2].strip(" \t")) for line in lines[1:] if line]
    hosts = [value for name, value in headers if name == "host"]
    return _read_request((start[1], start[2]), hosts, headers, normalization, facts)


def _read_fields(fields: list[tuple[str, str]], normalization: str, facts: Json) -> tuple[int, str] | None:
    """An HTTP/2 request: any method, and nothing but a path where the path belongs (RFC 9113 8.3.1)."""
    pseudo = {name: value for name, value in fields if name.startswith(":")}
    headers = [(name, value) for name, value in fields if not name.startswith(":")]
    if not pseudo[":path"].startswith("/") or any(value != value.strip(" \t") for _, value in headers):
        return (0, "refused")
    return _read_request((pseudo[":method"], pseudo[":path"]), [pseudo[":authority"]], headers, normalization, facts)


def _read_request(
    line: tuple[str, str], hosts: list[str], headers: list[tuple[str, str]], normalization: str, facts: Json
) -> tuple[int, str] | None:
    method, target = line
    absolute = re.fullmatch(r"https?://([^/?#]*)(.*)", target)
    if absolute:
        target = absolute[2] or "/"
        hosts = [absolute[1]]
    if not hosts:
        return (400, "missing_host_header")
    if target == "*":
        return (404, "absolute_path_rejected")
    path = normalize(target, normalization) if target.startswith("/") else None
    if path is None:
        return (400, "path_normalization_failed")
    forwarded = [item for name, value in headers if name == "x-forwarded-for" for item in value.split(",")]
    if forwarded and _address(forwarded[-1].strip()) is not None:
        facts["remote_ip"] = forwarded[-1].strip()
    pseudo = [(":method", method), (":path", path), (":authority", ",".join(hosts)), ("host", ",".join(hosts))]
    grpc = re.compile(r"application/grpc(\+.*)?")
    facts["grpc"] = any(name == "content-type" and grpc.fullmatch(value) is not None for name, value in headers)
    facts |= {"method": method, "host": ",".join(hosts), "path": path.partition("?")[0], "target": path}
    facts["headers"] = [*pseudo, *((name, value) for name, value in headers if name != "host")]
    return None


def _denying(policies: list[Json], facts: Json, http: bool) -> str | None:
    """The policy that denies, as Envoy names it; "none" when no ALLOW policy matched; None when nothing denies."""
    enforced = [policy for policy in policies if not policy["dry_run"]]
    denials = sorted(name for policy in enforced if policy["action"] == "DENY" for name in _hits(policy, facts, http))
    if denials:
        return denials[0]
    allows = [policy for policy in enforced if policy["action"] == "ALLOW"]
    return "none" if allows and not any(_hits(policy, facts, http) for policy in allows) else None


def _hits(policy: Json, facts: Json, http: bool) -> list[str]:
    allow = policy["action"] == "ALLOW"
    return [
        f"ns[{policy['namespace']}]-policy[{policy['name']}]-rule[{index}]"
        for index, rule in enumerate(policy["rules"])
        if _rule_matches(rule, facts, http, allow)
    ]


def _rule_matches(rule: Json, facts: Json, http: bool, allow: bool) -> bool:
    def dropped(predicate: Json) -> bool:
        http_only = predicate["field"] in HTTP_ONLY
        return predicate["field"] == "unsupported" or (http_only and not http)

    def holds(predicates: list[Json]) -> bool:
        return all(_predicate(item, facts) for item in predicates if not dropped(item))

    groups = [*rule["from"], *rule["to"], rule["when"]]
    if allow and any(dropped(item) for group in groups for item in group):
        return False
    alternatives = [rule["from"], rule["to"]]
    return all(not lists or any(holds(group) for group in lists) for lists in alternatives) and holds(rule["when"])


def _predicate(predicate: Json, facts: Json) -> bool:
    found = _facts(predicate, facts)
    fold = predicate["field"] == "host"
    hit = any(_value(value, fact, fold) for value in predicate["values"] for fact in found)
    return hit is not bool(predicate["negate"])


def _facts(predicate: Json, facts: Json) -> list[str]:
    match predicate["field"]:
        case "principal":
            return [facts["peer"].removeprefix("spiffe://")] if facts["peer"] else []
        case "identity":
            return [facts["peer"]] if facts["peer"] else []
        case "header":
            return [value for name, value in facts["headers"] if name == predicate["name"]]
        case "request_principal" | "claim":
            return []  # tokens are not read here: a request has none
    return [facts[predicate["field"]]]


def _value(value: Json, fact: str, fold: bool) -> bool:
    wanted = value["value"].lower() if fold else value["value"]
    fact = fact.lower() if fold else fact
    match value["kind"]:
        case "exact":
            return bool(fact == wanted)
        case "prefix":
            return fact.startswith(wanted)
        case "suffix":
            return fact.endswith(wanted)
        case "present":
            return fact != ""
        case "regex":
            return re.fullmatch(wanted, fact) is not None
        case "cidr":
            address = _address(fact)
            return address is not None and address in ipaddress.ip_network(wanted)
        case "template":
            return re.fullmatch(_template(wanted), fact) is not None
    raise AssertionError(value["kind"])


def _template(template: str) -> str:
    one, many = re.escape("{*}"), re.escape("{**}")
    return re.escape(template).replace(many, ".*").replace(one, "[^/]+")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


HTTP_ONLY = ("host", "method", "path", "header", "request_principal", "claim", "unsupported")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
