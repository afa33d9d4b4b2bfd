"""How long it takes from text to resources, and from resources to one workload's snapshot."""

from __future__ import annotations

from typing import Any

import pytest

from bench.micro import mesh
from meshdp.compiler import compile_workload, workloads
from meshdp.resources import load


@pytest.mark.parametrize("services", [10, 100])
def test_load(benchmark: Any, services: int) -> None:
    text = mesh.documents(services, 10)
    found = benchmark(lambda: load([("mesh.yaml", text)]))
    assert not found.findings


@pytest.mark.parametrize("services", [10, 100])
def test_compile_one_workload(benchmark: Any, services: int) -> None:
    resources = mesh.loaded(services, 10).resources
    web = next(each for each in workloads(resources) if each.name == "web")
    assert benchmark(compile_workload, resources, web).digest == mesh.snapshot(services, 10).digest
