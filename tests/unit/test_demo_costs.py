"""What the demo reads of processes grows with what they do, and is nothing for one that is gone."""

import mmap
import os
import subprocess
import time

from meshdp.demo import costs


def test_cpu_grows_with_work() -> None:
    before, whole_before = costs.cpu_ns(os.getpid()), costs.whole_cpu_ns(os.getpid())
    deadline = time.process_time() + 0.1
    while time.process_time() < deadline:
        pass
    assert costs.cpu_ns(os.getpid()) - before >= 50_000_000
    assert costs.whole_cpu_ns(os.getpid()) - whole_before >= 50_000_000


def test_memory_grows_with_what_is_held() -> None:
    before = costs.memory(os.getpid())
    # Mapped, for the heap of a long test run may have as much to spare.
    held = mmap.mmap(-1, 32_000_000)
    held.write(bytes(len(held)))
    assert 20 < costs.memory(os.getpid()).size_mb - before.size_mb < 60
    assert "set size" in str(before) and len(held) == 32_000_000


def test_a_process_that_is_gone_costs_nothing_and_says_so() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert (costs.cpu_ns(process.pid), costs.whole_cpu_ns(process.pid)) == (0, 0)
    assert str(costs.memory(process.pid)) == "0.0 MB, the process is gone"
