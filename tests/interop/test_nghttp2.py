"""nghttp2's programs as opponents: its client before our sidecars, its server behind them, its load in many streams at once.

In:     nghttp, nghttpd and h2load of the distribution.
Fails:  a page comes changed or not at all, a stream of a load fails.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop import tools
from tests.interop.rig import HTTP, HTTP2, Rig
from tests.support.origin import Origin, pattern

SIZES = {"one": 1, "page": 5_000, "large": 3_000_000}
THROUGH = [
    pytest.param("direct"),
    pytest.param("outbound", marks=tools.http2),
    pytest.param("inbound", marks=tools.http2),
]


@pytest.fixture(scope="module")
def served(sidecars: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """nghttpd with a few pages, which answers a POST with what it gets, and the strict application of HTTP/1.1."""
    pages = tmp_path_factory.mktemp("pages")
    for name, size in SIZES.items():
        (pages / name).write_bytes(pattern(size))
    server = sidecars.pair.server
    words = [tools.debian("nghttpd"), "--no-tls", "--echo-upload", "-d", str(pages), str(HTTP2)]
    process = sidecars.start(server, [*words, "--trailer", "checked: yes"], HTTP2)
    origin = Origin(server, [HTTP])
    yield sidecars
    origin.stop()
    process.terminate()
    process.wait()


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("way", THROUGH)
def test_pages(served: Rig, way: str, name: str) -> None:
    assert _get(served, way, f"/{name}") == hashlib.sha256(pattern(SIZES[name])).hexdigest()


@pytest.mark.parametrize("way", THROUGH)
def test_many_pages_on_one_connection(served: Rig, way: str) -> None:
    _, address = served.where(way)
    names = ("one", "page", "large", "page", "one") * 4
    urls = [f"http://{address}:{HTTP2}/{name}?{number}" for number, name in enumerate(names)]  # it asks for none twice
    done = served.run(way, [tools.debian("nghttp"), "--stat", "--null-out", *urls])
    statuses = re.findall(r"^ *\d+ +.* ([1-5]\d\d) +\S+ /\w+\?\d+$", done.stdout, re.MULTILINE)
    assert (done.returncode, statuses) == (0, ["200"] * len(urls)), done.stdout + done.stderr


@pytest.mark.parametrize("way", THROUGH)
def test_upload_and_trailers(served: Rig, way: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    sent = tmp_path / "sent"
    sent.write_bytes(pattern(500_000))
    _, address = served.where(way)
    words = [tools.debian("nghttp"), "--data", str(sent), "--trailer", "mine: too", "--verbose"]
    done = served.run(way, [*words, "--null-out", f"http://{address}:{HTTP2}/upload"])
    assert done.returncode == 0, done.stdout + done.stderr
    heard = re.findall(r"recv \(stream_id=\d+\) ([\w:-]+: .*)", done.stdout)
    assert ":status: 200" in heard and "checked: yes" in heard, heard
    received = sum(map(int, re.findall(r"recv DATA frame <length=(\d+)", done.stdout)))
    assert received == 500_000


@pytest.mark.parametrize("way", THROUGH)
def test_load_in_many_streams(served: Rig, way: str) -> None:
    _, address = served.where(way)
    words = [tools.debian("h2load"), "--requests", "2000", "--clients", "4", "--max-concurrent-streams", "25"]
    done = served.run(way, [*words, f"http://{address}:{HTTP2}/page"])
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout + done.stderr
    assert "2000 2xx" in done.stdout, done.stdout


@tools.http2
@pytest.mark.parametrize("way", ["outbound", "inbound"])
def test_http2_before_an_http1_application(served: Rig, way: str) -> None:
    _, address = served.where(way)
    words = [tools.debian("h2load"), "--requests", "500", "--clients", "2", "--max-concurrent-streams", "10"]
    done = served.run(way, [*words, f"http://{address}:{HTTP}/bytes/3000"])
    assert "500 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout + done.stderr
    assert "500 2xx" in done.stdout, done.stdout
    assert _get(served, way, "/bytes/3000", HTTP) == hashlib.sha256(pattern(3000)).hexdigest()


def _get(rig: Rig, way: str, path: str, port: int = HTTP2) -> str:
    """The digest of what nghttp gets."""
    _, address = rig.where(way)
    fetch = f"{tools.debian('nghttp')} http://{address}:{port}{path} | sha256sum"
    done = rig.run(way, ["bash", "-o", "pipefail", "-c", fetch])
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[0]
