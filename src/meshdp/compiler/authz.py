"""Compiles the policies that select a workload into predicates."""

from __future__ import annotations

from meshdp.compiler.select import Workload
from meshdp.compiler.snapshot import Authz
from meshdp.resources import ResourceSet


def authz(resources: ResourceSet, workload: Workload) -> Authz:
    """Section `authz`."""
    return Authz([])
