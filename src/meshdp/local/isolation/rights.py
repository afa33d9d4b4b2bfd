"""Takes the rights that a mesh needs on this machine: root's, or those over namespaces of one's own.

In:      who runs this process, and what the machine allows.
Out:     `Rights`: how a sidecar's traffic will be told from its application's. Without root this process is afterwards
         in a user namespace that maps its user and group to themselves, with every capability there, and in a network
         namespace without a way out, to which it comes back from others.
Limits:  needs one thread. Only the user's own ids are mapped, and 1337 where the machine lends subordinate ids.
Fails:   MeshdpError that names the setting of the machine that forbids it, and the cure.
Source:  user_namespaces(7), newuidmap(1), subuid(5); DESIGN section 2.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from meshdp.errors import MeshdpError
from meshdp.local.isolation import kernel

SIDECAR_ID = 1337
MARK = 0x539

ROOT, OWNER, MARKED = "root", "owner", "mark"


class Rights(NamedTuple):
    """`mode`: ROOT and OWNER tell a sidecar's traffic by its user 1337, MARKED by a mark; `why`: why not better."""

    mode: str
    why: str = ""

    @property
    def mark(self) -> int | None:
        """The mark that sidecars put on their sockets."""
        return MARK if self.mode == MARKED else None

    @property
    def init_arguments(self) -> tuple[str, ...]:
        """What tells the sidecar's traffic, in the words of `meshdp-init`."""
        if self.mode == MARKED:
            return ("--proxy-mark", hex(MARK))
        return ("-u", str(SIDECAR_ID), "-g", str(SIDECAR_ID))


AS_ROOT = Rights(ROOT)


class Lent(NamedTuple):
    """Subordinate ids that stand for 1337 outside."""

    uid: int
    gid: int


def take() -> Rights:
    """Takes them for this process and its children, for good; what the session's keyring holds stays behind.

    Raises:
        MeshdpError: the machine does not let this user make namespaces.
    """
    kernel.leave_keys()
    if os.geteuid() == 0 and _is_mapped(SIDECAR_ID):
        return AS_ROOT
    uid, gid = os.geteuid(), os.getegid()
    lent, why = lent_ids(uid)
    with _mapper(lent) as map_lent:
        _make_namespaces(kernel.NEW_USERS)
        if lent is not None:
            why = map_lent()
        if lent is None or why:
            _map_own(uid, gid)
    _make_namespaces(kernel.NEW_NETWORK)
    return Rights(MARKED, why) if why else Rights(OWNER)


def lent_ids(uid: int) -> tuple[Lent | None, str]:
    """Ids that the machine lends this user, or why sidecars cannot have a user of their own."""
    missing = [tool for tool in _MAPPERS if shutil.which(tool) is None]
    if missing:
        return None, f"{' and '.join(missing)} not found (Debian: uidmap)"
    found = [_first_lent(Path(file), uid) for file in ("/etc/subuid", "/etc/subgid")]
    if found[0] is None or found[1] is None:
        return None, "no subordinate ids for this user in /etc/subuid and /etc/subgid (as root: usermod --add-subuids)"
    return Lent(found[0], found[1]), ""


def refusal(error: OSError, sysctls: Path = Path("/proc/sys")) -> MeshdpError:
    """Why the kernel does not make a namespace for an ordinary user, and what to do."""

    def setting(name: str) -> str:
        try:
            return (sysctls / name.replace(".", "/")).read_text().strip()
        except OSError:
            return ""

    settings = {
        "kernel.unprivileged_userns_clone": ("0", "1"),
        "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
        "user.max_user_namespaces": ("0", "15000"),
        "user.max_net_namespaces": ("0", "15000"),
    }
    for name, (forbids, allows) in settings.items():
        if setting(name) == forbids:
            problem = f"this machine forbids network namespaces of one's own: {name} is {forbids}"
            return MeshdpError(problem, f"as root: sysctl -w {name}={allows}; or run meshdp with sudo")
    if error.errno == errno.ENOSPC:
        problem = "this machine's user or network namespaces are used up"
        return MeshdpError(
            problem, "as root, raise user.max_user_namespaces and user.max_net_namespaces with sysctl -w"
        )
    if error.errno in (errno.ENOSYS, errno.EINVAL):
        return MeshdpError(
            "this kernel has no user namespaces", "run meshdp with sudo, or a kernel with CONFIG_USER_NS"
        )
    hint = "inside a container, allow it (docker run --security-opt seccomp=unconfined); or run meshdp as root"
    return MeshdpError(f"this machine refuses user namespaces: {error.strerror}", hint)


def _make_namespaces(kind: int) -> None:
    try:
        kernel.unshare(kind)
    except OSError as error:
        raise refusal(error) from error


def _map_own(uid: int, gid: int) -> None:
    """One user and one group, mapped to themselves: all that the kernel lets a user map alone."""
    try:
        for name, own in (("uid_map", uid), ("gid_map", gid)):
            written = Path("/proc/self", name)
            if written.read_text():
                continue  # the helper came as far as this one
            if name == "gid_map":
                Path("/proc/self/setgroups").write_text("deny")
            written.write_text(f"{own} {own} 1")
    except OSError as error:
        raise refusal(error) from error


def _is_mapped(wanted: int) -> bool:
    rows = [[int(word) for word in row.split()] for row in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(first <= wanted < first + count for first, _, count in rows)


def _first_lent(file: Path, uid: int) -> int | None:
    """The first id of the first range; lines are `NAME-OR-UID:FIRST:COUNT`."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    names = {str(uid)}
    with suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    for line in lines:
        who, _, ids = line.partition(":")
        first, _, count = ids.partition(":")
        if who in names and first.isdecimal() and count.isdecimal() and int(count) > 0:
            return int(first)
    return None


@contextmanager
def _mapper(lent: Lent | None) -> Iterator[Callable[[], str]]:
    """Forks a child that stays outside, where newuidmap must run; what is given asks it to map: why it could not."""
    if lent is None:
        yield lambda: ""
        return
    target = os.getpid()
    (go, started), (answer, done) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(started)
        if os.read(go, 1):
            os.write(done, json.dumps(_map_lent(target, lent)).encode())
        os._exit(0)
    os.close(done)

    def ask() -> str:
        os.write(started, b"!")
        with os.fdopen(answer, "rb", closefd=False) as said:
            return str(json.loads(said.read() or b'"the helper that maps ids ended"'))

    try:
        yield ask
    finally:
        for descriptor in (go, started, answer):
            os.close(descriptor)
        os.waitpid(child, 0)


def _map_lent(target: int, lent: Lent) -> str:
    """Runs newgidmap first: when it refuses, no user is mapped yet and the mesh can go on without."""
    for tool, own, other in ((_MAPPERS[1], os.getegid(), lent.gid), (_MAPPERS[0], os.geteuid(), lent.uid)):
        words = [tool, target, own, own, 1, SIDECAR_ID, other, 1]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"{tool} refused: {done.stderr.strip()}"
    return ""


_MAPPERS = ("newuidmap", "newgidmap")
