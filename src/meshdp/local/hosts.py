"""Turns services and their virtual addresses into the hosts and resolver files that one namespace's workloads see.

In:      names and addresses, from `configuration`.
Out:     texts that `namespaces` binds over /etc/hosts and /etc/resolv.conf, and the file that holds one.
Limits:  a file that applications own is written only, never read back, and held open: so none takes a lease on it.
Source:  hosts(5), resolv.conf(5); Kubernetes' DNS names for services.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
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


class SharedFile:
    """A file that is bound into namespaces, where a renamed one would not appear: it is written in place."""

    def __init__(self, path: Path, text: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        os.fchmod(self._descriptor, 0o644)
        self._text = ""
        self.replace(text)

    def replace(self, text: str) -> None:
        """Makes it hold another text."""
        if text != self._text:
            os.pwrite(self._descriptor, text.encode(), 0)
            os.ftruncate(self._descriptor, len(text.encode()))
            self._text = text

    def close(self) -> None:
        """Lets go of it."""
        os.close(self._descriptor)


def _names(service: ServiceAddress, namespace: str) -> list[str]:
    base = f"{service.name}.{service.namespace}"
    short = [service.name] if service.namespace == namespace else []
    return [*short, base, f"{base}.svc", f"{base}.svc.{CLUSTER_DOMAIN}"]
