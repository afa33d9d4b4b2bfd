"""gRPC's interop cases that need no credentials: two implementations as clients, the same two as servers, through two sidecars.

In:     Python's grpcio with the cases of `grpc_cases`; grpc-go's own interop client and server (`go/`).
Fails:  a case fails; a status, a trailer, a deadline or a cancellation does not get through.
Source: gRPC's interop test descriptions.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.grpc_rig import CASES, COMPRESSED, SERVERS, go_cases, python_cases, serving
from tests.interop.rig import WAYS, Rig


@pytest.fixture(scope="module")
def served(sidecars: Rig) -> Iterator[Rig]:
    with serving(sidecars):
        yield sidecars


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("way", WAYS)
def test_python_as_client(served: Rig, way: str, server: str) -> None:
    found = python_cases(served, way, SERVERS[server])
    assert set(found) == {*CASES, *COMPRESSED}
    assert {case: why for case, why in found.items() if why and (server == "python" or case in CASES)} == {}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("way", WAYS)
def test_go_as_client(served: Rig, way: str, server: str) -> None:
    assert go_cases(served, way, SERVERS[server]) == {}
