"""Why the data plane is Rust: the same two kernels in Rust, in Cython and in pure Python, side by side.

In:     `bench/native` (the sidecar's own cores), `decisions.py` interpreted, and the very same file compiled by Cython.
Out:    rows of group `kernels`: nanoseconds for one turn.
Limits: Rust checks more and reports which rule was broken; its figures are of the release build. The decision is over
        POLICIES policies of one rule each, the last of which lets the request in.
Fails:  RuntimeError where the three do not give the same answers.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from bench.micro import mesh
from bench.relays import build_native
from bench.rounds import Row, figure_row

SOURCE = Path(__file__).with_name("decisions.py")
POLICIES = 100
LEAST_S = 0.1
HEAD = (
    b"GET /item/42?view=full HTTP/1.1\r\nHost: shop.default.svc.cluster.local:9080\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-GB,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\nCookie: session=6f1c2a; theme=dark\r\n"
    b"Authorization: Bearer abcdefghijklmnopqrstuvwxyz\r\nX-Request-Id: 5f2b6f3e-7a3a-4b79-9d7c-1f0c2f6d8e11\r\n"
    b"X-Forwarded-For: 203.0.113.9\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
    b"Cache-Control: no-cache\r\n\r\n"
)


def run(folder: Path, rounds: int) -> list[Row]:
    """Times all of them, in turns."""
    made = folder / "kernels"
    made.mkdir(exist_ok=True)
    rust = _rust(made)
    subjects = {"Cython": _load(_compiled(made), "decisions"), "Python": _load(SOURCE, "decisions_interpreted")}
    for name, module in subjects.items():
        _check(name, module)
    readings: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for metric in ("parse_request", "decide_policy"):
            readings.setdefault(("Rust", metric), []).append(rust(metric))
            for name, module in subjects.items():
                readings.setdefault((name, metric), []).append(_timed(_kernel(module, metric)))
    return [
        figure_row(
            "kernels",
            {"fields": 12} if metric == "parse_request" else {"policies": POLICIES},
            (name, metric, "ns"),
            values,
        )
        for (name, metric), values in readings.items()
    ]


def _rules() -> list[tuple[frozenset[bytes], frozenset[bytes], tuple[bytes, ...]]]:
    return [
        (
            frozenset([f"spiffe://cluster.local/ns/default/sa/caller-{number}".encode()]),
            frozenset([b"GET"]),
            (f"/api/{number}/*".encode(),),
        )
        for number in range(POLICIES)
    ]


def _kernel(module: ModuleType, metric: str) -> Callable[[], object]:
    if metric == "parse_request":
        return lambda: module.parse_head(HEAD)
    rules, last = _rules(), POLICIES - 1
    principal, path = f"spiffe://cluster.local/ns/default/sa/caller-{last}".encode(), f"/api/{last}/item".encode()
    return lambda: module.decide(rules, principal, b"GET", path)


def _check(name: str, module: ModuleType) -> None:
    method, target, fields, length = module.parse_head(HEAD)
    right = (method, target, len(fields), length) == (b"GET", b"/item/42?view=full", 11, None)
    broken = module.parse_head(HEAD.replace(b"Host:", b"Host :"))
    if not right or broken is not None or _kernel(module, "decide_policy")() is not True:
        raise RuntimeError(f"the kernels in {name} do not give the expected answers")


def _timed(kernel: Callable[[], object]) -> float:
    turns, took = 1, 0.0
    while took < LEAST_S:
        turns *= 2
        begun = time.perf_counter()
        for _ in range(turns):
            kernel()
        took = time.perf_counter() - begun
    return took / turns * 1e9


def _compiled(folder: Path) -> Path:
    """The extension that Cython and the C compiler make of the source."""
    source = folder / "decisions.py"
    shutil.copy(SOURCE, source)
    words = [sys.executable, "-m", "cython", "-3", "--output-file", str(folder / "decisions.c"), str(source)]
    subprocess.run(words, check=True, capture_output=True)
    config = [sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('include'))"]
    include = subprocess.run(config, check=True, capture_output=True, text=True).stdout.strip()
    library = folder / "decisions.so"
    build = ["cc", "-O2", "-shared", "-fPIC", "-w", f"-I{include}", "-o", str(library), str(folder / "decisions.c")]
    subprocess.run(build, check=True)
    return library


def _load(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rust(folder: Path) -> Callable[[str], float]:
    cores = build_native("cores", folder)
    snapshot = folder / "snapshot.json"
    snapshot.write_bytes(mesh.snapshot(10, POLICIES).transaction(None))
    names = {"parse_request": "parse_request", "decide_policy": "authorize_last"}

    def timed(metric: str) -> float:
        command = [str(cores), names[metric], "200000", str(snapshot)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return timed
