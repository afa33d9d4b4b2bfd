"""The rigs of this folder, made once for the session: two sidecars, and Envoy in the place of either."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop import tools
from tests.interop.envoy import Beside
from tests.interop.rig import Rig, opened_rig


@pytest.fixture(scope="session")
def sidecars() -> Iterator[Rig]:
    """Both sides are ours."""
    with opened_rig() as rig:
        yield rig


@pytest.fixture(scope="session", params=["client", "server"])
def beside_envoy(request: pytest.FixtureRequest) -> Iterator[Beside]:
    """Envoy as an Istio sidecar on the side that the parameter names, ours on the other."""
    tools.envoy()
    with opened_rig(meshdp=False) as rig:
        made = Beside(rig, request.param)
        yield made
        made.stop()
