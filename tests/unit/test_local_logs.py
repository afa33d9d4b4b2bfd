"""Logs within bounds: what is cut, what stays, and that nothing written meanwhile is lost."""

from __future__ import annotations

from pathlib import Path

from meshdp.local import logs

KEPT = 256 * 1024


def test_the_newest_lines_stay_whole_and_the_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    line = "line {:07d} " + "x" * 100 + "\n"
    with path.open("a") as writer:
        for number in range(10_000):
            writer.write(line.format(number))
        writer.flush()
        assert logs.bound([path], KEPT) == []
        writer.write(line.format(10_000))
    with path.open("rb") as log:
        log.seek(logs.start(log.fileno()))
        found = log.read().decode().splitlines(keepends=True)
    first = int(found[0].split()[1])
    assert found == [line.format(number) for number in range(first, 10_001)], "no line is torn, none is missing"
    assert KEPT - 200 <= sum(map(len, found)) <= KEPT + 200
    assert path.stat().st_blocks * 512 <= KEPT + 16 * 1024
    assert logs.last_lines(path, 1) == [line.format(10_000).strip()]


def test_short_and_missing_logs_are_left_alone(tmp_path: Path) -> None:
    short = tmp_path / "short.log"
    short.write_text("one\ntwo\n")
    assert logs.bound([short, tmp_path / "missing.log"], KEPT) == []
    assert short.read_text() == "one\ntwo\n"
    assert logs.last_lines(short, 8) == ["one", "two"]
    assert logs.last_lines(tmp_path / "missing.log", 8) == []
