"""Turns a LocalMesh file into the instances to run and the paths to watch.

In:      the path of one YAML file with exactly one `LocalMesh` document.
Out:     `MeshFile`, read by everything in this folder; paths in it are absolute.
Limits:  250 instances in all.
Fails:   Refused with every finding (file:line and field path); UsageError when the file cannot be read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from meshdp.documents import RawDocument, parse
from meshdp.errors import Finding, Refused, UsageError, Where
from meshdp.local.state import MESH_NAME, MESH_NAME_EXPECTED
from meshdp.resources.shape import Problem, Shape, finding, read
from meshdp.sources import files

INSTANCE_LIMIT = 250


class InstanceKey(NamedTuple):
    """Names one running instance in the mesh."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of a workload: a process of the user's and, in the mesh, its sidecar.

    workload: the name in the file; `key.name` adds the replica's number when there are several. ports: numbers under
    names that a service's `targetPort` may use.
    """

    key: InstanceKey
    workload: str
    service_account: str
    labels: dict[str, str]
    command: tuple[str, ...]
    working_dir: Path
    env: dict[str, str]
    ports: dict[str, int]
    sidecar: bool


@dataclass(frozen=True, slots=True)
class MeshFile:
    """One mesh: its name, where it was written, what to watch and what to run."""

    name: str
    path: Path
    resources: tuple[Path, ...]
    instances: tuple[Instance, ...]


class WorkloadShape(Shape, frozen=True):
    """One entry of `spec.workloads` as written."""

    name: str
    command: list[str]
    namespace: str = "default"
    service_account: str = "default"
    labels: dict[str, str] = {}
    working_dir: str = "."
    env: dict[str, str] = {}
    ports: dict[str, int] = {}
    replicas: int = 1
    sidecar: bool = True


class SpecShape(Shape, frozen=True):
    """The `spec` of a LocalMesh as written."""

    workloads: list[WorkloadShape]
    resources: list[str] = []


class MetadataShape(Shape, frozen=True):
    """The `metadata` of a LocalMesh as written: it is not a Kubernetes object and needs no more."""

    name: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class MeshShape(Shape, frozen=True):
    """The whole document as written."""

    api_version: str
    kind: str
    metadata: MetadataShape
    spec: SpecShape


def load(path: Path) -> MeshFile:
    """Reads the file and everything it says about this machine (folders, commands' places).

    Raises:
        UsageError: the file cannot be read.
        Refused: it does not hold exactly one correct LocalMesh.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        hint = "give the mesh's file: meshdp up -f mesh.yaml"
        raise UsageError(f"cannot read {path}: {error.strerror}", hint) from error
    documents, findings = parse(text, str(path))
    mesh, wrong = _decoded(_only_mesh(documents, findings, path), path)
    if mesh is None or wrong:
        raise _refused(wrong)
    return mesh


def mistakes(path: Path) -> list[Finding]:
    """What `load` would refuse in the LocalMesh documents of a file; nothing where there is none."""
    text = files.read(path)
    if not isinstance(text, bytes) or KIND.encode() not in text:
        return []
    documents, _ = parse(text, str(path))
    ours = [raw for raw in documents if (raw.api_version, raw.kind) == (API_VERSION, KIND)]
    return [each for raw in ours for each in _decoded(raw, path)[1]]


def _decoded(raw: RawDocument, path: Path) -> tuple[MeshFile | None, list[Finding]]:
    """The mesh of one document, and what is wrong with it."""
    shape, problems = read(raw, (), MeshShape)
    mesh = decode(shape, path.resolve()) if shape is not None else None
    if shape is not None and mesh is not None:
        problems = [*problems, *_problems(shape, mesh)]
    return mesh, [finding(raw, problem, _object(raw)) for problem in problems]


def decode(shape: MeshShape, path: Path) -> MeshFile:
    """Expands replicas and makes paths absolute, relative to the file's folder."""
    base = path.parent
    instances = [instance for workload in shape.spec.workloads for instance in _instances(workload, base)]
    resources = tuple((base / name).resolve() for name in shape.spec.resources)
    return MeshFile(shape.metadata.name, path, resources, tuple(sorted(instances, key=lambda each: each.key)))


def _instances(workload: WorkloadShape, base: Path) -> Iterator[Instance]:
    single = Instance(
        key=InstanceKey(workload.namespace, workload.name),
        workload=workload.name,
        service_account=workload.service_account,
        labels=workload.labels,
        command=tuple(workload.command),
        working_dir=(base / workload.working_dir).resolve(),
        env=workload.env,
        ports=workload.ports,
        sidecar=workload.sidecar,
    )
    if workload.replicas == 1:
        yield single
        return
    for number in range(min(workload.replicas, INSTANCE_LIMIT + 1)):
        yield replace(single, key=InstanceKey(workload.namespace, f"{workload.name}-{number}"))


def _problems(shape: MeshShape, mesh: MeshFile) -> Iterator[Problem]:
    if not MESH_NAME.fullmatch(shape.metadata.name):
        problem = f"{shape.metadata.name[:60]!r}: expected {MESH_NAME_EXPECTED}"
        yield Problem("MDP0205", ("metadata", "name"), problem)
    for index, written in enumerate(shape.spec.resources):
        if not mesh.resources[index].exists():
            yield Problem("MDP0204", ("spec", "resources", index), f"{written!r} does not exist beside this file")
    for index, workload in enumerate(shape.spec.workloads):
        yield from _workload_problems(workload, mesh, ("spec", "workloads", index))
    counts = Counter(instance.key for instance in mesh.instances)
    for key in sorted(key for key, count in counts.items() if count > 1):
        yield Problem("MDP0206", ("spec", "workloads"), f"two instances are named {key}")
    if len(mesh.instances) > INSTANCE_LIMIT:
        yield Problem("MDP0204", ("spec", "workloads"), f"more than {INSTANCE_LIMIT} instances")


def _workload_problems(workload: WorkloadShape, mesh: MeshFile, path: tuple[str | int, ...]) -> Iterator[Problem]:
    for field, value in (("name", workload.name), ("namespace", workload.namespace)):
        if not _LABEL.fullmatch(value):
            yield Problem("MDP0205", (*path, field), f"{value[:60]!r} is not a DNS label")
    if not _SUBDOMAIN.fullmatch(workload.service_account):
        yield Problem("MDP0205", (*path, "serviceAccount"), f"{workload.service_account[:60]!r} is not a DNS name")
    if not workload.command or not workload.command[0]:
        yield Problem("MDP0203", (*path, "command"), "expected a program and its arguments")
    for name, number in workload.ports.items():
        if not 0 < number < 65536:
            yield Problem("MDP0204", (*path, "ports", name), f"expected a port from 1 to 65535, found {number}")
    if workload.replicas < 0:
        yield Problem("MDP0204", (*path, "replicas"), "expected 0 or more")
    folder = (mesh.path.parent / workload.working_dir).resolve()
    if not folder.is_dir():
        yield Problem("MDP0204", (*path, "workingDir"), f"{workload.working_dir!r} is not a folder beside this file")


def _only_mesh(documents: list[RawDocument], findings: list[Finding], path: Path) -> RawDocument:
    for raw in documents:
        if (raw.api_version, raw.kind) != (API_VERSION, KIND):
            message = f"expected {API_VERSION} {KIND}, found {raw.api_version} {raw.kind}"
            findings.append(Finding.of("MDP0207", raw.where, f"{raw.kind}", "", message))
    if len(documents) > 1:
        message = "expected one document: other resources stand in the files that spec.resources names"
        findings.append(Finding.of("MDP0206", documents[1].where, "", "", message))
    if not documents and not findings:
        findings.append(Finding.of("MDP0104", Where(str(path), 1), "", "", "the file holds no document"))
    if findings:
        raise _refused(findings)
    return documents[0]


def _refused(findings: list[Finding]) -> Refused:
    return Refused("\n".join(str(each) for each in findings), findings[0].hint)


def _object(raw: RawDocument) -> str:
    metadata = raw.data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{KIND} {name}" if isinstance(name, str) else KIND


API_VERSION = "meshdp.io/v1alpha1"
KIND = "LocalMesh"

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
