"""The life of a sidecar process: start the engine, keep it supplied, wait for a signal, drain, stop.

In:     `Settings`.
Out:    an exit code: 0 after an orderly stop, 1 when the engine refuses to start.
Limits: a fed sidecar imports no YAML, no compiler, no asyncio, no logging; Rust talks to the feed.
Fails:  with one line on stderr that names the cure.
"""

from __future__ import annotations

import os
import signal
import sys

from meshdp.supervise.engine import Engine, NativeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from meshdp.settings import Settings

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
FILES_WANTED = 65_536  # some 32,000 connections: more would be a matter of memory


def run(settings: Settings) -> int:
    """Run one sidecar to its end."""
    # Blocked before any thread exists: worker threads inherit the mask, so a signal always comes to this thread.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    # Nothing to read again: what a sidecar runs under is watched. And a terminal that closes is no reason to end.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _open_as_many_files_as_allowed()
    try:
        if settings.uid is not None:
            _become(settings.uid)
        engine = Engine(settings.for_engine())
        engine.start()
    except (NativeError, OSError) as refused:
        print(f"meshdp sidecar: {refused}", file=sys.stderr)
        return 1
    if settings.config is None:
        signal.sigwait(STOP_SIGNALS)
    else:
        import_compiler().compile_until(STOP_SIGNALS, engine, settings)
    _stop(engine, settings.drain_s)
    return 0


def import_compiler() -> ModuleType:
    """What only a sidecar that compiles for itself pays for.

    Where typing_extensions is installed, msgspec takes it for what `typing` has as well: 0.4 MB for nothing.
    """
    sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]  # importing it fails then
    from meshdp.supervise import reload

    return reload


def _open_as_many_files_as_allowed() -> None:
    """The soft limit is low for programs that use select(2); the hard one is what the administrator meant."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, FILES_WANTED)), hard))


def _become(uid: int) -> None:
    """Give up root: supplementary groups, group, user, in the order that is still permitted."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def _stop(engine: Engine, drain_s: float) -> None:
    """Let connections finish until the deadline; a second signal meanwhile ends the process by its default action."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    engine.drain(drain_s)
    engine.stop()
