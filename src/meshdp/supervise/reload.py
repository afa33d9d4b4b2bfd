"""Turns a watched directory into transactions: one for each change, each from the version in force to the next.

In:     a `FileSource`, the name of the workload, the engine.
Out:    `Engine.swap` and `Engine.install` calls; findings on stderr, each once while it lasts, cut at `LINE_LIMIT`.
Fails:  never ends the process: what is refused is reported, what is in force stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from meshdp.compiler import Snapshot, compile_workload, workloads
from meshdp.settings import Settings
from meshdp.sources.files import FileSource
from meshdp.supervise.credentials import CredentialDirectory
from meshdp.supervise.engine import Engine, NativeError

LINE_LIMIT = 4000  # a pipe that takes anything takes this whole (pipe(7), PIPE_BUF)


def compile_until(signals: Iterable[signal.Signals], engine: Engine, settings: Settings) -> None:
    """Keep the engine supplied from the directory until one of the signals comes."""
    assert settings.config is not None  # the supervisor asks only then
    reports = Reports()
    configuration = Configuration(engine, FileSource([Path(settings.config)]), settings.workload, reports)
    credentials = None  # with a CSR socket the engine fetches its own
    if settings.credentials is not None:
        credentials = CredentialDirectory(engine, Path(settings.credentials), reports)
        credentials.refresh()
    configuration.refresh()
    _give_memory_back()
    stopped = _wake_on(signals)
    poller = select.poll()
    for watched in (stopped, configuration.source, credentials):
        if watched is not None:
            poller.register(watched, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll(configuration.source.wait_s() * 1000)}
        if stopped in ready:
            return
        if credentials is not None and credentials.changed():
            credentials.refresh()
        if configuration.source.changed():
            configuration.refresh()


class Configuration:
    """What is in force in the engine, and the way to the next version."""

    def __init__(self, engine: Engine, source: FileSource, workload: str, reports: Reports) -> None:
        self.source = source
        self._engine = engine
        self._workload = workload
        self._reports = reports
        self._in_force: Snapshot | None = None

    def refresh(self) -> None:
        """Load, compile and swap; a directory that says the same as before swaps nothing."""
        loaded = self.source.load()
        problems = [f"{finding}\n  {finding.hint}" for finding in loaded.findings]
        found = [item for item in workloads(loaded.resources) if f"{item.namespace}/{item.name}" == self._workload]
        if found:
            problems += self._swap(compile_workload(loaded.resources, found[0]))
        else:
            problems.append(
                f"no Pod or WorkloadEntry describes {self._workload}: add one; until then nothing is carried"
            )
        self._reports.replace("configuration", problems)

    def _swap(self, snapshot: Snapshot) -> list[str]:
        if snapshot == self._in_force:
            return []
        try:
            self._engine.swap(snapshot.transaction(self._in_force))
        except NativeError as refused:
            return [f"version {snapshot.digest[:12]} was refused, the one before stays in force: {refused}"]
        self._in_force = snapshot
        return []


class Reports:
    """Lines on stderr, each printed when it begins to be true and again only after it was not."""

    def __init__(self) -> None:
        self._lasting: dict[str, frozenset[str]] = {}

    def replace(self, topic: str, lines: list[str]) -> None:
        """Say what is true of a topic now."""
        known = self._lasting.get(topic, frozenset())
        for line in lines:
            if line not in known:
                _say(line)
        self._lasting[topic] = frozenset(lines)


def _say(line: str) -> None:
    """One line on standard error, which may be a full disk or a pipe that nobody reads: neither holds a sidecar up."""
    ready = select.poll()
    ready.register(sys.stderr, select.POLLOUT)
    if any(event & select.POLLOUT for _, event in ready.poll(0)):
        with contextlib.suppress(OSError):
            print(line[:LINE_LIMIT], file=sys.stderr, flush=True)


def _give_memory_back() -> None:
    """What reading all modules and the first compilation leave behind: 0.5 MB, which nothing afterwards would use."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)


def _wake_on(signals: Iterable[signal.Signals]) -> int:
    """A descriptor that becomes readable with the first of the signals, which the caller had blocked."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in signals:
        signal.signal(number, lambda *_: None)  # the wake-up byte says it all
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    return reading
