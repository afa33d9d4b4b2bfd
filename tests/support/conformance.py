"""Where the conformance data is, and which of its cases are not supported yet.

In:     MESHDP_CONFORMANCE, or ../shared/conformance beside the repository.
Out:    `ROOT`, `case_ids`, `Unsupported`: a listed case that would pass is stale and fails.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOREIGN = "MESHDP_CONFORMANCE" in os.environ
ROOT = Path(os.environ.get("MESHDP_CONFORMANCE") or REPOSITORY.parent / "shared" / "conformance")
LISTS = REPOSITORY / "tests" / "conformance" / "unsupported"


Entry = dict[str, str]


@dataclass(frozen=True)
class Unsupported:
    """The committed list of one topic: case id → reason and milestone."""

    topic: str
    entries: dict[str, Entry]

    @classmethod
    def of(cls, topic: str) -> Unsupported:
        return cls(topic, _entries(topic))

    def settle(self, case: str, failure: str | None, *, final: bool = True, feature: Entry | None = None) -> None:
        """Ends a test: passes, fails, or skips as unsupported.

        failure: None when the case passed. final: False when a stand-in judged, whose passes prove nothing stale.
        feature: what the case needs that is not built yet; it stands in for the list where a foreign folder brings
        ids that the list cannot know, and never for the data beside the repository.
        """
        entry = self.entries.get(case) or (feature if FOREIGN and failure is not None else None)
        if entry is None:
            if failure is not None:
                pytest.fail(failure, pytrace=False)
            return
        if failure is None and final:
            pytest.fail(f"{self.topic}/{case} passes: take it off unsupported/{self.topic}.json", pytrace=False)
        pytest.skip(f"unsupported: {entry['milestone']}: {entry['reason']}")


@cache
def _entries(topic: str) -> dict[str, Entry]:
    path = LISTS / f"{topic}.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def read(name: str) -> Any:
    """One JSON file of the data; an empty table when the data is absent."""
    path = ROOT / name
    return json.loads(path.read_text()) if path.exists() else {"tables": []}


def table(name: str, test: str) -> list[Any]:
    """The cases of one transcribed Go test table."""
    return [case for part in read(name)["tables"] if part["test"] == test for case in part["cases"]]


def params(topic: str, ids: list[str]) -> list[Any]:
    """Parametrisation with ids `topic/id`; one skipped case with a reason when the data is absent."""
    if not ids:
        absent = pytest.mark.skip(reason=f"no conformance data for {topic} under {ROOT.name}/")
        return [pytest.param("", id=f"{topic}/absent", marks=absent)]
    return [pytest.param(case, id=f"{topic}/{case}") for case in ids]
