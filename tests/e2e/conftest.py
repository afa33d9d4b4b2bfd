"""A pair of real sidecars and a strict application, one for each test module."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mesh import Mesh
from tests.support.origin import Origin
from tests.support.pair import AUTO_PORT, HTTP_PORT, TCP_PORT, pair


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """The pair with its application on the HTTP port and an opaque one on the other two."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make network namespaces")
    # Not pytest's folder: nobody but root may enter that, and a sidecar is not root.
    with tempfile.TemporaryDirectory(prefix="mdpt-") as folder, pair(Path(folder)) as made:
        origin = Origin(made.server, [HTTP_PORT, AUTO_PORT])
        opened = Mesh(made, origin, TCP_PORT)
        yield opened
        opened.stop()
        assert "panicked" not in made.client.log.read_text() + made.server.log.read_text()
