"""h2spec, strict, every case: what RFC 9113 and RFC 7541 demand of a server, asked of our sidecars by every way in.

In:     the program (`scripts/interop-tools`), an application behind the sidecars, and the dialer where mutual TLS is asked.
Fails:  a case fails, or fewer run than the version has, or one is skipped.
Limits: h2spec waits TIMEOUT_S for each answer; the cases of one way run one after another, as it does them.
"""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.interop import tools
from tests.interop.dialer import Dialer
from tests.interop.rig import HTTP, HTTP2, SERVICE, Rig
from tests.support import wire
from tests.support.origin import Origin
from tests.support.pair import SERVER_IP

CASES = 146  # of version 2.2.1, strict
TIMEOUT_S = 10  # for one frame that is bound to come
H2_ALPN = ["istio-h2", "istio", "h2"]
PAGE = b"a page that is long enough for the cases on windows\n"

# What nghttpd 1.52 does otherwise: it ignores a HEADERS frame for a stream that is closed, which RFC 9113 5.1.1 lets end in an error.
NGHTTPD_FAILS = {"5.1.1 Sends stream identifier that is numerically smaller than previous"}

_REPORTS = itertools.count()


@dataclass
class Verdict:
    """What h2spec found, by section and title."""

    passed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.passed) + len(self.skipped) + len(self.failed)


@pytest.fixture(scope="module")
def served(sidecars: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """An application that speaks HTTP/2, and one that speaks HTTP/1.1."""
    page = tmp_path_factory.mktemp("pages")
    (page / "index.html").write_bytes(PAGE)
    process = sidecars.start(
        sidecars.pair.server, [tools.debian("nghttpd"), "--no-tls", "-d", str(page), str(HTTP2)], HTTP2
    )
    origin = Origin(sidecars.pair.server, [HTTP])
    yield sidecars
    origin.stop()
    process.terminate()
    process.wait()


def test_the_judge_works(served: Rig) -> None:
    """It passes what nghttpd does well, and sees what it does not."""
    verdict = judge(served, "direct", ("127.0.0.1", HTTP2))
    assert verdict.count == CASES
    assert set(verdict.failed) == NGHTTPD_FAILS


def test_the_dialer_works(served: Rig, tmp_path: Path) -> None:
    """The same judge through mutual TLS, at a server of nghttp2's with a mesh certificate."""
    pair = served.pair
    credentials, port = pair.folder / "credentials-server", 19443
    words = [tools.debian("nghttpd"), "--verify-client", "-d", str(tmp_path), str(port)]
    words += [str(credentials / "key.pem"), str(credentials / "cert-chain.pem")]
    process = served.start(pair.server, words, port)
    dialer = Dialer(pair.server, pair.folder / "credentials-client", ("127.0.0.1", port), "sni", ["h2"])
    try:
        verdict = judge(served, "direct", ("127.0.0.1", dialer.port))
    finally:
        dialer.stop()
        process.terminate()
        process.wait()
    assert dialer.selected == "h2"
    assert (verdict.count, set(verdict.failed)) == (CASES, NGHTTPD_FAILS)


@pytest.mark.parametrize("way", ["inbound", "outbound"])
def test_plaintext(served: Rig, way: str) -> None:
    _, address = served.where(way)
    every_case_passes(judge(served, way, (address, HTTP2)))


@pytest.mark.parametrize("way", ["inbound", "outbound"])
def test_plaintext_at_a_port_of_http1(served: Rig, way: str) -> None:
    """Decision 0095: there what is of neither version is told so in HTTP/1.1, which h2spec reads as a frame."""
    _, address = served.where(way)
    verdict = judge(served, way, (address, HTTP))
    why = verdict.failed.pop("3.5 Sends invalid connection preface", "")
    assert "the frame header looked like an HTTP/1.1 header" in why
    verdict.passed.add("3.5 Sends invalid connection preface")
    every_case_passes(verdict)
    heard = wire.ask(served.pair, way, b"INVALID CONNECTION PREFACE\r\n\r\n", count=None)
    assert (heard.statuses, heard.ended) == ([400], "fin"), "and the connection ends, as the case demands"


@pytest.mark.parametrize("port", [HTTP2, HTTP], ids=["http2", "http1"])
def test_over_mutual_tls(served: Rig, port: int) -> None:
    pair = served.pair
    sni = f"outbound_.{port}_._.{SERVICE}"
    dialer = Dialer(pair.client, pair.folder / "credentials-client", (SERVER_IP, port), sni, H2_ALPN)
    try:
        verdict = judge(served, "inbound", ("127.0.0.1", dialer.port))
    finally:
        dialer.stop()
    assert dialer.selected == "h2"
    every_case_passes(verdict)


def every_case_passes(verdict: Verdict) -> None:
    assert verdict.failed == {}
    assert (verdict.count, verdict.skipped) == (CASES, set())


def judge(rig: Rig, way: str, address: tuple[str, int]) -> Verdict:
    """Run every case against an address, and read the report."""
    report = rig.folder / "reports" / f"{next(_REPORTS)}.xml"
    report.parent.mkdir(exist_ok=True)
    report.parent.chmod(0o777)  # the way in chooses the user
    words = [tools.built("h2spec"), "--strict", "--timeout", str(TIMEOUT_S), "--junit-report", str(report)]
    done = rig.run(way, [*words, "--host", address[0], "--port", str(address[1])], timeout_s=400)
    assert report.exists(), done.stdout + done.stderr
    verdict = Verdict()
    for suite in ET.parse(report).iter("testsuite"):
        for case in suite.iter("testcase"):
            _note(verdict, f"{suite.get('id')} {case.get('classname')}", case)
    return verdict


def _note(verdict: Verdict, name: str, case: ET.Element) -> None:
    for kind in ("failure", "error"):
        found = case.find(kind)
        if found is not None:
            verdict.failed[name] = " ".join((found.text or kind).split())
            return
    (verdict.skipped if case.find("skipped") is not None else verdict.passed).add(name)
