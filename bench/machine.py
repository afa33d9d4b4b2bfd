"""What the figures were taken on.

Out:    processor, kernel, versions, load, as text by name.
"""

from __future__ import annotations

import datetime
import filecmp
import os
import platform
import re
import subprocess
from pathlib import Path

import meshdp
from bench import peers
from bench.proxies import drivers
from bench.stage import ROOT

EXTENSION = ROOT / "src/meshdp/_native.abi3.so"
SHORT = ("nginx", "haproxy")  # they know no long option
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/lib_native.so"


def describe() -> dict[str, str]:
    """The machine and the versions, so that a figure can be repeated."""
    return {
        "processor": f"{os.cpu_count()} × {_processor()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "meshdp": f"{meshdp.__version__}, {_build()}",
        "compiler": _first_line(["rustc", "--version"]),
        **{name: _version(name) for name in peers.installed()},
        "taken": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_average_before": " ".join(f"{each:.2f}" for each in os.getloadavg()),
    }


def commit() -> str:
    """What was measured; `-dirty` when files differed from it."""
    return _first_line(["git", "-C", str(ROOT), "describe", "--always", "--dirty"])


def _build() -> str:
    """Whether the extension in use is the release build: the fast one has assertions and no link-time pass."""
    same = RELEASE.exists() and filecmp.cmp(RELEASE, EXTENSION, shallow=False)
    return "release build" if same else "NOT the release build"


def _version(name: str) -> str:
    driven = drivers.named(os.environ)[0].get(name)
    program, flag = str(driven.binary) if driven else peers.program(name), "-v" if name in SHORT else "--version"
    said = _first_line([program, flag])
    found = re.search(r"\d+\.\d+\.\d+[\w.+-]*", said)
    return found.group() if found else "unknown"


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _first_line(words: list[str]) -> str:
    """What a program says first, on either stream."""
    try:
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return lines[0] if lines else "unknown"
