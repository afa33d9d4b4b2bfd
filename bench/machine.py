"""What the figures were taken on.

Out:    processor, kernel, versions, load, as text by name.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import meshdp
from bench.stage import ROOT

GIT = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]


def describe() -> dict[str, str]:
    """The machine and the versions, so that a figure can be repeated."""
    return {
        "processor": f"{os.cpu_count()} × {_processor()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "meshdp": f"{meshdp.__version__}, commit {_first_line(GIT)}",
        "compiler": _first_line(["rustc", "--version"]),
        "load_average": " ".join(f"{each:.2f}" for each in os.getloadavg()),
    }


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _first_line(words: list[str]) -> str:
    try:
        said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return "unknown"
    return said.splitlines()[0] if said else "unknown"
