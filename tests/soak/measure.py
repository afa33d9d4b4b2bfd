"""What the processes of a mesh hold: descriptors and memory.

In:     process numbers by name.  Out: `Held` for each, and what is more than it was, in words.
Limits: memory is the proportional set size: pages that processes share are divided among them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# A pool keeps as many connections as were in use at once, and that differs between two runs of the same load: one more
# on either side of each of a sidecar's four kinds of peers.
DESCRIPTORS_TOLERATED = 8
# The allocator keeps what it was lent; how full its pages are differs by a few dozen buffers of 16 KiB and by one arena.
MEMORY_TOLERATED_KB = 2_048
# `up` keeps the last eight snapshots for each sidecar as bases, which fill during the swaps, and what Python's allocator
# holds of the documents that it parsed.
SUPERVISOR_TOLERATED_KB = 8_192


@dataclass(frozen=True)
class Held:
    """One process: open descriptors, memory."""

    descriptors: int
    memory_kb: int


def held(pids: Mapping[str, int]) -> dict[str, Held]:
    """What each holds now."""
    return {name: Held(len(os.listdir(f"/proc/{pid}/fd")), memory_kb(pid)) for name, pid in pids.items()}


def memory_kb(pid: int) -> int:
    """Proportional set size."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pss:")))


def grown(before: Mapping[str, Held], after: Mapping[str, Held]) -> list[str]:
    """What is above the baseline by more than is tolerated."""
    found = []
    for name, now in after.items():
        base = before[name]
        memory = SUPERVISOR_TOLERATED_KB if name == "up" else MEMORY_TOLERATED_KB
        if now.descriptors > base.descriptors + DESCRIPTORS_TOLERATED:
            found.append(f"{name}: {now.descriptors} descriptors, {base.descriptors} before")
        if now.memory_kb > base.memory_kb + memory:
            found.append(f"{name}: {now.memory_kb} KiB, {base.memory_kb} before")
    return found
