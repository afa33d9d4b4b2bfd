"""Random policies and random requests that meet: small pools, so that about half of all conditions hold.

In:     a seeded `random.Random`.  Out: Istio documents and requests as plain data.
"""

from __future__ import annotations

from random import Random
from typing import Any

Json = dict[str, Any]

PRINCIPALS = [
    "cluster.local/ns/a/sa/x",
    "cluster.local/ns/b/sa/y",
    "td2/ns/a/sa/x",
    "cluster.local/ns/a/*",
    "*/ns/b/sa/y",
    "*/sa/x",
    "*",
    "foreign/ns/a/sa/x",
]
NAMESPACES = ["a", "b", "a*", "*b", "*", "*-*"]
ACCOUNTS = ["x", "a/x", "b/y", "default/x"]
DOMAINS = ["cluster.local", "td2", "*", "t*", "*.local", "foreign"]
NETWORKS = ["10.0.0.0/8", "10.1.0.5", "10.1.0.0/16", "192.168.0.0/16", "0.0.0.0/0", "::/0"]
HOSTS = ["w.example", "W.Example:8080", "*.example", "w.*", "*", "x.example"]
METHODS = ["GET", "POST", "*", "P*", "*T"]
PATHS = ["/a", "/a/*", "*.png", "*", "/x/{*}", "/x/{**}", "/x/{*}/y", "/x/{**}/y", "/b"]
PORTS = ["8080", "9000", "1"]
TEXTS = ["v1", "v*", "*1", "*", "w"]
SNIS = ["w.example", "*.example", "*"]
CONDITIONS: dict[str, list[str]] = {
    "request.headers[x-k]": TEXTS,
    "request.headers[X-Other]": TEXTS,
    "source.ip": NETWORKS,
    "remote.ip": NETWORKS,
    "source.namespace": NAMESPACES,
    "source.serviceAccount": ACCOUNTS,
    "source.trustDomain": DOMAINS,
    "source.principal": PRINCIPALS,
    "destination.ip": ["10.2.0.0/16", "10.3.0.1"],
    "destination.port": PORTS,
    "connection.sni": SNIS,
}
SOURCES = {
    "principals": PRINCIPALS,
    "namespaces": NAMESPACES,
    "trustDomains": DOMAINS,
    "ipBlocks": NETWORKS,
    "remoteIpBlocks": NETWORKS,
}
OPERATIONS = {"hosts": HOSTS, "ports": PORTS, "methods": METHODS, "paths": PATHS}
CALLERS = [
    None,
    "cluster.local/ns/a/sa/x",
    "cluster.local/ns/b/sa/y",
    "td2/ns/a/sa/x",
    "cluster.local/ns/ab/sa/z",
    "foreign/ns/a/sa/x",
    "cluster.local/ns/a/more/sa/x",
]


def documents(random: Random) -> list[Json]:
    """A handful of policies."""
    found = [_policy(random, f"p{index}") for index in range(random.randrange(1, 6))]
    return found + [_peer_authentication(random, f"m{index}") for index in range(random.choice([0, 0, 1, 2, 3]))]


def request(random: Random) -> Json:
    """A request over HTTP to a port that speaks it, or an opaque connection."""
    source: Json = {"principal": random.choice(CALLERS), "ip": random.choice(["10.1.0.5", "192.168.7.7", "fd00::1"])}
    if random.random() < 0.3:
        source["remoteIp"] = random.choice(["10.9.9.9", "203.0.113.7", "2001:db8::1"])
    sni = random.choice(["w.example", "W.EXAMPLE", None])
    to: Json = {
        "namespace": "default",
        "labels": {"app": "w", "version": random.choice(["v1", "v2"])},
        "ip": "10.2.0.1",
    }
    if random.random() < 0.25:
        return {"source": source, "destination": to | {"port": 9000, "protocol": "tcp"}, "request": {"sni": sni}}
    names = random.choices(["x-k", "X-K", "x-other", "x-more"], k=random.randrange(4))
    http = {
        "method": random.choice(["GET", "POST", "PUT", "DELETE"]),
        "path": random.choice(["/a", "/a/b", "/a/c.png", "/x/1", "/x/1/y", "/x/1/2/y", "/x/", "/b", "/", "/a?q=/b"]),
        "host": random.choice(["w.example", "W.EXAMPLE", "w.example:8080", "x.other"]),
        "headers": [[name, random.choice(["v1", "v2", "w", "", "a1"])] for name in names],
        "sni": sni,
    }
    return {"source": source, "destination": to | {"port": 8080, "protocol": "http"}, "request": http}


def _policy(random: Random, name: str) -> Json:
    action = random.choice(["ALLOW", "ALLOW", "DENY", "DENY", "AUDIT"])
    least = 0 if action == "ALLOW" and random.random() < 0.1 else 1
    spec: Json = {"action": action, "rules": [_rule(random) for _ in range(random.randrange(least, 4))]}
    labels = random.choice([{}, {}, {"app": "w"}, {"version": "v1"}, {"app": "other"}])
    if labels:
        spec["selector"] = {"matchLabels": labels}
    metadata: Json = {"name": name, "namespace": random.choice(["default", "default", "istio-system", "other"])}
    if action != "AUDIT" and random.random() < 0.2:
        metadata["annotations"] = {"istio.io/dry-run": "true"}
    return _document("AuthorizationPolicy", metadata, spec)


def _peer_authentication(random: Random, name: str) -> Json:
    modes = ["UNSET", "PERMISSIVE", "STRICT", "DISABLE"]
    spec: Json = {"mtls": {"mode": random.choice(modes)}}
    namespace = random.choice(["default", "istio-system", "other"])
    if namespace != "istio-system" and random.random() < 0.5:
        spec["selector"] = {"matchLabels": random.choice([{"app": "w"}, {"version": "v2"}])}
        if random.random() < 0.5:
            spec["portLevelMtls"] = {random.choice(["8080", "9000"]): {"mode": random.choice(modes)}}
    return _document("PeerAuthentication", {"name": name, "namespace": namespace}, spec)


def _document(kind: str, metadata: Json, spec: Json) -> Json:
    return {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _rule(random: Random) -> Json:
    rule: Json = {}
    if random.random() < 0.5:
        rule["from"] = [{"source": _source(random)} for _ in range(random.choice([1, 1, 2]))]
    if random.random() < 0.5:
        rule["to"] = [{"operation": _fields(random, OPERATIONS)} for _ in range(random.choice([1, 1, 2]))]
    if random.random() < 0.3:
        rule["when"] = [_condition(random) for _ in range(random.choice([1, 1, 2]))]
    return rule


def _source(random: Random) -> Json:
    if random.random() < 0.2:
        name = random.choice(["serviceAccounts", "notServiceAccounts"])
        return {name: _values(random, ACCOUNTS)}
    return _fields(random, SOURCES)


def _fields(random: Random, pools: dict[str, list[str]]) -> Json:
    fields: Json = {}
    for name in random.sample(list(pools), random.choice([1, 1, 2])):
        written = name if random.random() < 0.7 else f"not{name[0].upper()}{name[1:]}"
        fields[written] = _values(random, pools[name])
    return fields


def _condition(random: Random) -> Json:
    key = random.choice(list(CONDITIONS))
    condition: Json = {"key": key}
    if random.random() < 0.7:
        condition["values"] = _values(random, CONDITIONS[key])
    if "values" not in condition or random.random() < 0.2:
        condition["notValues"] = _values(random, CONDITIONS[key])
    return condition


def _values(random: Random, pool: list[str]) -> list[str]:
    return random.sample(pool, random.choice([1, 1, 2]))
