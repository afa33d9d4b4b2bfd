"""Who judges: the engine's own matcher when it is built, else the reference evaluator.

In:     transaction bytes and a request.  Out: the verdict; MESHDP_JUDGE=reference forces the reference.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from typing import Any

from tests.support import reference_authz

Json = dict[str, Any]
Judge = Callable[[bytes, Json], Json]


def judge() -> tuple[str, Judge]:
    """The name of the judge ("native" or "reference") and the judge."""
    if os.environ.get("MESHDP_JUDGE") != "reference":
        try:
            engine = importlib.import_module("meshdp.supervise.engine")
            native = engine.authorize
        except (ImportError, AttributeError):
            pass
        else:
            return "native", lambda transaction, request: json.loads(native(transaction, json.dumps(request).encode()))
    return "reference", reference_authz.authorize
