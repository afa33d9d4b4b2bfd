"""How long a transaction takes from bytes to in force on the worker: everything, or one endpoint that moved."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest

from bench.micro import mesh
from meshdp.settings import ADDRESSES, Settings
from meshdp.supervise.engine import Engine

SERVICES = [10, 100, 1000]
ANY_PORT = dict.fromkeys(ADDRESSES, "127.0.0.1:0")


@pytest.fixture
def engine() -> Iterator[Engine]:
    """One data plane on ports that nobody asked for."""
    settings = Settings({"workload": "default/web", "single_instance": False, "access_log": "off", **ANY_PORT})
    made = Engine(settings.for_engine())
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize("services", SERVICES)
def test_swap_whole(benchmark: Any, engine: Engine, services: int) -> None:
    both = [mesh.snapshot(services, 10, moved=moved) for moved in (False, True)]
    turns = cycle([(each.transaction(None), each.digest) for each in both])

    def swap() -> bool:
        transaction, digest = next(turns)
        return engine.swap(transaction) == digest

    assert benchmark(swap)


@pytest.mark.parametrize("services", SERVICES)
def test_swap_one_endpoint(benchmark: Any, engine: Engine, services: int) -> None:
    before, after = (mesh.snapshot(services, 10, moved=moved) for moved in (False, True))
    engine.swap(before.transaction(None))
    turns = cycle([(after.transaction(before), after.digest), (before.transaction(after), before.digest)])

    def swap() -> bool:
        transaction, digest = next(turns)
        return engine.swap(transaction) == digest

    assert benchmark(swap)
