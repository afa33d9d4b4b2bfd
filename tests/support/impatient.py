"""The sidecar program with other bounds of waiting, so that a test of a time-out need not wait for minutes.

In:     the bounds as JSON (`settings::Limits` of the engine), then the arguments of `meshdp`.
"""

from __future__ import annotations

import json
import sys

from meshdp import settings
from meshdp.cli import main

_for_engine = settings.Settings.for_engine


def _with_limits(self: settings.Settings) -> bytes:
    return json.dumps(json.loads(_for_engine(self)) | {"limits": LIMITS}).encode()


if __name__ == "__main__":
    LIMITS = json.loads(sys.argv[1])
    settings.Settings.for_engine = _with_limits  # type: ignore[method-assign]
    sys.exit(main(sys.argv[2:]))
