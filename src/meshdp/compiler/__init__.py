"""The compiler: a resource set and a workload in, the workload's snapshot out. Pure and deterministic.

In:     `ResourceSet`, `Workload`.
Out:    `Snapshot`: sections of docs/snapshot.md as canonical bytes.
Fails:  never for a resource set: what cannot be honoured has a finding from `decode` and fails closed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address
from typing import Literal

from meshdp.compiler.authz import authz
from meshdp.compiler.clusters import Upstreams
from meshdp.compiler.listeners import inbound
from meshdp.compiler.routes import services
from meshdp.compiler.select import Directory, Workload, workloads
from meshdp.compiler.snapshot import Mesh, Peer, Peers, Section, Self, Snapshot, Telemetry, encoded
from meshdp.compiler.tokens import authn
from meshdp.resources import ResourceSet
from meshdp.resources.mesh import duration_ms

__all__ = ["Snapshot", "Workload", "compile_all", "compile_inbound", "compile_workload", "workloads"]


def compile_workload(resources: ResourceSet, workload: Workload) -> Snapshot:
    """Compiles what one workload's sidecar needs."""
    directory = Directory(resources)
    upstreams = Upstreams(directory)
    return _compile(directory, workload, _shared(directory, upstreams), upstreams)


def compile_inbound(resources: ResourceSet, workload: Workload) -> Snapshot:
    """Compiles of one workload's snapshot what decides on those who call it; it can call nobody."""
    directory = Directory(resources)
    return Snapshot(
        encoded({"mesh": _mesh(directory), "telemetry": _telemetry(directory), **_inbound(directory, workload)})
    )


def compile_all(resources: ResourceSet) -> dict[tuple[str, str], Snapshot]:
    """Compiles every workload of the set that has a sidecar, by (namespace, name)."""
    directory = Directory(resources)
    upstreams = Upstreams(directory)
    shared = _shared(directory, upstreams)
    chosen = (workload for workload in directory.workloads if workload.in_mesh)
    return {
        (workload.namespace, workload.name): _compile(directory, workload, shared, upstreams) for workload in chosen
    }


def _shared(directory: Directory, upstreams: Upstreams) -> dict[str, bytes]:
    """Sections that are the same for every workload, encoded once."""
    sections: dict[str, Section] = {
        "mesh": _mesh(directory),
        **_peers(directory),
        "telemetry": _telemetry(directory),
        **upstreams.shared(),
    }
    return encoded(sections)


def _compile(directory: Directory, workload: Workload, shared: Mapping[str, bytes], upstreams: Upstreams) -> Snapshot:
    sections: dict[str, Section] = {**_inbound(directory, workload), **services(directory, workload)}
    return Snapshot({**shared, **upstreams.of(workload), **encoded(sections)})


def _inbound(directory: Directory, workload: Workload) -> dict[str, Section]:
    return {
        "workload": _self(directory, workload),
        "authz": authz(directory, workload),
        **authn(directory, workload),
        **inbound(directory, workload),
    }


def _mesh(directory: Directory) -> Mesh:
    mesh = directory.mesh
    config = directory.resources.mesh
    normalization = mesh.path_normalization.normalization
    return Mesh(
        trust_domain=directory.trust_domain,
        trust_domain_aliases=sorted(directory.trust_domains[1:]),
        validate_trust_domain=config is None or config.validate_trust_domain,
        outbound_policy=mesh.outbound_traffic_policy.mode,
        path_normalization="BASE" if normalization == "DEFAULT" else normalization,
        protocol_detection_timeout_ms=duration_ms(mesh.protocol_detection_timeout) or 0,
        min_tls_version="1.3" if mesh.mesh_mtls.min_protocol_version == "TLSV1_3" else "1.2",
    )


def _self(directory: Directory, workload: Workload) -> Self:
    return Self(
        name=workload.name,
        namespace=workload.namespace,
        service_account=workload.service_account,
        identity=workload.identity(directory.trust_domain),
        labels=dict(workload.labels),
        canonical_name=workload.canonical_name,
        canonical_revision=workload.canonical_revision,
        addresses=list(workload.addresses),
        cluster_id=workload.cluster_id,
    )


def _peers(directory: Directory) -> dict[str, Peers]:
    """Callers in blocks of neighbouring addresses: a pod that moves changes two small sections, not one of all pods."""
    blocks: dict[str, list[Peer]] = {}
    for address, workload in directory.by_address.items():
        peer = Peer(
            address=address,
            identity=workload.identity(directory.trust_domain) if workload.in_mesh else "",
            workload=workload.shown_name,
            namespace=workload.namespace,
            canonical_name=workload.canonical_name,
            canonical_revision=workload.canonical_revision,
        )
        blocks.setdefault(f"peers/{_block(address)}", []).append(peer)
    return {name: Peers(sorted(found, key=lambda peer: peer.address)) for name, found in blocks.items()}


def _block(address: str) -> str:
    """The first of the 256 addresses among which this one is."""
    if ":" not in address:
        return f"{address.rpartition('.')[0]}.0"
    first = IPv6Address(int(IPv6Address(address)) & ~0xFF)
    # The engine spells these so; Python does from 3.13 on.
    return f"::ffff:{first.ipv4_mapped}" if first.ipv4_mapped else str(first)


def _telemetry(directory: Directory) -> Telemetry:
    access_log: Mapping[str, Literal["text", "json"]] = {"TEXT": "text", "JSON": "json"}
    mesh = directory.mesh
    return Telemetry(access_log[mesh.access_log_encoding] if mesh.access_log_file else "off")
