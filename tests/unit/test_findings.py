"""The table of findings: every code is used, documented and well formed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meshdp.errors import CODES, Finding, MeshdpError, Refused, Unreachable, UsageError, Where

ROOT = Path(__file__).resolve().parents[2]


def test_every_code_is_used_somewhere() -> None:
    sources = "\n".join(
        path.read_text() for path in (ROOT / "src" / "meshdp").rglob("*.py") if path.name != "errors.py"
    )
    assert [code for code in CODES if code not in sources] == []


def test_the_page_lists_every_code_as_the_table_has_it() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| (MDP\d{4}) \| (\w+) \| (.+?) \| (.+) \|$", page, re.MULTILINE)
    assert rows == [(code, row.severity, row.title, row.cure) for code, row in CODES.items()]


def test_an_unknown_code_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Finding.of("MDP9999", Where("f", 1), "", "", "x")


def test_findings_read_as_one_line() -> None:
    assert str(Finding.of("MDP0101", Where("f", 2), "", "", "x")) == "f:2: error MDP0101: x"


@pytest.mark.parametrize(("error", "status"), [(Refused("a"), 1), (UsageError("a"), 2), (Unreachable("a", "do b"), 3)])
def test_errors_carry_the_exit_status_of_the_command(error: MeshdpError, status: int) -> None:
    assert (error.exit_code, error.message, str(error)) == (status, "a", "a")
