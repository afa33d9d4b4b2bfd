"""The bench's arithmetic: which rounds count, who has a figure, when a goal is reached, what the page says, who may join."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.measure import WrongAnswer
from bench.proxies import drivers
from bench.report import Report, tables
from bench.report.goals import GOALS
from bench.report.notes import NOTES
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
    goal = next(each for each in GOALS if each.key == "tcp_bulk_envoy")
    line = goal.line([row("meshdp", own), row("envoy", 0.4)])
    assert line[2] == f"{own / 0.4:.2f}"
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


def test_a_missed_goal_has_its_reason_and_a_reached_one_has_none() -> None:
    def page(own: float) -> str:
        return Report({}, "abc", "", [row("meshdp", own), row("haproxy", 1.0)]).markdown()

    reason = " ".join(NOTES["tcp_bulk_haproxy"].split()[:6])
    assert reason in page(1.2) and "### Missed, and why" in page(1.2)
    assert reason not in page(1.4) and "### Missed, and why" not in page(1.4)


def test_every_reason_is_of_a_goal() -> None:
    assert set(NOTES) <= {goal.key for goal in GOALS}


def test_the_resumed_handshake_says_why_it_is_not_measured() -> None:
    assert "Session resumption is off" in Report({}, "abc", "").markdown()


def test_a_peer_that_joined_is_a_column_and_among_the_best() -> None:
    rows = [row("meshdp", 1.0), row("envoy", 0.4), row("ztunnel", 0.5)]
    rows += [Row("tls_bulk", {}, each.subject, each.metric, "", 7, 1.0, 1.0, each.ratio_to_floor) for each in rows]
    rows.append(Row("kernels", {}, "Cython", "parse_request", "ns", 7, 1.0, 1.0, None))
    page = Report({}, "abc", "", rows).markdown()
    assert "Cython" not in next(line for line in page.splitlines() if line.startswith("| what"))
    assert "| ztunnel |" in next(line for line in page.splitlines() if line.startswith("| what"))
    best = next(goal for goal in GOALS if goal.key == "tls_bulk")
    assert best.line(rows)[2] == "2.00"


def test_rows_of_one_place_and_subject_are_one_line() -> None:
    params = {"path": "both", "connections": 16, "body_bytes": 1024}
    rows = [
        Row("pair_h2", params, "meshdp", "p50", "µs", 7, 154.0, 140.0, 1.1),
        Row("pair_h2", params, "meshdp", "p90", "µs", 7, 999.0, 999.0, 1.1),
        Row("pair_h2", params, "meshdp", "cpu_per_request", "µs", 7, 20.8, 17.7, 1.23, 24.1, 1.2, 1.31),
        Row("pair_h2", {**params, "connections": 64}, "meshdp", "p50", "µs", 7, 1234.0, 140.0, 1.1),
    ]
    said, _, head, _, first, second = tables.of_group("pair_h2", rows)
    assert said == "path both, body bytes 1024, rounds that count: 7."
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        "connections",
        "subject",
        "CPU µs/request",
        "× floor",
        "p50 µs",
    ]
    assert [cell.strip() for cell in first.split("|")[1:-1]] == [
        "16",
        "meshdp",
        "20.8 (17.7–24.1)",
        "1.23 (1.20–1.31)",
        "154",
    ]
    assert [cell.strip() for cell in second.split("|")[1:-1]] == ["64", "meshdp", "", "", "1234"]


@pytest.mark.parametrize(
    ("variables", "wrong"),
    [
        ({"BENCH_PEER_ZTUNNEL": "/bin/true"}, "BENCH_PEER_ZTUNNEL_DRIVER is not set"),
        ({"BENCH_PEER_ZTUNNEL_DRIVER": "/bin/true"}, "BENCH_PEER_ZTUNNEL is not set"),
        ({"BENCH_PEER_ZTUNNEL": "true", "BENCH_PEER_ZTUNNEL_DRIVER": "/bin/true"}, "expected the absolute path"),
        ({"BENCH_PEER_ZTUNNEL": "/bin/none", "BENCH_PEER_ZTUNNEL_DRIVER": "/bin/true"}, "found '/bin/none'"),
        ({"BENCH_PEER_ENVOY": "/bin/true", "BENCH_PEER_ENVOY_DRIVER": "/bin/true"}, "that is not floor"),
    ],
)
def test_a_peer_that_is_named_wrongly_is_said(variables: dict[str, str], wrong: str) -> None:
    found, faults = drivers.named(variables)
    assert found == {} and len(faults) == 1
    assert wrong in next(iter(faults.values()))


def test_a_peer_has_its_name_from_the_variable() -> None:
    named = {"BENCH_PEER_LINKERD2_PROXY": "/bin/true", "BENCH_PEER_LINKERD2_PROXY_DRIVER": "/bin/sh"}
    found, faults = drivers.named({**named, "BENCH_PEER_OFF": "", "PATH": "/bin"})
    assert (list(found), faults) == (["linkerd2-proxy"], {})
    assert (str(found["linkerd2-proxy"].binary), str(found["linkerd2-proxy"].driver)) == ("/bin/true", "/bin/sh")
