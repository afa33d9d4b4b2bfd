"""Turns the sections that an engine has in force into rows: listeners, routes, clusters, endpoints, policies.

In:      the page `/config` of one sidecar (docs/admin.md, docs/snapshot.md).
Out:     rows whose keys docs/inspect.md promises; `KINDS` says which sections each kind needs.
Fails:   never for sections or keys it does not know: a newer sidecar has more than is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshdp.local.inspection.predicates import alternatives, conjunction
from meshdp.local.report import Row

Sections = Mapping[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Filters:
    """What a person wants to see; None does not ask."""

    port: int | None = None
    fqdn: str | None = None
    direction: str | None = None
    name: str | None = None

    def keep(self, row: Row) -> bool:
        """Whether a row is asked for. A row that has no such key is not."""
        if self.port is not None and row.get("port") != self.port:
            return False
        if self.fqdn is not None and self.fqdn != row.get("fqdn"):
            return False
        if self.direction is not None and self.direction != row.get("direction"):
            return False
        return self.name is None or self.name in (row.get("name"), str(row.get("name")).rpartition("/")[2])


def listeners(sections: Sections) -> Iterator[Row]:
    """What is accepted: inbound ports with their chains, outbound destinations with where they lead."""
    for section in _of(sections, "inbound/"):
        for chain in section.get("chains", []):
            yield {
                "direction": "inbound",
                "address": "*",
                "port": section["port"] or None,
                "protocol": _spoken(section, chain),
                "tls": section["mode"],
                "name": chain["name"],
                "match": _match(chain),
                "fqdn": section["service"] or None,
            }
    for section in _of(sections, "service/"):
        for address in section.get("addresses") or ["*"]:
            yield _outbound(address, section["port"], section["protocol"], section["host"])
    mesh = sections.get("mesh")
    if mesh:
        beyond = "passthrough" if mesh["outbound_policy"] == "ALLOW_ANY" else "refused"
        yield _outbound("*", None, "any", None) | {"name": beyond, "match": "no other destination"}


def routes(sections: Sections) -> Iterator[Row]:
    """Which requests go to which clusters."""
    for section in _of(sections, "service/"):
        for rule in section.get("rules", []):
            yield {
                "name": rule["name"],
                "fqdn": section["host"],
                "port": section["port"],
                "protocol": section["protocol"],
                "domains": section["domains"],
                "match": rule["match"],
                "clusters": [f"{each['key']} ({each['weight']})" for each in rule["clusters"]],
            }


def clusters(sections: Sections) -> Iterator[Row]:
    """Where connections go, and as whom."""
    for section in _of(sections, "cluster/"):
        direction, _, subset, _ = [*section["key"].split("|"), "", "", ""][:4]
        known = sections.get(f"endpoints/{section['key']}", {}).get("endpoints", [])
        yield {
            "name": section["key"],
            "fqdn": section["host"],
            "port": section["port"],
            "subset": subset or None,
            "direction": direction,
            "balance": section["balance"],
            "protocol": section.get("protocol"),
            "h2_upgrade": section.get("h2_upgrade"),
            "sni": section["sni"],
            "identities": section["identities"],
            "connect_timeout_ms": section["connect_timeout_ms"],
            "healthy": sum(each["health"] == "HEALTHY" for each in known),
            "endpoints": len(known),
        }


def endpoints(sections: Sections) -> Iterator[Row]:
    """The instances behind each cluster."""
    for name, section in _named(sections, "endpoints/"):
        key = name.removeprefix("endpoints/")
        for each in section.get("endpoints", []):
            yield {
                "address": each["address"],
                "port": each["port"],
                "health": each["health"],
                "mtls": each["mtls"],
                "name": f"{each['namespace']}/{each['workload']}",
                "identity": each["identity"] or None,
                "weight": each["weight"],
                "capabilities": each["capabilities"],
                "fqdn": key.split("|")[-1],
                "cluster": key,
            }


def policies(sections: Sections) -> Iterator[Row]:
    """Every rule that guards this workload, with its place. A policy without rules has one row."""
    for policy in sections.get("authz", {}).get("policies", []):
        for number, rule in enumerate(policy["rules"] or [None]):
            yield {
                "name": f"{policy['namespace']}/{policy['name']}",
                "action": policy["action"],
                "dry_run": policy["dry_run"],
                "rule": None if rule is None else number,
                "from": "nobody" if rule is None else alternatives(rule["from"]),
                "to": "nothing" if rule is None else alternatives(rule["to"]),
                "when": "" if rule is None else conjunction(rule["when"]),
                "where": policy["where"],
            }


Rows = Callable[[Sections], Iterable[Row]]

# Each kind with the beginnings of the names of its sections, the columns a table leaves out, and how its rows are made.
KINDS: Mapping[str, tuple[str, tuple[str, ...], Rows]] = {
    "listeners": ("inbound/,service/,mesh", (), listeners),
    "routes": ("service/", ("protocol",), routes),
    "clusters": ("cluster/,endpoints/", ("name", "h2_upgrade", "identities", "sni", "connect_timeout_ms"), clusters),
    "endpoints": ("endpoints/", ("weight", "capabilities", "fqdn"), endpoints),
    "policies": ("authz", (), policies),
}


def _outbound(address: str, port: int | None, protocol: str, fqdn: str | None) -> Row:
    return {
        "direction": "outbound",
        "address": address,
        "port": port,
        "protocol": protocol,
        "tls": None,
        "name": "service",
        "match": "host" if protocol in ("http", "http2") else "destination",
        "fqdn": fqdn,
    }


def _spoken(section: dict[str, Any], chain: dict[str, Any]) -> str:
    """What a chain treats the connection as; where the port declares HTTP/2, that."""
    return "http2" if (chain["protocol"], section["protocol"]) == ("http", "http2") else str(chain["protocol"])


def _match(chain: dict[str, Any]) -> str:
    ended = "mTLS " if chain["terminate"] else ""
    return f"{ended}{chain['transport']} {','.join(chain['application'])}".strip()


def _of(sections: Sections, prefix: str) -> Iterator[dict[str, Any]]:
    return (section for _, section in _named(sections, prefix))


def _named(sections: Sections, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, section) for name, section in sections.items() if name.startswith(prefix))
