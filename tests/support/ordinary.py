"""Lets a test that runs as root act as an ordinary user: with ids lent by the machine, or without.

In:     which rights the user should come to: "root", "owner" (newuidmap has ids to lend) or "mark" (it has none).
Out:    words to put before a command; folders that the user owns.
Limits: what is lent is written over /etc/subuid and /etc/subgid in a mount namespace of the command's own, never on the machine. Tests that do not run as
        root act as the user they are, and only with the rights that this user comes to.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshdp.local.isolation import rights

NOBODY = 65534
LENT_FIRST = 300_000
ALL_RIGHTS = (rights.ROOT, rights.OWNER, rights.MARKED)

_IN_PRIVATE = """\
printf '%s' "$1" > "$2/subids"
uid=$3
for file in subuid subgid; do [ -e /etc/$file ] && mount --bind "$2/subids" /etc/$file; done
shift 3
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"
"""


def acting(mode: str, folder: Path, uid: int = NOBODY) -> list[str]:
    """What to put before a command so that it runs with these rights; `folder` is the test's. Skips where that cannot be."""
    if mode == rights.ROOT:
        if os.geteuid() != 0:
            pytest.skip("needs root")
        return []
    if os.geteuid() != 0:
        own = rights.OWNER if rights.lent_ids(os.geteuid())[0] is not None else rights.MARKED
        if mode != own:
            pytest.skip(f"needs root to act as a user who comes to {mode}")
        return []
    _demand_passable()
    if mode == rights.OWNER and shutil.which("newuidmap") is None:
        pytest.skip("newuidmap is not installed: apt-get install uidmap")
    lent = f"{uid}:{LENT_FIRST}:1000\n" if mode == rights.OWNER else ""
    return ["unshare", "--mount", "sh", "-euc", _IN_PRIVATE, "acting", lent, str(folder), str(uid)]


def user_of(mode: str) -> int:
    """The uid that applications run as."""
    return os.geteuid() if mode == rights.ROOT or os.geteuid() != 0 else NOBODY


@contextmanager
def folder_for(mode: str, uid: int = NOBODY) -> Iterator[Path]:
    """A short-named folder that belongs to the acting user: pytest's own lie behind one that only their maker may enter."""
    with tempfile.TemporaryDirectory(prefix="mdpt-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        if mode != rights.ROOT and os.geteuid() == 0:
            os.chown(folder, uid, uid)
        yield folder


def _demand_passable() -> None:
    """Another user must be able to run this very Python and to read the package."""
    for path in (Path(sys.executable).resolve(), Path(sys.base_prefix).resolve(), Path(rights.__file__)):
        closed = [str(at) for at in path.parents if not at.stat().st_mode & 0o001]
        if closed:
            pytest.skip(f"{path} lies behind {closed[-1]}, which other users may not enter: see scripts/choose-python")
