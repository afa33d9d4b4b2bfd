"""Tables 2.2 and 2.3 in whole: every id has a test on sockets that carries its name, or is listed here with what proves it.

In:     the Python tests, the Rust tests.
Out:    `PROTOCOL`: proven on the core alone, by the Rust test that is named; `PARTS`: what of an id a test leaves out, and why.
Source: attack cases 2.2, 2.3.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IDS = {f"H2-{number:02}" for number in range(1, 39)} | {f"DG-{number:02}" for number in range(1, 19)}

ELSEWHERE = {"H2-38": "tests/interop/test_h2spec.py"}

# Parts of ids that sockets cannot show in the time of a test run; each name is a Rust test.
PROTOCOL = {
    "H2-02": "h2_02_honest_cancels_are_never_cut",
    "H2-15": "h2_15_a_client_runs_out_of_identifiers_or_room",
    "H2-20": "h2_20_padding_and_unread_data_come_back",
    "H2-23": "h2_23_a_peer_that_takes_no_stream_is_waited_for_and_a_goaway_leads_to_another_connection",
    "H2-35": "h2_35_an_upstream_that_only_breaks_rules_is_cut_and_a_useful_one_is_not",
}

PARTS = {
    "H2-02": "2 s on sockets, an hour on the core",
    "H2-04": "a block ends at 128 frames, so 10^6 frames are never read; at line rate: `make attack`",
    "H2-23": "limits of 0 and 1, and flapping, in the engine's tests over a scripted peer; 1 and 4 on sockets",
    "H2-28": "200,000 unknown frames at most: the connection is cut after a few thousand",
    "H2-30": "3 s without a byte instead of 10 s, ten streams",
    "H2-31": "content-length 0 with a body: an HTTP/1.1 application has its whole request before the body comes (RFC 9110 8.6)",
    "H2-34": "always on (decision 0112): tests/e2e/test_http2_websocket.py; off in native/proto/tests/proto/h2/messages.rs",
    "H2-36": "judged by the real authority; 421 has no use where no certificate names a host",
    "H2-37": "before the request is routed and while the application works; waits for keys and ext-authz: M4; connect: LC-06",
    "DG-07": "a scheme is read without regard to case; what is no scheme is refused",
    "DG-14": "the application behind an HTTP/2 call that breaks: UNAVAILABLE before the answer has begun, RST_STREAM later",
}


def ids_on_sockets() -> set[str]:
    """The ids that Python tests carry in their names."""
    names = [
        name for path in ROOT.glob("tests/**/test_*.py") for name in re.findall(r"\bdef test_(\w+)\(", path.read_text())
    ]
    found = [pair for name in names for pair in re.findall(r"(?:^|_)(h2|dg)_(\d\d)(?=_|$)", name)]
    return {f"{prefix.upper()}-{number}" for prefix, number in found}


def test_every_id_of_both_tables_is_tested_on_sockets() -> None:
    assert ids_on_sockets() | set(ELSEWHERE) == IDS
    assert all((ROOT / path).exists() for path in ELSEWHERE.values())


def test_what_the_core_alone_shows_is_a_test_there() -> None:
    names = {name for path in ROOT.glob("native/**/*.rs") for name in re.findall(r"\bfn (\w+)\(", path.read_text())}
    assert set(PROTOCOL) <= IDS and set(PROTOCOL.values()) <= names


def test_parts_that_are_left_out_are_said() -> None:
    assert set(PARTS) <= IDS and all(len(reason) > 20 for reason in PARTS.values())
