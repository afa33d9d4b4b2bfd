"""Finds the folder that the state of all meshes of one user goes to.

In:      the environment, the user, what exists and may be written.
Out:     /run/meshdp for root; for anyone else meshdp/ in the first of $XDG_STATE_HOME, ~/.local/state and
         $XDG_RUNTIME_DIR that can be written, else /tmp/meshdp-UID. The same for every command, while these stay.
Limits:  it must be a folder of this user's in which nobody else may write: who owns it owns the mesh's authority, and
         says which processes `down` ends. The one in /tmp, where anyone may put one first, nobody else may even enter.
Fails:   MeshdpError when it is not.
Source:  XDG Base Directory Specification.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from meshdp.errors import MeshdpError

SHARED = Path("/tmp")


def state_root(environ: Mapping[str, str]) -> Path:
    """Where the folders of all meshes of this user are."""
    if environ.get("MESHDP_STATE_DIR"):
        named = Path(environ["MESHDP_STATE_DIR"]).absolute()
        if named.exists():
            _demand_own(named)
        return named
    if os.geteuid() == 0:
        return Path("/run/meshdp")
    for home, below in _homes(environ):
        if _can_be_made(home, below):
            return home / below / "meshdp"
    own = SHARED / f"meshdp-{os.geteuid()}"
    if os.path.lexists(own):
        _demand_closed(own)
    return own


def make(root: Path) -> None:
    """Makes the folder, closed to others where others could have made it first."""
    shared = root.parent == SHARED and root.name.startswith("meshdp-")
    root.mkdir(mode=0o700 if shared else 0o755, parents=True, exist_ok=True)
    if shared:
        _demand_closed(root)
    else:
        _demand_own(root)


def _homes(environ: Mapping[str, str]) -> Iterator[tuple[Path, Path]]:
    """Folders that must exist, and where in them state belongs."""
    if os.path.isabs(environ.get("XDG_STATE_HOME", "")):
        yield Path(environ["XDG_STATE_HOME"]), Path()
    home = os.path.expanduser("~")
    if os.path.isabs(home):
        yield Path(home), Path(".local", "state")
    if os.path.isabs(environ.get("XDG_RUNTIME_DIR", "")):
        yield Path(environ["XDG_RUNTIME_DIR"]), Path()


def _can_be_made(home: Path, below: Path) -> bool:
    """Whether this user may write what exists of the way, which must be folders of theirs from `home` on."""
    deepest = home
    for part in (*below.parts, "meshdp"):
        if not os.path.exists(deepest / part):  # answers also where one may not look
            break
        deepest /= part
    usable = os.access(deepest, os.W_OK | os.X_OK) and deepest.is_dir()
    return usable and deepest.stat().st_uid == os.geteuid()


def _demand_own(folder: Path) -> None:
    """Refuses another user's folder, and one in which others may make what we would take for ours."""
    found = folder.stat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        hint = "name such a folder in MESHDP_STATE_DIR; a mesh of another user is that user's to command"
        raise MeshdpError(
            f"{folder} must be a folder that belongs to user {os.geteuid()} and that nobody else may write", hint
        )


def _demand_closed(folder: Path) -> None:
    """Refuses a link, another user's folder, and one that others may enter."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        hint = "have it removed by whoever owns it, or name a folder of your own in MESHDP_STATE_DIR"
        raise MeshdpError(
            f"{folder} must be a folder that belongs to user {os.geteuid()} and is closed to all others", hint
        )
