"""The Autobahn cases for WebSocket (PyPI `kosoku`) through the sidecars: after the upgrade not one byte is theirs to change.

In:     a strict echo (PyPI `wsproto`) behind the sidecars.
Fails:  a case is judged otherwise than without sidecars, or is not passed.
Limits: groups 9, 12 and 13 are left out: they measure the application, or its compression.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.interop import tools
from tests.interop.rig import WAYS, WEBSOCKET, Rig, python

CASES = 247
ACCEPTED = ("OK", "NON-STRICT", "INFORMATIONAL")


@pytest.fixture(scope="module")
def served(sidecars: Rig) -> Iterator[Rig]:
    tools.needs_module("kosoku")
    tools.needs_module("wsproto")
    process = sidecars.start(sidecars.pair.server, python("echo", str(WEBSOCKET)), WEBSOCKET)
    yield sidecars
    process.terminate()
    process.wait()


@pytest.mark.parametrize("way", WAYS)
def test_autobahn_cases(served: Rig, way: str) -> None:
    _, address = served.where(way)
    done = served.run(way, python("websocket_cases", f"ws://{address}:{WEBSOCKET}"), timeout_s=300)
    assert done.returncode == 0, done.stderr
    verdicts: dict[str, list[str]] = json.loads(done.stdout)
    failed = {case: found for case, found in verdicts.items() if not set(found[:2]) <= set(ACCEPTED)}
    assert failed == {}, Counter(found[0] for found in verdicts.values())
    assert len(verdicts) == CASES
