"""Which Python `.venv` is made from: one that every user may run, unless somebody names another."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def choose(*named: str, **env: str) -> subprocess.CompletedProcess[str]:
    words = [str(ROOT / "scripts" / "choose-python"), *named]
    return subprocess.run(words, env=os.environ | env, capture_output=True, text=True, check=False)


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder of programs with a Python whose home lies behind a folder that only its owner may enter."""
    with tempfile.TemporaryDirectory() as folder:  # mode 0700
        home = Path(folder) / "home"
        (home / "bin").mkdir(parents=True)
        (home / "lib").symlink_to(Path(sys.base_prefix) / "lib")
        shim = home / "bin" / "python3"
        shim.write_text(f'#!/bin/sh\nPYTHONHOME={home} exec {Path(sys.executable).resolve()} "$@"\n')
        shim.chmod(0o755)
        yield shim.parent


def test_a_named_python_is_kept() -> None:
    done = choose(sys.executable)
    assert (done.returncode, done.stdout.strip()) == (0, sys.executable)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root builds for other users")
def test_roots_own_python_gives_way_unless_it_is_named(closed: Path) -> None:
    instead = choose(PATH=f"{closed}:{os.environ['PATH']}", MESHDP_DISTRIBUTION_PYTHON=sys.executable)
    assert (instead.returncode, instead.stdout.strip()) == (0, sys.executable)
    assert (
        f"python3 lies behind {closed.parents[1]}, which only root may enter; using {sys.executable}" in instead.stderr
    )
    kept = choose(str(closed / "python3"))
    assert (kept.returncode, kept.stdout.strip()) == (0, str(closed / "python3"))
    assert "only root will be able to run meshdp" in kept.stderr
    alone = choose(PATH=f"{closed}:{os.environ['PATH']}", MESHDP_DISTRIBUTION_PYTHON="/nowhere/python3")
    assert (alone.returncode, alone.stdout.strip()) == (0, str(closed / "python3"))
    assert "name another Python with PYTHON=" in alone.stderr


def test_what_is_no_recent_python_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = choose(str(old))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"needs Python 3.11 or newer, and {old} is not" in done.stderr
