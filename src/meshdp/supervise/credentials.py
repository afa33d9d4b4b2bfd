"""Turns a directory of PEM files into the engine's credentials, again whenever they are replaced.

In:     a directory with cert-chain.pem, key.pem and root-cert.pem (Istio's names for mounted certificates).
Out:    `Engine.install` calls.
Limits: 1 MiB a file. A key that everybody may read is used, for mounted secrets often are like that, and reported.
Fails:  never ends the process: what cannot be read or is refused is reported, and the old credentials stay in use.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from meshdp.sources.inotify import Watch, points
from meshdp.supervise.engine import Engine, NativeError

CHAIN, KEY, BUNDLE = "cert-chain.pem", "key.pem", "root-cert.pem"
SIZE_LIMIT_BYTES = 1024 * 1024


class Reporter(Protocol):
    """Where problems go."""

    def replace(self, topic: str, lines: list[str]) -> None:
        """Say what is true of a topic now."""


class CredentialDirectory:
    """The three files, watched. Replaced one by one, they are tried together until they fit."""

    def __init__(self, engine: Engine, directory: Path, reports: Reporter) -> None:
        self._engine = engine
        self._directory = directory
        self._reports = reports
        self._installed: tuple[bytes, ...] = ()
        self._watch = Watch()

    def fileno(self) -> int:
        """Readable when one of the files may have changed."""
        return self._watch.fileno()

    def changed(self) -> bool:
        """Take in what happened; files that are being written are waited for."""
        touched = self._watch.drain()
        touched.gone.clear()
        return touched.any and not touched.writing

    def refresh(self) -> None:
        """Install what the files hold, if it is new."""
        problems: list[str] = []
        try:
            self._follow()
            chain, bundle, key = (self._read(name) for name in (CHAIN, BUNDLE, KEY))
            if (chain, bundle, key) != self._installed:
                self._engine.install(chain, bundle, key)
                self._installed = (chain, bundle, key)
            problems += self._exposed()
        except OSError as refused:
            problems.append(f"credentials: {refused.filename}: {refused.strerror}; the old ones stay in use")
        except (NativeError, ValueError) as refused:
            problems.append(f"credentials in {self._directory} were refused, the old ones stay in use: {refused}")
        self._reports.replace("credentials", problems)

    def _exposed(self) -> list[str]:
        """Says so when others than the owner and the group may read the key."""
        path = self._directory / KEY
        if path.stat().st_mode & 0o007 == 0:
            return []
        return [f"credentials: {path} may be read by everybody on this machine: chmod o= {path}"]

    def _follow(self) -> None:
        """Watch the files and every link on the way to them."""
        wanted: dict[Path, frozenset[str]] = {}
        for name in (CHAIN, KEY, BUNDLE):
            for directory, names in points(self._directory / name).items():
                wanted[directory] = wanted.get(directory, frozenset()) | names
        self._watch.set(wanted)

    def _read(self, name: str) -> bytes:
        with open(self._directory / name, "rb", opener=_open_without_waiting) as file:
            text = file.read(SIZE_LIMIT_BYTES + 1)
        if len(text) > SIZE_LIMIT_BYTES:
            raise ValueError(f"{name} is larger than {SIZE_LIMIT_BYTES} bytes")
        return text


def _open_without_waiting(path: str, flags: int) -> int:
    """A pipe has no writer for ever; such a file is read as what it holds, which is nothing."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
