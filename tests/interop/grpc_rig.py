"""Both interop servers behind a rig, and what both clients find.

Out:    `serving`; `python_cases` and `go_cases`, a fault for each case that failed.
Source: gRPC's interop test descriptions.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.interop import tools
from tests.interop.rig import GRPC, GRPC_GO, Rig, python

# All that need no credentials, and are grpc-go's too.
CASES = """
    empty_unary large_unary client_streaming server_streaming ping_pong empty_stream custom_metadata status_code_and_message
    special_status_message unimplemented_method unimplemented_service cancel_after_begin cancel_after_first_response
    timeout_on_sleeping_server
""".split()
# grpc-go's server is built without a decompressor: between Python's two ends alone.
COMPRESSED = ["client_compressed_unary", "client_compressed_streaming", "server_compressed_unary"]
SERVERS = {"python": GRPC, "go": GRPC_GO}
AT_ONCE = 4


@contextlib.contextmanager
def serving(rig: Rig) -> Iterator[None]:
    """Both servers, on the ports of SERVERS."""
    tools.needs_module("grpc")
    server = rig.pair.server
    started = [
        rig.start(server, [tools.built("grpc-interop-server"), f"--port={GRPC_GO}"], GRPC_GO),
        rig.start(server, python("grpc_server", str(GRPC)), GRPC),
    ]
    yield
    for process in started:
        process.kill()  # they would wait for what is under way
        process.wait()


def python_cases(rig: Rig, way: str, port: int) -> dict[str, str]:
    """Every case and what was wrong with it, from one channel."""
    _, address = rig.where(way)
    done = rig.run(way, python("grpc_cases", f"{address}:{port}"), timeout_s=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def go_cases(rig: Rig, way: str, port: int, cases: Sequence[str] = CASES) -> dict[str, str]:
    """What was wrong, for each case that failed."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = dict(zip(cases, threads.map(lambda case: go_case(rig, way, port, case), cases), strict=True))
    return {case: why for case, why in found.items() if why}


def go_case(rig: Rig, way: str, port: int, case: str, *words: str) -> str:
    """What was wrong, or nothing; each case is a process with a connection of its own."""
    _, address = rig.where(way)
    client = [tools.built("grpc-interop-client"), f"--server_host={address}", f"--server_port={port}"]
    done = rig.run(way, [*client, f"--test_case={case}", *words], timeout_s=300)
    return "" if done.returncode == 0 else done.stderr[-1000:]
