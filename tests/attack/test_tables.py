"""Tables 2.1, 2.4 to 2.8, 2.11 and 2.12 in whole: every id has a test that carries its name, or a line in `waiting.json` that says what is missing.

In:     the modules of this folder and the Rust sources. Table 2.16 is `test_process.py`'s.
Out:    an id may have both: a test of what holds today, and a line for the rest.
Source: attack cases 2.1, 2.4 to 2.8, 2.11, 2.12.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLES = {"AZ": 18, "H1": 68, "HD": 16, "JW": 24, "LC": 18, "PN": 23, "RT": 17, "TL": 30}
WAITING: dict[str, list[str]] = json.loads((Path(__file__).parent / "waiting.json").read_text())


def ids_with_tests(prefix: str) -> set[str]:
    """The ids that tests carry in their names; a name may carry several."""
    places = [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("native/**/*.rs")]
    names = [name for path in places for name in re.findall(r"\b(?:def test_|fn )(\w+)\(", path.read_text())]
    found = {number for name in names for number in re.findall(rf"(?:^|_){prefix.lower()}_(\d\d)(?=_|$)", name)}
    return {f"{prefix}-{number}" for number in found}


@pytest.mark.parametrize("prefix", TABLES)
def test_every_id_is_tested_or_says_what_it_waits_for(prefix: str) -> None:
    wanted = {f"{prefix}-{number:02}" for number in range(1, TABLES[prefix] + 1)}
    tested = ids_with_tests(prefix)
    assert tested <= wanted
    assert wanted - tested <= set(WAITING)


def test_lines_that_wait_say_for_what() -> None:
    wanted = {f"{prefix}-{number:02}" for prefix, count in TABLES.items() for number in range(1, count + 1)}
    assert set(WAITING) <= wanted
    assert list(WAITING) == sorted(WAITING)
    assert all(
        re.match(r"(M[3-9]|routing|later|by design): .{20,}", reason)
        for reasons in WAITING.values()
        for reason in reasons
    )
