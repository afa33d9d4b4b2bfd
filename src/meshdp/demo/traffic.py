"""Traffic that goes on from inside a workload while an act does something else, and what became of it.

In:      a `Stage`, what to ask for. Out: `Outcome`, when it is over.
Fails:   MeshdpError when it cannot be started or does not say how it went.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import msgspec

from meshdp.demo.stage import Stage
from meshdp.errors import MeshdpError

END_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """What goes on: requests at a rate, on connections kept or fresh; a download and a WebSocket where named."""

    url: str
    per_second: int
    keep_alive: bool = True
    download: str = ""
    websocket: str = ""


class Lasting(msgspec.Struct, frozen=True):
    """A download or a WebSocket: what passed, and what went wrong."""

    error: str
    bytes: int = 0
    echoed: int = 0


class Outcome(msgspec.Struct, frozen=True):
    """How the traffic went. answers: seconds since boot and status, where connections were fresh."""

    answered: int
    failed: int
    errors: list[str]
    seconds: float
    p50_ms: float
    p99_ms: float
    answers: list[tuple[float, int]]
    download: Lasting
    websocket: Lasting

    @property
    def per_second(self) -> float:
        """Requests that were sent, in a second."""
        return (self.answered + self.failed) / self.seconds


class Running:
    """Traffic that has begun: each of its parts has been tried once."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def end(self) -> Outcome:
        """Ends it; what became of it."""
        try:
            said, _ = self._process.communicate("end\n", timeout=END_TIMEOUT_S)
            return msgspec.json.decode(said, type=Outcome)
        except (subprocess.TimeoutExpired, msgspec.DecodeError, BrokenPipeError) as error:
            raise MeshdpError(f"the traffic does not say how it went: {error}") from error


@contextlib.contextmanager
def running(stage: Stage, workload: str, load: Load) -> Iterator[Running]:
    """Keeps traffic going from inside a workload while the body runs; it asks for the outcome itself."""
    command = stage.command_in(workload, "load.py", json.dumps(asdict(load)))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise MeshdpError(f"cannot send traffic from {workload}", "see `meshdp ps`")
            yield Running(process)
        finally:
            process.kill()
