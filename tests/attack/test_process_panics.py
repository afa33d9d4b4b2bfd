"""A bug in one place ends that place alone: a connection, a look at the timers, one change of the configuration.

In:     a server's sidecar that panics at one chosen pass of one point (`native/engine/src/fault.rs`, test builds alone).
Source: attack-cases 2.16, PR-08; 2.19 ("panic in a request task").
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_swap import deny
from tests.support import wire
from tests.support.mesh import Mesh, get
from tests.support.pair import PATIENCE_S, TCP_PORT, Side


class Faulty:
    """The pair, whose server's sidecar prints to a file of its own: what it says there is expected."""

    def __init__(self, mesh: Mesh, said: Path) -> None:
        self.mesh = mesh
        self.side: Side = mesh.pair.server
        self._said = said

    def start(self, *faults: str) -> None:
        """Start it with a fault to come: the first of these that does not come while it starts, for a busy machine takes its time."""
        for fault in faults:
            known = len(self.said())
            self.side.environment = {"MESHDP_FAULT": fault}
            self.side.stop()
            self.side.start(self.mesh.pair.configuration)
            if "a fault was asked for" not in self.said()[known:]:
                return
        pytest.fail("the fault came before its time")

    def said(self) -> str:
        return self._said.read_text()

    def panicked(self) -> bool:
        """The one fault has come, and was counted."""
        return self.mesh.origin.wait(lambda: '"panics":1' in self.side.admin("/stats").replace(" ", ""))


@pytest.fixture
def faulty(mesh: Mesh, tmp_path: Path) -> Iterator[Faulty]:
    said = tmp_path / "said.log"
    with said.open("wb") as output:
        mesh.pair.server.output = output.fileno()
        yield Faulty(mesh, said)
    server = mesh.pair.server
    server.output, server.environment = None, {}
    server.stop()
    server.start(mesh.pair.configuration)
    mesh.pair.configure("# none\n", wait=False)
    assert mesh.status() == 200


def test_pr_08_a_panic_in_one_connection(faulty: Faulty) -> None:
    """That connection ends without a byte past the point; the others never notice."""
    faulty.start("connection@3")
    mesh = faulty.mesh
    with wire.connect(mesh.pair, "inbound", TCP_PORT) as stream, wire.connect(mesh.pair, "inbound") as kept:
        stream.sendall(b"Ehello")
        assert stream.recv(5, socket.MSG_WAITALL) == b"hello"
        kept.sendall(get())
        assert wire.listen(kept, 1).statuses == [200]
        before = mesh.origin.received()
        with wire.connect(mesh.pair, "inbound") as unlucky:
            unlucky.sendall(get("/unlucky"))
            heard = wire.listen(unlucky)
            assert (heard.raw, heard.ended in ("fin", "reset")) == (b"", True)
        assert mesh.origin.received() == before, "never forwarded unchecked"
        assert faulty.panicked()
        stream.sendall(b"again")
        assert stream.recv(5, socket.MSG_WAITALL) == b"again"
        kept.sendall(get())
        assert wire.listen(kept, 1).statuses == [200]
    assert mesh.status("/", "inbound") == 200
    assert "a fault was asked for at connection" in faulty.said()
    assert faulty.side.process is not None and faulty.side.process.poll() is None


def test_pr_08_a_panic_in_an_accept_loop(faulty: Faulty) -> None:
    """It costs the connection that it met; the port takes the next one."""
    faulty.start("accept@2")
    mesh = faulty.mesh
    assert mesh.status("/", "inbound") == 200
    before = mesh.origin.received()
    with wire.connect(mesh.pair, "inbound") as unlucky:
        assert wire.listen(unlucky).ended in ("fin", "reset")
    assert mesh.origin.received() == before
    assert faulty.panicked()
    assert mesh.status("/", "inbound") == 200
    assert "a fault was asked for at accept" in faulty.said()


def test_pr_08_a_panic_in_a_timer(faulty: Faulty) -> None:
    """The next look at the deadlines comes all the same: what they keep moving (here: the log's lines) moves on."""
    faulty.start("timer@12", "timer@60", "timer@300")
    assert faulty.panicked()
    assert faulty.mesh.status("/after-the-timer", "inbound") == 200
    assert faulty.mesh.origin.wait(lambda: "/after-the-timer" in faulty.said())
    assert "a fault was asked for at timer" in faulty.said()


def test_pr_08_a_panic_while_a_configuration_is_taken(faulty: Faulty) -> None:
    """It is refused like any other that cannot be taken; the one before stays in force, the one after is taken."""
    faulty.start("apply@2")
    mesh = faulty.mesh
    before = faulty.side.digest()
    mesh.pair.configure(deny("/first"), wait=False)
    assert faulty.panicked()
    assert mesh.origin.wait(lambda: "was refused, the one before stays in force" in faulty.said())
    assert faulty.side.digest() == before
    assert mesh.status("/first", "inbound") == 200
    mesh.pair.configure(deny("/second"), wait=False)
    assert mesh.origin.wait(lambda: mesh.status("/second", "inbound") == 403)
    assert mesh.status("/first", "inbound") == 200


def test_pr_08_the_process_still_ends_in_order(faulty: Faulty) -> None:
    faulty.start("timer@12", "timer@60", "timer@300")
    assert faulty.panicked()
    assert faulty.side.process is not None
    os.kill(faulty.side.process.pid, signal.SIGTERM)
    assert faulty.side.process.wait(PATIENCE_S) == 0
