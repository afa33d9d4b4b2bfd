"""Evaluates the Envoy RBAC filters of Istio's golden files on plain facts.

In:     the documents of `*-out*.yaml` and facts of one request.
Out:    allowed or not, as the filters in order decide.
Limits: no tokens and no dynamic metadata: a metadata matcher finds nothing.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

Json = dict[str, Any]


def allowed(filters: list[Json], facts: Json) -> bool:
    """Every filter must let the request pass; shadow rules never decide."""
    return all(_filter_allows(one["typedConfig"], facts) for one in filters)


def _filter_allows(config: Json, facts: Json) -> bool:
    rules = config.get("rules")
    if rules is None:
        return True
    policies = (rules.get("policies") or {}).values()
    hit = any(_policy_matches(policy, facts) for policy in policies)
    return not hit if rules.get("action") == "DENY" else hit or rules.get("action") == "LOG"


def _policy_matches(policy: Json, facts: Json) -> bool:
    permitted = any(_matches(node, facts) for node in policy["permissions"])
    return permitted and any(_matches(node, facts) for node in policy["principals"])


def _matches(node: Json, facts: Json) -> bool:
    ((kind, body),) = node.items()
    match kind:
        case "any":
            return bool(body)
        case "andRules" | "andIds":
            return all(_matches(child, facts) for child in _children(body))
        case "orRules" | "orIds":
            return any(_matches(child, facts) for child in _children(body))
        case "notRule" | "notId":
            return not _matches(body, facts)
        case "metadata" | "sourcedMetadata":
            return False
        case "header":
            return _header(body, facts)
        case "urlPath":
            return _string(body["path"], facts["path"])
        case "uriTemplate":
            return re.fullmatch(_template(body["typedConfig"]["pathTemplate"]), facts["path"]) is not None
        case "destinationPort":
            return bool(facts["destination_port"] == body)
        case "destinationIp" | "directRemoteIp" | "remoteIp":
            return _address(body, facts[kind])
        case "requestedServerName":
            return _string(body, facts["sni"])
        case "authenticated":
            return facts["peer"] is not None and _string(body.get("principalName"), facts["peer"])
        case "filterState":
            return facts["peer"] is not None and _string(body["stringMatch"], facts["peer"])
    raise AssertionError(f"unknown matcher {kind}")


def _children(body: Json) -> list[Json]:
    return list(body.get("rules") or body.get("ids") or [])


def _header(body: Json, facts: Json) -> bool:
    name = body["name"].lower()
    values = [value for header, value in facts["headers"] if header == name]
    if body.get("presentMatch"):
        return bool(values)
    return any(_string(body["stringMatch"], value) for value in values)


def _string(matcher: Json | None, text: str) -> bool:
    if matcher is None:
        return True
    fold = bool(matcher.get("ignoreCase"))
    text = text.lower() if fold else text
    if "safeRegex" in matcher:
        return re.fullmatch(matcher["safeRegex"]["regex"], text) is not None
    for kind, test in (("exact", str.__eq__), ("prefix", str.startswith), ("suffix", str.endswith)):
        if kind in matcher:
            wanted = matcher[kind].lower() if fold else matcher[kind]
            return bool(test(text, wanted))
    raise AssertionError(f"unknown string matcher {matcher}")


def _template(template: str) -> str:
    parts = ("[^/]+" if part == "*" else ".*" if part == "**" else re.escape(part) for part in template.split("/"))
    return "/".join(parts)


def _address(body: Json, address: str) -> bool:
    network = ipaddress.ip_network(f"{body['addressPrefix']}/{body.get('prefixLen', 0)}", strict=False)
    return ipaddress.ip_address(address) in network
