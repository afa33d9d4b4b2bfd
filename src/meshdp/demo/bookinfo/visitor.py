"""A machine without a sidecar: it waits, so that `meshdp exec` can send requests from outside the mesh."""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.pause()
