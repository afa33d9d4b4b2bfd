"""The floor as a contender, and the three programs it is made of.

In:     the C sources of `bench/floor`, a lane.
Out:    compiled programs; relays that listen where a sidecar would and dial what it would.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.stage import INBOUND, OUTBOUND, PLAIN_IP, PLAIN_PORT, PORT, ROOT, SERVER_IP, Lane

PROGRAMS = ("relay", "backend", "load")


def compile_programs(folder: Path) -> dict[str, Path]:
    """Compiles the floor's programs into a folder."""
    programs = {name: folder / name for name in PROGRAMS}
    for name, path in programs.items():
        source = ROOT / "bench" / "floor" / f"{name}.c"
        subprocess.run(["cc", "-O2", "-std=gnu17", "-Wall", "-o", str(path), str(source)], check=True)
    return programs


def start_relays(lane: Lane, program: Path, scenario: str) -> list[subprocess.Popen[str]]:
    """Starts the relays of a scenario: in place of the outbound sidecar, of the inbound one, or of both."""
    inbound = ("server", f"0.0.0.0:{INBOUND}", f"{SERVER_IP}:{PORT}", "127.0.0.6:0")
    relays: dict[str, list[tuple[str, ...]]] = {
        "inbound": [inbound],
        "outbound": [("client", f"0.0.0.0:{OUTBOUND}", f"{PLAIN_IP}:{PLAIN_PORT}")],
        "pair": [("client", f"0.0.0.0:{OUTBOUND}", f"{SERVER_IP}:{PORT}"), inbound],
    }
    return [lane.start(end, [str(program), *addresses]) for end, *addresses in relays[scenario]]
