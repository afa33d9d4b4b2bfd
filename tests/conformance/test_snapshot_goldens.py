"""Snapshot goldens, read by both halves: ours encodes what it decodes alike, and compiles its sources to them.

`NAME.json` is a transaction with an empty base; where `NAME.yaml` stands beside it, compiling that for its workload
`details-v1` must give the file's sections and digest.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from meshdp.compiler import compile_workload
from meshdp.compiler import snapshot as sections
from meshdp.resources import load
from tests.support.conformance import params
from tests.support.meshes import workload_of

FOLDER = Path(__file__).parent / "snapshot"
TOPIC = "snapshot"
TYPES: dict[str, type[msgspec.Struct]] = {
    "mesh": sections.Mesh,
    "workload": sections.Self,
    "peers": sections.Peers,
    "authn": sections.Authn,
    "authz": sections.Authz,
    "telemetry": sections.Telemetry,
    "inbound": sections.Inbound,
    "service": sections.ServiceRoutes,
    "cluster": sections.Cluster,
    "endpoints": sections.Endpoints,
}


class Change(msgspec.Struct, forbid_unknown_fields=True):
    """A transaction with its sections as they stand."""

    schema: int
    base: str
    put: dict[str, msgspec.Raw]
    drop: list[str]
    digest: str


@pytest.mark.parametrize("case", params(TOPIC, sorted(path.stem for path in FOLDER.glob("*.json"))))
def test_our_structs_are_the_schema(case: str) -> None:
    change = msgspec.json.decode((FOLDER / f"{case}.json").read_bytes(), type=Change)
    whole = hashlib.sha256()
    for name, body in sorted(change.put.items()):
        text = bytes(body)
        decoded = msgspec.json.decode(text, type=TYPES[name.partition("/")[0]], strict=True)
        again = msgspec.json.encode(decoded, order="sorted")
        assert json.loads(again) == json.loads(text), name
        assert again == text, f"{name} is not canonical"
        whole.update(f"{name}\0{hashlib.sha256(text).hexdigest()}\n".encode())
    assert whole.hexdigest() == change.digest


@pytest.mark.parametrize("case", params(TOPIC, sorted(path.stem for path in FOLDER.glob("*.yaml"))))
def test_sources_compile_to_their_golden(case: str) -> None:
    found = load([(f"{case}.yaml", (FOLDER / f"{case}.yaml").read_text())])
    compiled = compile_workload(found.resources, workload_of(found)).transaction(None)
    assert compiled.decode() == (FOLDER / f"{case}.json").read_text().removesuffix("\n")
