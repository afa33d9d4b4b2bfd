"""The bench's arithmetic: which rounds count, who has a figure, when a goal is reached, that a report survives its file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.goals import GOALS
from bench.measure import WrongAnswer
from bench.report import Report
from bench.rounds import Compared, Comparison, Contender, Figures, Row, compare

EVERYONE: Any = [Contender("floor", None, {}), Contender("meshdp", None, {})]  # type: ignore[arg-type]


def compared(take: Callable[[Contender], Figures], rounds: int = 3) -> Compared:
    what = Comparison("group", {"connections": 1}, take, "cpu_per_request", rounds)
    return compare(what, EVERYONE, lambda text: None)


def test_a_ratio_is_to_the_floor_of_the_same_round() -> None:
    floors = iter([10.0, 10.5, 9.8])
    current = {"round": 0.0}

    def take(contender: Contender) -> Figures:
        # The machine drifts: whoever comes first in a round decides how fast it is then.
        current["round"] = current["round"] or next(floors)
        value = current["round"] * (1 if contender.name == "floor" else 1.5)
        current["seen"] = current.get("seen", 0) + 1
        if current["seen"] % 2 == 0:
            current["round"] = 0.0
        return {"cpu_per_request": value}

    rows = {row.subject: row for row in compared(take).rows}
    assert rows["meshdp"].ratio_to_floor == 1.5
    assert (rows["floor"].median, rows["floor"].min, rows["floor"].rounds) == (10.0, 9.8, 3)


def test_a_round_with_a_disturbed_floor_does_not_count_and_is_repeated() -> None:
    floors = iter([10.0, 10.1, 20.0, 10.2])

    def take(contender: Contender) -> Figures:
        return {"cpu_per_request": next(floors) if contender.name == "floor" else 12.0}

    found = compared(take)
    assert found.refused == 1
    assert {row.rounds for row in found.rows} == {3}
    assert max(row.median for row in found.rows if row.subject == "floor") < 11


def test_a_wrong_answer_is_no_figure() -> None:
    def take(contender: Contender) -> Figures:
        if contender.name == "meshdp":
            raise WrongAnswer("3 wrong answers")
        return {"cpu_per_request": 10.0}

    found = compared(take)
    assert [row.subject for row in found.rows] == ["floor"]
    assert found.failed == {"meshdp": "3 wrong answers"}


def row(subject: str, ratio: float) -> Row:
    params = {"path": "inbound", "connections": 1}
    return Row("tcp_bulk", params, subject, "gb_per_cpu_second", "GB/s", 7, 4.2 * ratio, 4.0 * ratio, ratio)


@pytest.mark.parametrize(("own", "said"), [(0.8, "reached"), (0.5, "**missed**")])
def test_a_goal_is_reached_or_missed(own: float, said: str) -> None:
    goal = next(each for each in GOALS if "multiple of Envoy" in each.what and "bulk" in each.what)
    line = goal.line([row("meshdp", own), row("envoy", 0.4)])
    assert line[2] == f"{own / 0.4:.3g}"
    assert line[-1] == said


def test_a_goal_without_its_rows_is_not_measured() -> None:
    assert {goal.line([])[-1] for goal in GOALS} == {"not measured"}


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    written = Report(
        {"processor": "2 × some"}, "abc", "--quick", [row("floor", 1.0)], {"bulk": 2}, {"x": "wrong\nmore"}
    )
    written.write(tmp_path / "part")
    again = report.read(tmp_path / "part.json")
    assert again == written
    page = again.markdown()
    assert page == (tmp_path / "part.md").read_text()
    assert "2 in bulk" in page and "no figure for x: wrong\n" in page and "2 × some" in page


def test_something_else_than_a_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"rows": []}))
    with pytest.raises(ValueError, match="expected a report of `make bench`"):
        report.read(tmp_path / "other.json")
