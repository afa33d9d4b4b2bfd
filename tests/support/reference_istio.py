"""The plain evaluator: what Istio's documents say about a request, read from the documents themselves, slowly and obviously.

In:     Istio documents as plain data, the mesh's settings, a request as `meshdp authz eval` takes it.
Out:    `allowed`, `action`, `policy`, `rule` and `shadow` of a verdict. Knows nothing of our compiler, snapshot and matcher.
Limits: selectors, PeerAuthentication modes and AuthorizationPolicy; no tokens, no CUSTOM. Paths are taken as normalised.
Source: spec/istio-semantics.md B.1, D.1 to D.5; spec/istio-observed.md 1, 2, 6, 7, 11, 12.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

ROOT = "istio-system"
HTTP_FIELDS = ("hosts", "methods", "paths", "notHosts", "notMethods", "notPaths")


@dataclass
class Mesh:
    trust_domain: str = "cluster.local"
    aliases: list[str] = field(default_factory=list)

    @property
    def domains(self) -> list[str]:
        return [self.trust_domain, *self.aliases]


def verdict(documents: list[Json], mesh: Mesh, request: Json) -> Json:
    """The verdict on one request."""
    to, source = request["destination"], request["source"]
    mode = mtls_mode(documents, to)
    principal = source["principal"] if mode != "DISABLE" else None
    if principal is None and mode == "STRICT":
        return answer(False, None, None, None)
    if principal is not None and principal.partition("/")[0] not in mesh.domains:
        return answer(False, None, None, None)
    facts = Facts(request, principal, mesh, is_http=to["protocol"] == "http")
    selected = [each for each in documents if each["kind"] == "AuthorizationPolicy" and selects(each, to)]
    enforced = [each for each in selected if not is_dry_run(each)]
    tried = [each for each in selected if is_dry_run(each)]
    shadow = {"allow": shadow_allow(tried, facts), "deny": shadow_deny(tried, facts)}
    told = shadow if any(shadow.values()) else None
    denies = matching(enforced, "DENY", facts)
    if denies:
        return answer(False, "DENY", denies[0], told)
    allows = matching(enforced, "ALLOW", facts)
    if allows:
        return answer(True, "ALLOW", allows[0], told)
    if any(action_of(each) == "ALLOW" for each in enforced):
        return answer(False, "ALLOW", None, told)
    return answer(True, None, None, told)


def answer(allowed: bool, action: str | None, rule: tuple[str, int] | None, shadow: Json | None) -> Json:
    policy, index = rule if rule is not None else (None, None)
    return {"allowed": allowed, "action": action, "policy": policy, "rule": index, "shadow": shadow}


# --- which policies concern the destination (B.1, D.1) ----------------------------------------------------------------


def mtls_mode(documents: list[Json], to: Json) -> str:
    """The oldest of each scope counts; all of these are equally old, so the first by name does."""
    scopes: dict[str, Json] = {}
    found = [each for each in documents if each["kind"] == "PeerAuthentication"]
    for each in sorted(found, key=lambda each: each["metadata"]["name"]):
        namespace, labels = each["metadata"]["namespace"], selector(each)
        if namespace == ROOT and not labels:
            scopes.setdefault("mesh", each)
        elif namespace == to["namespace"] != ROOT and labels.items() <= to["labels"].items():
            scopes.setdefault("workload" if labels else "namespace", each)
    mode = "PERMISSIVE"
    for scope in ("mesh", "namespace", "workload"):
        if scope in scopes:
            mode = inherited(scopes[scope]["spec"].get("mtls", {}).get("mode", "UNSET"), mode)
    if "workload" in scopes:
        of_port = scopes["workload"]["spec"].get("portLevelMtls", {}).get(str(to["port"]), {})
        mode = inherited(of_port.get("mode", "UNSET"), mode)
    return mode


def inherited(mode: str, above: str) -> str:
    return above if mode == "UNSET" else mode


def selects(policy: Json, to: Json) -> bool:
    near = policy["metadata"]["namespace"] in (ROOT, to["namespace"])
    return near and selector(policy).items() <= to["labels"].items()


def selector(document: Json) -> dict[str, str]:
    labels: dict[str, str] = document["spec"].get("selector", {}).get("matchLabels", {})
    return labels


def is_dry_run(policy: Json) -> bool:
    return policy["metadata"].get("annotations", {}).get("istio.io/dry-run") == "true"


def action_of(policy: Json) -> str:
    return str(policy["spec"].get("action", "ALLOW"))


# --- which rules match (D.2) ------------------------------------------------------------------------------------------


def matching(policies: list[Json], action: str, facts: Facts) -> list[tuple[str, int]]:
    """Rules that match, as ("namespace/name", index), in the order in which Envoy asks them: by the text of their id."""
    found = []
    for policy in policies:
        if action_of(policy) != action:
            continue
        namespace, name = policy["metadata"]["namespace"], policy["metadata"]["name"]
        for index, rule in enumerate(policy["spec"].get("rules", [])):
            if rule_matches(rule, action, namespace, facts):
                found.append((f"ns[{namespace}]-policy[{name}]-rule[{index}]", f"{namespace}/{name}", index))
    return [(name, index) for _, name, index in sorted(found)]


def rule_matches(rule: Json, action: str, namespace: str, facts: Facts) -> bool:
    if not facts.is_http:
        if action == "ALLOW" and is_about_http(rule):
            return False  # D.5: the entire rule is dropped
        rule = without_http(rule)  # D.5: the rule becomes wider
    sources = [each["source"] for each in rule.get("from", [])]
    operations = [each["operation"] for each in rule.get("to", [])]
    return (
        (not sources or any(source_matches(each, namespace, facts) for each in sources))
        and (not operations or any(operation_matches(each, facts) for each in operations))
        and all(condition_matches(each, namespace, facts) for each in rule.get("when", []))
    )


def is_about_http(rule: Json) -> bool:
    fields = {name for each in rule.get("to", []) for name in each["operation"]}
    return bool(fields & set(HTTP_FIELDS)) or any(is_header(each) for each in rule.get("when", []))


def without_http(rule: Json) -> Json:
    kept = [
        {"operation": {name: values for name, values in each["operation"].items() if name not in HTTP_FIELDS}}
        for each in rule.get("to", [])
    ]
    return rule | {"to": kept, "when": [each for each in rule.get("when", []) if not is_header(each)]}


def is_header(condition: Json) -> bool:
    return str(condition["key"]).startswith("request.headers[")


def source_matches(source: Json, namespace: str, facts: Facts) -> bool:
    return all(
        facts.one_of(_SOURCE[name.removeprefix("not").lower()], values, namespace) is not name.startswith("not")
        for name, values in source.items()
    )


def operation_matches(operation: Json, facts: Facts) -> bool:
    return all(
        facts.one_of(_OPERATION[name.removeprefix("not").lower()], values, "") is not name.startswith("not")
        for name, values in operation.items()
    )


def condition_matches(condition: Json, namespace: str, facts: Facts) -> bool:
    key = condition["key"]
    wanted, unwanted = condition.get("values", []), condition.get("notValues", [])
    return (not wanted or facts.one_of(key, wanted, namespace)) and (
        not unwanted or not facts.one_of(key, unwanted, namespace)
    )


_SOURCE = {
    "principals": "source.principal",
    "namespaces": "source.namespace",
    "serviceaccounts": "source.serviceAccount",
    "trustdomains": "source.trustDomain",
    "ipblocks": "source.ip",
    "remoteipblocks": "remote.ip",
}
_OPERATION = {"hosts": "host", "ports": "destination.port", "methods": "method", "paths": "path"}


def shadow_allow(policies: list[Json], facts: Facts) -> Json | None:
    if not any(action_of(each) == "ALLOW" for each in policies):
        return None
    return shadow_result(matching(policies, "ALLOW", facts), allowed_when_matched=True)


def shadow_deny(policies: list[Json], facts: Facts) -> Json | None:
    if not any(action_of(each) == "DENY" for each in policies):
        return None
    return shadow_result(matching(policies, "DENY", facts), allowed_when_matched=False)


def shadow_result(found: list[tuple[str, int]], *, allowed_when_matched: bool) -> Json:
    policy, rule = found[0] if found else (None, None)
    return {"allowed": bool(found) is allowed_when_matched, "policy": policy, "rule": rule}


# --- what the request has, and whether a value means it (D.3, D.4) ----------------------------------------------------


@dataclass
class Facts:
    request: Json
    principal: str | None
    mesh: Mesh
    is_http: bool

    def one_of(self, key: str, values: Iterable[str], namespace: str) -> bool:
        """Whether one of the values means what the request has."""
        return any(self.has(key, value, namespace) for value in values)

    def has(self, key: str, value: str, namespace: str) -> bool:
        source, to, http = self.request["source"], self.request["destination"], self.request.get("request", {})
        if key.startswith("request.headers["):
            name = key[len("request.headers[") : -1].lower()
            found = [text for other, text in http["headers"] if other.lower() == name]
            return any(value == "*" or text_matches(value, text) for text in found)
        match key:
            case "source.principal":
                return self.is_principal(value)
            case "source.namespace":
                wanted = re.compile(".*/ns/" + ".*".join(map(re.escape, value.split("*"))) + "/.*")
                return self.principal is not None and wanted.fullmatch(f"spiffe://{self.principal}") is not None
            case "source.serviceAccount":
                return self.is_account(value if "/" in value else f"{namespace}/{value}")
            case "source.trustDomain":
                return self.is_of_domain(value)
            case "source.ip":
                return in_network(value, source["ip"])
            case "remote.ip":
                remote = source.get("remoteIp") if self.is_http else None
                return in_network(value, remote or source["ip"])
            case "destination.ip":
                return in_network(value, to["ip"])
            case "destination.port":
                return int(value) == to["port"]
            case "connection.sni":
                sni = http.get("sni") if self.principal is not None else None
                return sni is not None and text_matches(value, sni.lower())
            case "host":
                return value == "*" or text_matches(value.lower(), http["host"].lower())
            case "method":
                return text_matches(value, http["method"])
            case "path":
                path = http["path"].partition("?")[0]
                return template_matches(value, path) if "{" in value else text_matches(value, path)
        raise AssertionError(key)

    def is_principal(self, value: str) -> bool:
        if self.principal is None:
            return False
        return any(text_matches(each, self.principal) for each in self.with_aliases(value))

    def with_aliases(self, value: str) -> list[str]:
        """A principal of five parts in a domain of the mesh is one of each domain."""
        domain, _, rest = value.partition("/")
        if value.count("/") != 4 or domain == "*" or domain not in (*self.mesh.domains, "cluster.local"):
            return [value]
        return [f"{each}/{rest}" for each in self.mesh.domains]

    def is_account(self, value: str) -> bool:
        namespace, _, account = value.partition("/")
        wanted = rf".+/ns/{re.escape(namespace)}/(.+/)?sa/{re.escape(account)}(/.+)?"
        return self.principal is not None and re.fullmatch(wanted, self.principal) is not None

    def is_of_domain(self, value: str) -> bool:
        if self.principal is None:
            return False
        domain = self.principal.partition("/")[0]
        if value in self.mesh.domains:
            return domain in self.mesh.domains
        return value == "*" or re.fullmatch("[^/]*".join(map(re.escape, value.split("*"))), domain) is not None


def text_matches(value: str, text: str) -> bool:
    """Exact, `*` (not empty), `*suffix`, `prefix*`."""
    if value == "*":
        return text != ""
    if value.startswith("*"):
        return text.endswith(value[1:])
    if value.endswith("*"):
        return text.startswith(value[:-1])
    return text == value


def template_matches(template: str, path: str) -> bool:
    operators = {"{*}": "[^/]+", "{**}": ".*"}
    parts = [operators.get(segment, re.escape(segment)) for segment in template.split("/")]
    return re.fullmatch("/".join(parts), path) is not None


def in_network(network: str, address: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
