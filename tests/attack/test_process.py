"""Table 2.16 in whole: every id has a test that carries its name, or waits for a milestone that is named here.

In:     the modules of this folder, the Rust sources, `tests/soak`.
Source: attack-cases 2.16. What a short form leaves out is said in `LONG_FORMS`.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IDS = [f"PR-{number:02}" for number in range(1, 18)]

WAITING = {
    "PR-13": "M5: the data plane resolves no names before the DNS listener and DNS service entries exist",
    "PR-15": "M5: hand-over between two versions comes with the packages that are upgraded",
}

# What a test of this table does in a short form, and where the rest is or when it comes.
LONG_FORMS = {
    "PR-02": "SIGSTOP for 3 s instead of 30 s",
    "PR-03": "50 kills under traffic (tests/e2e/test_kills.py) instead of 1,000",
    "PR-05": "at 85 % nothing is kept for later, at 95 % new connections are refused; no smaller buffers and no cut streams beyond that",
    "PR-06": "thirty requests under a quota of 5 %, and beside sixteen neighbours on one processor",
    "PR-09": "the lock held for 4 s instead of 30 s",
    "PR-11": "8,000 swaps instead of 10^7",
    "PR-12": "1,000 connections at once instead of 8,000 (MESHDP_STORM); no ten minutes of handshakes",
    "PR-16": "a minute and a half in every run; python -m tests.soak --minutes N for any longer one",
    "PR-17": "process 1 and zombies; without root: table 2.10; seccomp and images: M5",
}


def ids_with_tests() -> set[str]:
    """The ids that tests carry in their names."""
    places = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("native/**/src/**/*.rs")]
    names = [name for path in places for name in re.findall(r"(?:def test|fn)_?(?: )?_?(pr_\d\d)_", path.read_text())]
    return {name.upper().replace("_", "-") for name in names}


def test_every_id_of_the_table_is_tested_or_waits_for_a_milestone() -> None:
    assert ids_with_tests() | set(WAITING) == set(IDS)
    assert not ids_with_tests() & set(WAITING), "what is tested waits no more"
    assert all(re.match(r"M\d: .{20,}", reason) for reason in WAITING.values())


def test_short_forms_are_of_tests_that_exist() -> None:
    assert set(LONG_FORMS) <= ids_with_tests()
