"""Turns services and their virtual addresses into the hosts and resolver files that one namespace's workloads see.

In:      names and addresses, from `configuration`. Pure.
Out:     texts that `namespaces` binds over /etc/hosts and /etc/resolv.conf.
Source:  hosts(5), resolv.conf(5); Kubernetes' DNS names for services.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

CLUSTER_DOMAIN = "cluster.local"


class ServiceAddress(NamedTuple):
    """Where a service is reached."""

    namespace: str
    name: str
    address: str


def hosts_file(services: Iterable[ServiceAddress], namespace: str, own: tuple[str, str]) -> str:
    """The hosts file for workloads of `namespace`; `own` is the workload's own name and address."""
    lines = ["# written by meshdp up; service names lead to their virtual addresses", "127.0.0.1 localhost"]
    lines += [f"{service.address} {' '.join(_names(service, namespace))}" for service in sorted(services)]
    # Last, for the first line wins: a workload that is named like its service reaches the service.
    name, address = own
    lines.append(f"{address} {name}")
    return "\n".join(lines) + "\n"


def resolver_file(namespace: str) -> str:
    """No name server is reached from the mesh: what the hosts file lacks fails at once instead of hanging."""
    search = f"{namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}"
    return f"# written by meshdp up\nnameserver 127.0.0.1\nsearch {search}\noptions timeout:1 attempts:1\n"


def _names(service: ServiceAddress, namespace: str) -> list[str]:
    base = f"{service.name}.{service.namespace}"
    short = [service.name] if service.namespace == namespace else []
    return [*short, base, f"{base}.svc", f"{base}.svc.{CLUSTER_DOMAIN}"]
