"""What the commands print: tables, spans, and texts that documents and peers chose (OB-02)."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from meshdp.commands import logs
from meshdp.errors import Finding, Where, printable
from meshdp.local.inspection.configuration import Filters, listeners, policies
from meshdp.local.inspection.predicates import alternatives, conjunction
from meshdp.local.inspection.sidecars import Sidecar
from meshdp.local.inspection.status import Status
from meshdp.local.report import duration, moment, table

HOSTILE = {
    "\x1b[31mred": r"\x1b[31mred",
    "a\nb\rc": r"a\nb\rc",
    "bell\x07 nul\x00": r"bell\x07 nul\x00",
    "csi\x9b2J": r"csi\x9b2J",
    "back\u202ewards": r"back\u202ewards",
    "zero\u200bwidth": r"zero\u200bwidth",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_ob_02_nothing_that_a_terminal_would_act_on_is_printed(text: str) -> None:
    assert printable(text) == HOSTILE[text]
    row = {"name": text, "many": [text], "pairs": {text: text}}
    shown = table([row])
    assert len(shown.splitlines()) == 2
    assert shown.replace("\n", "").isprintable()
    assert str(Finding.of("MDP0205", Where(text, 1), text, text, text)).isprintable()


@pytest.mark.parametrize("text", ["plain", "naïve café", "日本", "`x`: 'y'", ""])
def test_what_is_harmless_is_left_alone(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0s"), (59, "59s"), (192, "3m12s"), (18_180, "5h03m"), (198_000, "2d07h"), (-0.4, "0s"), (-61, "1m01s ago")],
)
def test_spans_have_their_two_largest_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_moments_are_utc() -> None:
    assert (moment(0), moment(1500, 1000), moment(None)) == ("1970-01-01T00:00:00Z", "1970-01-01T00:00:01Z", None)


def value(kind: str, text: str) -> dict[str, str]:
    return {"kind": kind, "value": text}


def test_conditions_in_words() -> None:
    path = {"field": "path", "name": "", "negate": False, "values": [value("prefix", "/a/"), value("exact", "/b")]}
    header = {"field": "header", "name": "x-a", "negate": True, "values": [value("present", "")]}
    token = {"field": "unsupported", "name": "requestPrincipals", "negate": False, "values": []}
    assert conjunction([path, header]) == "path=/a/*,/b and header[x-a]!=*"
    assert alternatives([[path], [token]]) == "path=/a/*,/b or unsupported[requestPrincipals]=(not honoured)"
    assert (alternatives([]), alternatives([[]]), conjunction([])) == ("any", "any", "")


def test_policies_without_rules_are_shown_and_unknown_keys_are_tolerated() -> None:
    policy = {"namespace": "d", "name": "p", "action": "ALLOW", "dry_run": False, "where": "f:1", "rules": [], "new": 1}
    (row,) = policies({"authz": {"policies": [policy], "new": []}, "new/section": {}})
    assert (row["name"], row["rule"], row["from"], row["where"]) == ("d/p", None, "nobody", "f:1")
    assert list(listeners({})) == []


def test_filters_leave_out_what_is_not_asked_for() -> None:
    row = {"name": "default/web", "port": 80, "fqdn": "web.default.svc", "direction": "outbound"}
    for kept in (
        Filters(),
        Filters(port=80),
        Filters(fqdn="web.default.svc"),
        Filters(name="web"),
        Filters(None, None, "outbound"),
    ):
        assert kept.keep(row)
    for left_out in (Filters(port=81), Filters(fqdn="web"), Filters(name="default"), Filters(None, None, "inbound")):
        assert not left_out.keep(row)
    assert not Filters(port=80).keep({"name": "x"}), "a row without the key is not asked for"


@pytest.mark.parametrize(("text", "count", "rest"), [
    (b"a\nb\nc\n", 2, b"b\nc\n"),
    (b"a\nb\nc", 2, b"b\nc"),
    (b"a\nb\n", 9, b"a\nb\n"),
    (b"", 3, b""),
    (b"a\n", 0, b""),
    (b"x" * 200_000 + b"\n" + b"y" * 200_000 + b"\n", 1, b"y" * 200_000 + b"\n"),
])  # fmt: skip
def test_the_last_lines_of_a_log(tmp_path: Path, text: bytes, count: int, rest: bytes) -> None:
    (tmp_path / "log").write_bytes(text)
    with (tmp_path / "log").open("rb") as log:
        log.seek(logs._start_of_last(log, count))
        assert log.read() == rest


def test_lines_become_objects_however_they_are_cut() -> None:
    text = b'{"a": 1}\nplain \xff\n[1]\n{"b": \n'
    expected = [{"a": 1}, {"line": "plain \ufffd"}, {"line": "[1]"}, {"line": '{"b": '}]
    for size in (1, 3, len(text)):
        out = io.BytesIO()
        lines = logs.Lines(out, "json")
        for start in range(0, len(text), size):
            lines.write(text[start : start + size])
        assert [json.loads(line) for line in out.getvalue().splitlines()] == expected


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    out = io.BytesIO()
    lines = logs.Lines(out, "json")
    for _ in range(20):
        lines.write(b"x" * (1 << 16))
    assert out.getvalue()


def status(**pages: object) -> Status:
    async def silent(path: str) -> None:
        return None

    return Status(Sidecar("default/web", silent), **pages)  # type: ignore[arg-type]  # pages are dictionaries


@pytest.mark.parametrize(
    ("config", "state"),
    [
        ({}, "UNREACHABLE"),
        ({"digest": "", "refused": None}, "WAITING"),
        ({"digest": "d", "refused": None}, "SERVING"),
        ({"digest": "d", "refused": None, "feed_lost": True}, "STALE"),
        ({"digest": "d", "refused": {"reason": "section x is malformed", "at_unix_ms": 1}}, "REFUSED"),
    ],
)
def test_the_state_is_one_word(config: dict[str, object], state: str) -> None:
    found = status(config=config, ready={"ready": True})
    assert found.state == state
    assert found.is_fine == (state == "SERVING")
    assert list(found.row()) == list(status().row()), "the keys do not depend on the state"


def test_a_refusal_and_a_certificate_that_is_not_renewed_are_complained_about() -> None:
    refused = status(config={"digest": "d", "refused": {"reason": "why"}}, ready={"ready": True})
    assert refused.complaints == ["refused: why"]
    troubled = status(config={"digest": "d"}, ready={"ready": True}, certs={"turnover": {"last_error": "no authority"}})
    assert (troubled.complaints, troubled.is_fine) == (["its certificate is not renewed: no authority"], False)


def test_a_sidecar_that_is_silent_is_complained_about_with_the_next_step() -> None:
    assert status().complaints == ["its sidecar does not answer: is it running, and is this its --admin?"]
