"""Istio's golden RBAC filters: the expected Envoy tree and our verdict agree on generated boundary requests.

Every literal of the expected tree becomes values that just match and just miss; at least 50 requests a golden.
"""

from __future__ import annotations

import ipaddress
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshdp.compiler import Workload, compile_workload
from meshdp.resources import load
from tests.support.conformance import ROOT, Unsupported, params, table
from tests.support.judges import judge
from tests.support.reference_rbac import allowed

TOPIC = "authz"
REQUESTS = 400
METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"})
NEAR = 0.8  # share of facts drawn from values that match some literal
JUDGE, JUDGED_BY = judge()
Json = dict[str, Any]


def _cases() -> dict[str, tuple[Path, list[Path], Json]]:
    """The rows of the table, and beside them every input in the folder that no row names but that has its golden."""
    found = {}
    for layer in ("http", "tcp"):
        folder = ROOT / "authz" / "builder" / layer
        rows = table("authz/builder_cases.json", f"TestGenerator_Generate{layer.upper()}")
        for case in rows:
            files = [folder / name for name in case.get("want") or []]
            found[f"builder/{layer}/{case['name']}"] = (folder / str(case.get("input")), files, case)
        named = {str(case.get("input")) for case in rows}
        for source in sorted(folder.glob("*-in.yaml")):
            stem = source.name.removesuffix("-in.yaml")
            goldens = [path for path in sorted(folder.glob(f"{stem}-out*.yaml")) if path.exists()]
            if source.name not in named and goldens:
                found[f"builder/{layer}/{stem}"] = (source, goldens, {})
    return found


CASES = _cases()


@pytest.mark.parametrize("case", params(TOPIC, sorted(CASES)))
def test_a_golden(case: str) -> None:
    source, files, table_row = CASES[case]
    absent = [path.name for path in (source, *files) if not path.exists()]
    if absent:
        pytest.skip(f"no expected output: this folder has no {', '.join(absent)}")
    http = "/http/" in case
    policies = list(yaml.safe_load_all(_plain(source.read_text())))
    names = dict(zip(sorted(_odd_methods(policies)), sorted(METHODS), strict=False))
    policies = _renamed(policies, names)
    filters = _renamed([yaml.safe_load(_plain(path.read_text())) for path in files], names)
    transaction = _compiled(policies, table_row)
    failure = None
    for facts in _requests(case, [*filters, *policies]):
        wanted, answer = allowed(filters, _seen(facts, http)), JUDGED_BY(transaction, _request(facts, http))
        if answer["allowed"] is not wanted:
            failure = f"expected allowed={wanted}, got {answer} for {facts}"
            break
    text = source.read_text()
    feature = None
    if "CUSTOM" in text:
        feature = {"reason": "external authorizers are not called: fails closed", "milestone": "M4"}
    elif re.search(r"request\.auth|equestPrincipals|experimental", text):
        feature = {"reason": "tokens are not verified: fails closed", "milestone": "M4"}
    Unsupported.of(TOPIC).settle(case, failure, final=JUDGE == "native", feature=feature)


def _plain(text: str) -> str:
    """Writes the `[0]` of made-up names as `-0`, also where a regex escapes it: no identity holds brackets."""
    return re.sub(r"\\?\[(\d)\\?\]", r"-\1", text)


def _odd_methods(policies: Any) -> Iterator[str]:
    """Exact methods of the policies that no HTTP parser reads as a method; they are renamed on both sides."""
    if isinstance(policies, dict):
        for name, value in policies.items():
            if name in ("methods", "notMethods"):
                yield from (method for method in value if "*" not in method and method not in METHODS)
            else:
                yield from _odd_methods(value)
    elif isinstance(policies, list):
        for value in policies:
            yield from _odd_methods(value)


def _renamed(tree: Any, names: dict[str, str]) -> Any:
    if isinstance(tree, dict):
        return {name: _renamed(value, names) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_renamed(value, names) for value in tree]
    return names.get(tree, tree) if isinstance(tree, str) else tree


def _compiled(policies: list[Json], row: Json) -> bytes:
    bundle = row.get("tdBundle", {}).get("args") or ["cluster.local", []]
    mesh = {
        "apiVersion": "meshdp.io/v1alpha1",
        "kind": "MeshConfig",
        "metadata": {"name": "mesh", "annotations": {"meshdp.io/validate-trust-domain": "false"}},
        "spec": {"trustDomain": bundle[0], "trustDomainAliases": bundle[1] or []},
    }
    files = [(f"{index}.json", json.dumps(document)) for index, document in enumerate([*policies, mesh])]
    loaded = load(files)
    assert not loaded.errors, loaded.errors
    labels = {"app": "httpbin", "version": "v1"}
    workload = Workload("w", "foo", "w", labels, ("10.20.0.1",))
    return compile_workload(loaded.resources, workload).transaction(None)


def _requests(case: str, trees: list[Json]) -> Iterator[Json]:
    """Seeded by the case's name: the same requests in every run."""
    literals = sorted({str(literal) for tree in trees for literal in _literals(tree)})
    near = {name: sorted(values) for name, values in _pools(literals, _matching).items()}
    wide = {name: sorted(values) for name, values in _pools(literals, _variants).items()}
    chooser = random.Random(case)
    for _ in range(REQUESTS):
        yield {name: chooser.choice((near if chooser.random() < NEAR else wide)[name]) for name in wide}


def _pools(literals: list[str], expand: Callable[[str], Iterator[str]]) -> dict[str, set[str]]:
    """Candidate values by fact, from every literal of the policy and the golden."""
    strings = {variant for literal in literals for variant in expand(literal)}
    numbers = {int(literal) + step for literal in literals if literal.isdecimal() for step in (-1, 0, 1)}
    addresses = {address for literal in literals for address in _addresses(literal)}
    return {
        "peer": {"", *(f"spiffe://{text}" for text in strings if re.fullmatch(_IDENTITY, text))},
        "host": {"w.example", *(text for text in strings if re.fullmatch(r"[A-Za-z0-9.-]+", text))},
        "method": {"GET", *(text for text in strings if text in METHODS)},
        "path": {"/", *(text for text in strings if re.fullmatch(r"/[A-Za-z0-9/._-]*", text) and "//" not in text)},
        "port": {"8080", *(str(number) for number in numbers if 0 < number < 65536)},
        "sni": {"w.example", *(text.lower() for text in strings if re.fullmatch(r"[A-Za-z0-9.-]+", text))},
        "header": {"", *(text for text in strings if re.fullmatch(r"[A-Za-z0-9.-]+", text))},
        "source": {"10.1.0.5", *addresses},
        "xff": {"", *addresses},
        "destination": {"10.20.0.1", *addresses},
    }


def _literals(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _literals(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _literals(value)
    else:
        yield tree


def _matching(literal: str) -> Iterator[str]:
    """Values that match a literal, wildcards and templates filled in; bare words also as parts of an identity."""
    for filled in (literal.replace("{**}", "a/b").replace("{*}", "a"), literal.replace("{**}", "a").replace("*", "z")):
        text = filled.replace("*", "").removeprefix("spiffe://")
        yield text
        if "/" not in text:
            yield f"cluster.local/ns/{text}/sa/x"
            yield f"{text}/ns/foo/sa/x"
        elif "ns/" not in text and text.count("/") == 1:
            yield f"cluster.local/ns/{text.replace('/', '/sa/')}"


def _variants(literal: str) -> Iterator[str]:
    """Values that just match and values that just miss."""
    for text in _matching(literal):
        yield from (text, text + "x", text[:-1], "x" + text, text.upper())


def _addresses(literal: str) -> Iterator[str]:
    try:
        network = ipaddress.ip_network(literal, strict=False)
    except ValueError:
        return
    if literal.count(".") == 3:
        yield from (str(network[0]), str(network[-1]), str(network[0] - 1), str(network[-1] + 1))


def _seen(facts: Json, http: bool) -> Json:
    peer = facts["peer"] or None
    pseudo = [(":authority", facts["host"]), (":method", facts["method"]), (":path", facts["path"])]
    header = [("x-header", facts["header"])] if facts["header"] else []
    return {
        "peer": peer,
        "headers": [*pseudo, *header] if http else [],
        "path": facts["path"],
        "destination_port": int(facts["port"]),
        "destinationIp": facts["destination"],
        "directRemoteIp": facts["source"],
        "remoteIp": facts["xff"] if facts["xff"] and http else facts["source"],
        "sni": facts["sni"] if peer else "",
    }


def _request(facts: Json, http: bool) -> Json:
    lines = [f"{facts['method']} {facts['path']} HTTP/1.1", f"Host: {facts['host']}"]
    lines += [f"X-Header: {facts['header']}"] if facts["header"] else []
    lines += [f"x-forwarded-for: {facts['xff']}"] if facts["xff"] else []
    mesh_alpn = ["istio-http/1.1", "istio", "http/1.1"] if http else ["istio-peer-exchange", "istio"]
    plain = ["http/1.1"] if http else []
    return {
        "direction": "inbound",
        "peer": facts["peer"] or None,
        "source": f"{facts['source']}:40000",
        "destination": f"{facts['destination']}:{facts['port']}",
        "sni": facts["sni"] if facts["peer"] else None,
        "head": "\r\n".join(lines) + "\r\n\r\n" if http else None,
        "detected": {"tls": bool(facts["peer"]), "alpn": mesh_alpn if facts["peer"] else plain},
    }


_IDENTITY = r"[a-z0-9._-]+(/[A-Za-z0-9._-]+)+"
