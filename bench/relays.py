"""The floor as a contender, and the C programs it is made of.

In:     the C sources of `bench/floor`, a lane.
Out:    compiled programs; relays that listen where a sidecar would and dial what it would: `relay` for requests,
        `splice` for bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bench.proxies import Role
from bench.scenarios import Scenario
from bench.stage import ROOT, Lane, await_listening

PROGRAMS = ("relay", "splice", "backend", "load", "bulk")


def compile_programs(folder: Path) -> dict[str, Path]:
    """Compiles the floor's programs into a folder."""
    programs = {name: folder / name for name in PROGRAMS}
    for name, path in programs.items():
        source = ROOT / "bench" / "floor" / f"{name}.c"
        subprocess.run(["cc", "-O2", "-std=gnu17", "-Wall", "-o", str(path), str(source)], check=True)
    return programs | {"tls-load": build_native("tls-load", folder, "--features", "tls")}


def build_native(name: str, folder: Path, *options: str) -> Path:
    """A program of `bench/native`, built by cargo like the sidecar itself and copied to where every user may run it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    profile = "release" if (target / "release").exists() else "fast"
    words = ["cargo", "build", "--quiet", "--locked", "--package", "meshdp-bench", "--bin", name, "--profile", profile]
    subprocess.run([*words, *options], cwd=ROOT, check=True)
    return Path(shutil.copy(target / profile / name, folder / name))


def start_relays(lane: Lane, programs: dict[str, Path], scenario: Scenario) -> dict[str, subprocess.Popen[str]]:
    """Starts the relays of a scenario, and waits until they listen."""
    started = {}
    for end, role in scenario.roles.items():
        started[end] = lane.start(end, command(programs, role))
        await_listening(lane, end, role.port, started[end])
    return started


def command(programs: dict[str, Path], role: Role) -> list[str]:
    """The command line of one relay."""
    program = programs["splice" if role.tcp else "relay"]
    return [str(program), f"0.0.0.0:{role.port}", role.upstreams[0], *([f"{role.source}:0"] if role.source else [])]
