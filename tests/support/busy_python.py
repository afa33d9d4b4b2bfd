"""The sidecar program in an interpreter that has other things to do: holds its lock for seconds, collects garbage all the time.

In:     a folder, then the arguments of `meshdp`. A file `hold` there, with seconds in it, is obeyed and removed; while a
        file `collect` is there, garbage is made and collected without a pause.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import threading
import time
from pathlib import Path

from meshdp.cli import main


def obey(folder: Path) -> None:
    """Does what the files say, for ever."""
    locked = ctypes.PyDLL(None)  # calls made through it keep the interpreter's lock
    while True:
        with contextlib.suppress(OSError, ValueError):
            seconds = float((folder / "hold").read_text())
            (folder / "hold").unlink()
            locked.usleep(int(seconds * 1e6))
        if (folder / "collect").exists():
            for _ in range(50):
                rings = [[] for _ in range(1000)]  # type: list[list[object]]
                for ring in rings:
                    ring.append(ring)
                del rings
                gc.collect()
        else:
            time.sleep(0.02)


if __name__ == "__main__":
    threading.Thread(target=obey, args=(Path(sys.argv[1]),), daemon=True).start()
    sys.exit(main(sys.argv[2:]))
