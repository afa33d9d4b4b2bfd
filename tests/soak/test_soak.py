"""A round of the soak, over every protocol: 0 lost, 0 mixed up, descriptors and memory back where they were (PR-16, issue 4)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.soak.run import KILLS, ROTATIONS, SHORT_MINUTES, SWAPS, Soak

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces")


def test_pr_16_a_round_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    report = Soak(tmp_path, SHORT_MINUTES, print).go()
    print(json.dumps(report))
    assert (report["lost"], report["broken"], report["mixed"], report["faults"]) == (0, 0, 0, []), report
    assert report["grown"] == [], report
    assert (report["swaps"], report["rotations"], len(report["kills"])) == (SWAPS, ROTATIONS, KILLS)
    assert all(counted["asked"] > 100 for counted in report["kinds"].values()), "every protocol was at work"
    assert set(report["statuses"]) == {"200", "403"}, "the flips were seen, and nothing else"
