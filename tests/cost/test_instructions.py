"""No operation of the cores costs more instructions than at the merge base, unless a commit between says so.

In:     this checkout and the commit it began from: the merge base with `origin/HEAD`, or the parent where they are the same;
        MESHDP_BASE names another one.
Out:    a table: operation, instructions there and here.
Limits: user-space instructions under callgrind, as the difference between 3N and N turns: start-up and preparation fall out. N is
        chosen for each operation, so that what differs between two starts is little beside it.
        A line `Costs-more: OPERATION reason` in a commit message allows an operation to cost more.
Source: spec/performance.md 4.2 ("user instructions per request: exact; a regression gate for own code only").
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
PROFILE = "fast"
# What an operation costs is told from this many instructions of it: loading the snapshot costs a million more or less each time,
# because hash tables are seeded anew.
COUNTED = 100_000_000
PILOT_TURNS, MOST_TURNS = 200, 40_000
ALLOWED = 1.05
SECOND_LOOKS = 4
# Differences of so few instructions are the layout of a branch, not a cost.
NEGLIGIBLE = 60
SNAPSHOT = (
    "import sys; from bench.micro import mesh; sys.stdout.buffer.write(mesh.snapshot(100, 100).transaction(None))"
)

pytestmark = [
    pytest.mark.skipif(shutil.which("cargo") is None, reason="needs cargo to build the cores"),
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind: scripts/debian-packages installs it"),
]


def git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def base_commit() -> str:
    head = git("rev-parse", "HEAD")
    named = os.environ.get("MESHDP_BASE") or git("merge-base", "HEAD", "origin/HEAD")
    found = git("rev-parse", "--verify", f"{named}^{{commit}}") if named else ""
    # Local changes are compared with the last commit, a commit that is the merge base itself with its parent.
    if found == head or not found:
        return (
            head if git("status", "--porcelain", "native", "bench/native") else git("rev-parse", "--verify", "HEAD~1")
        )
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the base commit, with what it has of the cores."""
    commit = base_commit()
    if not commit:
        pytest.skip("no commit to compare with: this checkout has no history")
    tree = tmp_path_factory.mktemp("base")
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
    if not (tree / "bench/native/Cargo.toml").exists():
        pytest.skip(f"{commit[:7]} has no bench/native yet")
    return tree


class Cores:
    """The program of one tree."""

    def __init__(self, tree: Path, target: Path, snapshot: Path) -> None:
        words = ["cargo", "build", "--quiet", "--locked", "--package", "meshdp-bench", "--bin", "cores"]
        environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
        subprocess.run([*words, "--profile", PROFILE], cwd=tree, env=environment, check=True)
        # Both are called the same, and the one is built over the other when they share a folder.
        self.program = snapshot.with_suffix(".cores")
        shutil.copy(target / PROFILE / "cores", self.program)
        found = {**os.environ, "PYTHONPATH": f"{tree / 'src'}{os.pathsep}{tree}"}
        made = subprocess.run(
            [sys.executable, "-P", "-c", SNAPSHOT], cwd=tree, env=found, capture_output=True, check=True
        )
        snapshot.write_bytes(made.stdout)
        self.snapshot = snapshot

    def operations(self) -> list[str]:
        return subprocess.run([self.program, "list"], capture_output=True, text=True, check=True).stdout.split()

    def turns(self, operation: str) -> int:
        """How many turns make up COUNTED instructions, roughly."""
        each = self.instructions(operation, PILOT_TURNS)
        return MOST_TURNS if each <= 0 else max(10, min(MOST_TURNS, int(COUNTED / each / 2)))

    def instructions(self, operation: str, turns: int) -> float:
        """Of one turn."""
        return (self._counted(operation, 3 * turns) - self._counted(operation, turns)) / (2 * turns)

    def _counted(self, operation: str, turns: int) -> int:
        words = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(self.program)]
        done = subprocess.run(
            [*words, operation, str(turns), str(self.snapshot)], capture_output=True, text=True, check=True
        )
        found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
        assert found, done.stderr
        return int(found.group(1))


def allowed(commit: str) -> set[str]:
    """Operations that a commit since then says cost more, with a reason."""
    return set(re.findall(r"^Costs-more: (\w+) \S", git("log", "--format=%B", f"{commit}..HEAD"), re.MULTILINE))


def costlier(before: float, now: float) -> bool:
    return now > before * ALLOWED and now - before > NEGLIGIBLE


def test_no_operation_costs_more_instructions_than_at_the_merge_base(base: Path, tmp_path: Path) -> None:
    old = Cores(base, TARGET / "base", tmp_path / "old")
    new = Cores(ROOT, TARGET, tmp_path / "new")
    both = [each for each in new.operations() if each in old.operations()]
    assert both, "nothing to compare"
    turns = {each: new.turns(each) for each in both}
    found = {each: (old.instructions(each, turns[each]), new.instructions(each, turns[each])) for each in both}
    # Hash tables are seeded anew in each process: what seems worse is asked again, and the best of both counts.
    for _ in range(SECOND_LOOKS):
        for each in (each for each, (before, now) in found.items() if costlier(before, now)):
            before, now = found[each]
            found[each] = (
                min(before, old.instructions(each, turns[each])),
                min(now, new.instructions(each, turns[each])),
            )
    for each, (before, now) in found.items():
        print(f"{each:24} {before:10.0f} {now:10.0f} {now / before:6.3f}")
    worse = {each for each, (before, now) in found.items() if costlier(before, now)}
    excused = allowed(base_commit())
    assert worse - excused == set(), "write `Costs-more: OPERATION reason` into the commit message if it is worth it"


def test_the_judgement_finds_what_costs_more() -> None:
    assert costlier(2000, 2101)
    assert not costlier(2000, 2099)
    assert not costlier(100, 150)
