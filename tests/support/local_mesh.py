"""Runs the `meshdp` command as a person would, and looks at what a mesh leaves on the machine.

In:      a folder for files and one for state, so that a test run meets no other mesh.
Out:     finished commands, JSON answers, pictures of the machine before and after.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support import ordinary
from tests.support.pair import PATIENCE_S

Done = subprocess.CompletedProcess[str]


class Meshdp:
    """The command line, with its state in a folder of its own, run with these rights (`tests.support.ordinary`)."""

    def __init__(self, folder: Path, mode: str = "root", uid: int = ordinary.NOBODY) -> None:
        self.folder = folder
        self.mode = mode
        self.prefix = ordinary.acting(mode, folder, uid)
        # Short: a socket's path holds 107 bytes.
        self.state = folder / "s"
        self.env = {**os.environ, "MESHDP_STATE_DIR": str(self.state), "NO_COLOR": "1"}

    def __call__(self, *words: str, timeout_s: float = 60) -> Done:
        command = [*self.prefix, sys.executable, "-m", "meshdp", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s, env=self.env)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Starts a command and leaves it running; Ctrl-C means something to it, also when these tests run behind a `&`."""
        # In a program of its own, not in preexec_fn: there are threads here.
        script = (
            "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
        )
        restored = [sys.executable, "-S", "-c", script]
        command = [*restored, *self.prefix, sys.executable, "-m", "meshdp", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.env)

    def rows(self) -> dict[str, dict[str, Any]]:
        """What `ps` says, by workload."""
        done = self("ps", "-o", "json")
        return {row["workload"]: row for row in json.loads(done.stdout)}

    def state_of(self, mesh: str) -> dict[str, Any]:
        """The state file."""
        found: dict[str, Any] = json.loads((self.state / mesh / "state.json").read_text())
        return found

    def talk(self, workload: str, script: str) -> Talk:
        """A script that answers line by line, as long as the block lasts."""
        command = [sys.executable, "-m", "meshdp", "exec", workload, "--", "python3", "-c", script]
        return Talk(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.env))

    def python(self, workload: str, script: str) -> Done:
        """Runs a script of Python inside a workload."""
        return self("exec", workload, "--", "python3", "-c", script)

    def make(self, path: Path, text: str) -> Path:
        """Writes a file that belongs to whoever runs the commands."""
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        for made in (path, path.parent):
            os.chown(made, self.folder.stat().st_uid, self.folder.stat().st_gid)
        return path


class Talk:
    """A running script, spoken to over its standard input and output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def says(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hears(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def picture_of_the_host() -> dict[str, str]:
    """What a mesh must not change. Named namespaces are left out: a mesh has none, others may."""
    commands = {
        "addresses": ["ip", "-o", "address"],
        "routes": ["ip", "route", "show", "table", "all"],
        "rules": ["iptables-save"],
    }
    picture = {
        name: subprocess.run(words, capture_output=True, text=True, check=True).stdout
        for name, words in commands.items()
    }
    picture["addresses"] = "\n".join(line.split(" valid_lft")[0] for line in picture["addresses"].splitlines())
    picture["rules"] = "\n".join(line for line in picture["rules"].splitlines() if not line.startswith(("#", ":")))
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    picture["mounts"] = "\n".join(sorted(line for line in mounts if "/run/netns/" not in line))
    return picture


def alive(pid: int) -> bool:
    """The process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(so: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Waits without a fixed sleep; fails when it does not become so."""
    deadline = time.monotonic() + timeout_s
    while not so():
        assert time.monotonic() < deadline, f"not so after {timeout_s} s"
        time.sleep(0.01)
