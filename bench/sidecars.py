"""meshdp as a contender: fed sidecars at both ends of a lane, from documents compiled once.

In:     a lane, a folder for the feed's sockets.
Out:    `Sidecars`: start one, fed or from a directory, wait until it is ready, end it.
Limits: what is measured is what `meshdp up` starts: a fed sidecar, one worker, metrics on, access log off (Istio's
        default), policies in force on the inbound side.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from bench.documents import Variant, documents
from bench.stage import PROXY_CPU, PROXY_UID, Lane, attempt
from meshdp.compiler import compile_workload, workloads
from meshdp.control.authority import Authority
from meshdp.local.feed import Feed
from meshdp.local.isolation import launch
from meshdp.local.unit import sidecar_command, sidecar_env
from meshdp.sources.files import FileSource

READY_LIMIT_S = 20


class Sidecars:
    """The sidecars of one lane and what feeds them."""

    def __init__(self, lane: Lane, folder: Path, variant: Variant) -> None:
        self.lane = lane
        self.variant = variant
        folder.mkdir(mode=0o755)
        self._folder = folder
        self._feeds: list[Feed] = []
        self._loop = asyncio.new_event_loop()
        self._feeder = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._feeder.start()
        self._documents = documents(variant)
        file = folder / "documents.yaml"
        file.write_text(self._documents)
        loaded = FileSource([file]).load()
        if loaded.findings:
            raise RuntimeError("\n".join(str(finding) for finding in loaded.findings))
        wanted = [each for each in workloads(loaded.resources) if each.name in ("client", "server")]
        snapshots = {each.name: compile_workload(loaded.resources, each) for each in wanted}
        self.authority = authority = Authority.open(folder / "authority", "bench")
        for end in ("client", "server"):
            self._feeds.append(feed := Feed(f"default/{end}", authority, lambda: None))
            asyncio.run_coroutine_threadsafe(feed.open(self._socket(end)), self._loop).result()
            self._loop.call_soon_threadsafe(feed.offer, snapshots[end], self.identity(end))

    @staticmethod
    def identity(end: str) -> str:
        """Who the workload of an end is."""
        return f"spiffe://cluster.local/ns/default/sa/{end}"

    def start(self, end: str, cpu: int = PROXY_CPU) -> subprocess.Popen[bytes]:
        """Starts the sidecar of one end, with the very function that `meshdp up` uses."""
        return self._launch(end, self._command(end), self._socket(end).parent, cpu)

    def start_under(self, end: str, words: list[str]) -> subprocess.Popen[str]:
        """Starts the sidecar of one end below another program, without a view of its own: `words` come first."""
        variables = [f"{name}={value}" for name, value in sidecar_env().items()]
        return self.lane.start(end, ["env", *variables, *words, *self._command(end)])

    def _command(self, end: str) -> list[str]:
        command = sidecar_command(f"default/{end}", self._socket(end))
        return [*command, "--concurrency", str(self.variant.workers), *self.variant.options]

    def start_from_directory(self, end: str, certificates: dict[str, str]) -> subprocess.Popen[bytes]:
        """Starts the sidecar of one end so that it compiles the same documents for itself."""
        own = self._folder / f"directory-{end}"
        for part in ("config", "certs"):
            (own / part).mkdir(parents=True, exist_ok=True)
        (own / "config" / "documents.yaml").write_text(self._documents)
        for name, text in {**certificates, "root-cert.pem": self.authority.bundle}.items():
            (own / "certs" / name).write_text(text)
            shutil.chown(own / "certs" / name, PROXY_UID, PROXY_UID)
        argv = [sys.executable, "-P", "-m", "meshdp", "sidecar", "--workload", f"default/{end}"]
        argv += ["--directory", str(own / "config"), "--credentials", str(own / "certs")]
        return self._launch(end, argv, own, PROXY_CPU)

    def _launch(self, end: str, argv: list[str], readable: Path, cpu: int) -> subprocess.Popen[bytes]:
        program = launch.Program(argv, sidecar_env(), launch.sidecar_user(), log=self.lane.log_file)
        view = launch.View(shown=(*launch.interpreter_folders(), readable), hidden=())
        usual = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {cpu})
        try:
            return self.lane.adopt(launch.start_sidecar(self.lane.holder(end), program, view))
        finally:
            os.sched_setaffinity(0, usual)

    def await_ready(self, end: str, pause_s: float = 0.002, limit_s: float = READY_LIMIT_S) -> None:
        """Waits for 200 on the readiness port."""
        until = time.monotonic() + limit_s
        if not self.lane.inside(end, lambda: _until_ready(until, pause_s)):
            raise RuntimeError(f"no readiness in {limit_s:g} s: {self.lane.log()[-2000:]}")

    def ready(self, end: str) -> subprocess.Popen[bytes]:
        """Starts the sidecar of one end and waits for it."""
        process = self.start(end)
        self.await_ready(end)
        return process

    def close(self) -> None:
        """Stops feeding, once every conversation has ended."""
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._feeder.join()

    async def _hang_up(self) -> None:
        for feed in self._feeds:
            await feed.close()
        conversations = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait_for(asyncio.gather(*conversations, return_exceptions=True), 5)

    def _socket(self, end: str) -> Path:
        return self._folder / f"feed-{end}" / "feed.sock"


def _until_ready(until: float, pause_s: float) -> bool:
    while time.monotonic() < until:
        if attempt(_ask_readiness):
            return True
        time.sleep(pause_s)
    return False


def _ask_readiness() -> None:
    with socket.create_connection(("127.0.0.1", 15021), timeout=1) as connection:
        connection.sendall(b"GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if not connection.recv(64).startswith(b"HTTP/1.1 200"):
            raise ConnectionError("not ready yet")
