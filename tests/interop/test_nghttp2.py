"""nghttp2's programs as opponents: its client before our sidecars, its server behind them, its load in many streams at once.

In:     nghttp, nghttpd and h2load of the distribution.
Fails:  a page comes changed or not at all, a trailer is lost, a stream of a load fails.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop import nghttp2_rig as opponent
from tests.interop.rig import HTTP, WAYS, Rig
from tests.support.origin import Origin


@pytest.fixture(scope="module")
def served(sidecars: Rig) -> Iterator[Rig]:
    """nghttpd, and the strict application of HTTP/1.1."""
    with opponent.serving(sidecars):
        origin = Origin(sidecars.pair.server, [HTTP])
        yield sidecars
        origin.stop()


@pytest.mark.parametrize("name", opponent.SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_pages(served: Rig, way: str, name: str) -> None:
    assert opponent.fetch(served, way, f"/{name}") == opponent.digest(opponent.SIZES[name])


@pytest.mark.parametrize("way", WAYS)
def test_many_pages_on_one_connection(served: Rig, way: str) -> None:
    names = ("one", "page", "large", "page", "one") * 4
    assert opponent.many(served, way, names) == ["200"] * len(names)


@pytest.mark.parametrize("way", WAYS)
def test_upload_and_trailers(served: Rig, way: str) -> None:
    heard, received = opponent.upload(served, way, 500_000)
    assert ":status: 200" in heard and opponent.TRAILER in heard, heard
    assert received == 500_000


@pytest.mark.parametrize("way", WAYS)
def test_load_in_many_streams(served: Rig, way: str) -> None:
    opponent.load(served, way, "/page")


@pytest.mark.parametrize("way", ["outbound", "inbound"])
def test_http2_before_an_http1_application(served: Rig, way: str) -> None:
    opponent.load(served, way, "/bytes/3000", HTTP, requests=500)
    assert opponent.fetch(served, way, "/bytes/3000", HTTP) == opponent.digest(3_000)
