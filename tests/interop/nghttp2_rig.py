"""nghttpd behind a rig, and what nghttp and h2load see of it.

Out:    `serving`; `fetch`, `many`, `upload` and `load`, each from one connection or more of its own.
Limits: the programs of the distribution; nghttpd answers a POST with what it gets, and every request with a trailer.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator

from tests.interop import tools
from tests.interop.rig import HTTP2, Rig
from tests.support.origin import pattern

SIZES = {"one": 1, "page": 5_000, "large": 3_000_000}
TRAILER = "checked: yes"


@contextlib.contextmanager
def serving(rig: Rig) -> Iterator[None]:
    """nghttpd on port HTTP2 with a page of each size."""
    pages = rig.folder / "pages"
    pages.mkdir(exist_ok=True)
    for name, size in SIZES.items():
        (pages / name).write_bytes(pattern(size))
    words = [tools.debian("nghttpd"), "--no-tls", "--echo-upload", "--trailer", TRAILER, "-d", str(pages), str(HTTP2)]
    process = rig.start(rig.pair.server, words, HTTP2)
    yield
    process.kill()
    process.wait()


def digest(size: int) -> str:
    """Of the bytes that every application here sends."""
    return hashlib.sha256(pattern(size)).hexdigest()


def fetch(rig: Rig, way: str, path: str, port: int = HTTP2) -> str:
    """The digest of what nghttp gets."""
    _, address = rig.where(way)
    words = f"{tools.debian('nghttp')} http://{address}:{port}{path} | sha256sum"
    done = rig.run(way, ["bash", "-o", "pipefail", "-c", words])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()[0]


def many(rig: Rig, way: str, names: tuple[str, ...]) -> list[str]:
    """The statuses of so many pages, asked for at once on one connection."""
    _, address = rig.where(way)
    urls = [f"http://{address}:{HTTP2}/{name}?{number}" for number, name in enumerate(names)]  # it asks for none twice
    done = rig.run(way, [tools.debian("nghttp"), "--stat", "--null-out", *urls])
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"^ *\d+ +.* ([1-5]\d\d) +\S+ /\w+\?\d+$", done.stdout, re.MULTILINE)


def upload(rig: Rig, way: str, size: int) -> tuple[list[str], int]:
    """The fields that come back, trailers with them, and how many bytes; the request has a trailer, too."""
    sent = rig.folder / "sent"
    sent.write_bytes(pattern(size))
    _, address = rig.where(way)
    words = [tools.debian("nghttp"), "--data", str(sent), "--trailer", "mine: too", "--verbose", "--null-out"]
    done = rig.run(way, [*words, f"http://{address}:{HTTP2}/upload"])
    assert done.returncode == 0, done.stdout + done.stderr
    heard = re.findall(r"recv \(stream_id=\d+\) ([\w:-]+: .*)", done.stdout)
    return heard, sum(map(int, re.findall(r"recv DATA frame <length=(\d+)", done.stdout)))


def load(rig: Rig, way: str, path: str, port: int = HTTP2, *, requests: int = 2_000) -> None:
    """So many requests in up to 100 streams at once, every one of which is answered with 200."""
    _, address = rig.where(way)
    words = [tools.debian("h2load"), f"--requests={requests}", "--clients=4", "--max-concurrent-streams=25"]
    done = rig.run(way, [*words, f"http://{address}:{port}{path}"])
    assert f"{requests} succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout + done.stderr
    assert f"{requests} 2xx" in done.stdout, done.stdout
