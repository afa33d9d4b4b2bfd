"""Runs the Autobahn cases against an address and prints a verdict for each, as JSON.

In:     a URL, as the only argument. Limits: without groups 9 (sizes and speed), 12 and 13 (compression); so many cases at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from kosoku import FailureError, run_fuzzingclient

WITHOUT = ["9.*", "12.*", "13.*"]
AT_ONCE = 8


async def main(url: str) -> None:
    try:
        results = await run_fuzzingclient(url, exclude_cases=WITHOUT, concurrency=AT_ONCE)
    except FailureError as failure:
        results = failure.results
    told = {found.case_id: [found.behavior.value, found.behavior_close.value, found.result] for found in results}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # kosoku's threads may abort a process whose interpreter is being taken down
