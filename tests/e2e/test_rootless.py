"""An ordinary user's mesh where something of the machine is missing: said with its cure, or done without.

In:     limits that are real: a user namespace of the test's in which no other may be made, a covered /proc, hidden programs.
Limits: needs root to take things away; skipped with a reason otherwise. Nothing is changed outside namespaces of the test's own.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshdp.local.isolation import rights
from tests.support.local_mesh import Done, Meshdp, wait_until
from tests.support.ordinary import folder_for
from tests.support.sidecar import Sidecar, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to take things away from an ordinary user")

# A user of this run alone, unknown to the machine: what it puts into /tmp meets nobody else's.
HOMELESS = 61_000 + os.getpid() % 4_000

MESH = """\
apiVersion: meshdp.io/v1alpha1
kind: LocalMesh
metadata: {name: small}
spec:
  resources: []
  workloads:
  - {name: web, command: [sleep, infinity]}
"""


@pytest.fixture
def meshdp() -> Iterator[Meshdp]:
    """The command as a user without lent ids, and a small mesh."""
    with folder_for(rights.MARKED, HOMELESS) as folder:
        made = Meshdp(folder, rights.MARKED, HOMELESS)
        made.make(folder / "mesh.yaml", MESH)
        yield made
        made("down", "--mesh", "small")


def up(meshdp: Meshdp, *before: str) -> Done:
    """`meshdp up`, behind words that take something away."""
    meshdp.prefix = [*before, *meshdp.prefix]
    return meshdp("up", "-f", str(meshdp.folder / "mesh.yaml"), "--detach")


def assert_refused(meshdp: Meshdp, done: Done, problem: str, cure: str) -> None:
    assert done.returncode == 1, done.stdout
    assert problem in done.stderr
    assert cure in done.stderr
    assert not (meshdp.state / "small").exists()


def private(script: str) -> list[str]:
    """Runs what follows in a mount namespace in which this has been done."""
    return ["unshare", "--mount", "sh", "-euc", f'{script}\nexec "$@"', "private"]


def test_user_namespaces_used_up_or_forbidden(meshdp: Meshdp) -> None:
    """The limit is one of the test's own user namespace, which maps every id and forbids further ones."""
    limited = [sys.executable, "-c", LIMITED]
    done = up(meshdp, *limited)
    assert_refused(meshdp, done, "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=15000")


LIMITED = """
import ctypes, os, sys
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    assert ctypes.CDLL(None).unshare(0x10000000) == 0
    os.write(ready[1], b"!")
    os.read(go[0], 1)
    open("/proc/sys/user/max_user_namespaces", "w").write("0")
    os.execvp(sys.argv[1], sys.argv[1:])
os.read(ready[0], 1)
for name in ("uid_map", "gid_map"):
    open(f"/proc/{child}/{name}", "w").write("0 0 100000")
os.write(go[1], b"!")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_covered_proc(meshdp: Meshdp) -> None:
    done = up(meshdp, *private("mount --bind /dev/null /proc/keys || mount --bind /dev/null /proc/version"))
    assert_refused(meshdp, done, "mount on /proc: Operation not permitted", "systempaths=unconfined")


def test_without_newuidmap_packets_are_marked(meshdp: Meshdp) -> None:
    hide = "for tool in newuidmap newgidmap; do [ ! -e /usr/bin/$tool ] || mount --bind /dev/null /usr/bin/$tool; done"
    done = up(meshdp, *private(hide))
    assert done.returncode == 0, done.stderr
    assert "told apart by a packet mark: newuidmap and newgidmap not found (Debian: uidmap)" in done.stdout
    assert meshdp.state_of("small")["rights"] == rights.MARKED


def test_without_lent_ids_packets_are_marked(meshdp: Meshdp) -> None:
    if shutil.which("newuidmap") is None:
        pytest.skip("newuidmap is not installed: apt-get install uidmap")
    done = up(meshdp)
    assert done.returncode == 0, done.stderr
    assert "no subordinate ids for this user in /etc/subuid and /etc/subgid" in done.stdout


def test_ids_that_are_not_lent_after_all(meshdp: Meshdp) -> None:
    """What the file says and what newuidmap grants may differ: the mesh goes on with marks."""
    if shutil.which("newuidmap") is None:
        pytest.skip("newuidmap is not installed: apt-get install uidmap")
    refusing = meshdp.folder / "newgidmap"
    refusing.write_text("#!/bin/sh\necho 'gid range not allowed' >&2\nexit 1\n")
    refusing.chmod(0o755)
    with folder_for(rights.OWNER) as folder:
        other = Meshdp(folder, rights.OWNER)
        other.make(folder / "mesh.yaml", MESH)
        try:
            done = up(other, *private(f"mount --bind {refusing} /usr/bin/newgidmap"))
            assert done.returncode == 0, done.stderr
            assert "packet mark: newgidmap refused: gid range not allowed" in done.stdout
        finally:
            other("down", "--mesh", "small")


def test_the_sockets_of_the_users_session_are_hidden_from_applications(meshdp: Meshdp) -> None:
    """Over them a program of the same user has others started outside the mesh."""
    session = "mkdir -p /run/user; mount -t tmpfs none /run/user; mkdir /run/user/session; touch /run/user/session/bus"
    shown = 'echo "$(ls -A /run/user/session)"'
    assert subprocess.run([*private(session), "sh", "-c", shown], capture_output=True, check=True).stdout == b"bus\n"
    assert up(meshdp, *private(session)).returncode == 0
    assert meshdp("exec", "web", "--", "ls", "-A", "/run/user").stdout == ""


def test_with_root_the_sockets_of_the_callers_session_are_hidden_too() -> None:
    """With sudo applications are the caller: what they have started outside would not be in the mesh."""
    session = "mkdir -p /run/user; mount -t tmpfs none /run/user; mkdir /run/user/session; touch /run/user/session/bus"
    with folder_for(rights.ROOT) as folder:
        meshdp = Meshdp(folder, rights.ROOT)
        meshdp.make(folder / "mesh.yaml", MESH)
        try:
            assert up(meshdp, *private(session)).returncode == 0
            assert meshdp("exec", "web", "--", "ls", "-A", "/run/user").stdout == ""
        finally:
            meshdp("down", "--mesh", "small")


WITH_A_KEY = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
own, session = ctypes.c_long(1), ctypes.c_long(-3)
libc.syscall(250, own, None)
if libc.syscall(248, b"user", b"meshdp-test", b"secret", ctypes.c_size_t(6), session) < 0:
    sys.exit("no key")
os.execvp(sys.argv[1], sys.argv[1:])
"""
LOOK_FOR_THE_KEY = """
import ctypes
search, session = ctypes.c_long(10), ctypes.c_long(-3)
found = ctypes.CDLL(None).syscall(250, search, session, b"user", b"meshdp-test", ctypes.c_long(0))
print("found" if found > 0 else "missing", flush=True)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of its calls differ elsewhere")
def test_the_keys_of_the_users_session_stay_out_of_the_mesh(meshdp: Meshdp) -> None:
    """A keyring goes from process to process, whatever user each is: with sudo it would be root's."""
    look = meshdp.make(meshdp.folder / "look.py", LOOK_FOR_THE_KEY)
    meshdp.make(
        meshdp.folder / "mesh.yaml", MESH.replace("sleep, infinity", f"sh, -c, python3 {look} && sleep infinity")
    )
    with_a_key = [sys.executable, "-c", WITH_A_KEY]
    control = subprocess.run([*with_a_key, sys.executable, str(look)], capture_output=True, text=True, check=True)
    assert control.stdout == "found\n"
    assert up(meshdp, *with_a_key).returncode == 0
    wait_until(lambda: meshdp("logs", "web").stdout)
    assert meshdp("logs", "web").stdout == "missing\n"
    assert meshdp("exec", "web", "--", "python3", str(look)).stdout == "missing\n"


@pytest.mark.parametrize("home", ["missing", "closed", "unset"])
def test_without_a_home_state_goes_elsewhere(meshdp: Meshdp, home: str) -> None:
    closed = meshdp.folder / "closed"
    closed.mkdir(mode=0o700)  # root's
    shared = Path(f"/tmp/meshdp-{HOMELESS}")
    meshdp.env = {
        name: value for name, value in meshdp.env.items() if not name.startswith(("MESHDP_STATE", "XDG_", "HOME"))
    }
    meshdp.env |= {"missing": {"HOME": "/nowhere"}, "closed": {"HOME": str(closed)}, "unset": {}}[home]
    assert up(meshdp).returncode == 0
    assert (shared.stat().st_mode & 0o777, shared.stat().st_uid) == (0o700, HOMELESS)
    assert meshdp("ps").returncode == 0
    assert meshdp("exec", "web", "--", "true").returncode == 0
    assert meshdp("down").returncode == 0
    assert not shared.exists()


@pytest.mark.parametrize("trap", ["link", "open", "anothers"])
def test_a_state_folder_that_someone_else_made_is_refused(meshdp: Meshdp, trap: str) -> None:
    shared = Path(f"/tmp/meshdp-{HOMELESS}")
    meshdp.env = {name: value for name, value in meshdp.env.items() if not name.startswith(("MESHDP_STATE", "XDG_"))}
    meshdp.env["HOME"] = "/nowhere"
    elsewhere = meshdp.folder / "elsewhere"
    elsewhere.mkdir()
    os.chown(elsewhere, HOMELESS, HOMELESS)
    try:
        if trap == "link":
            shared.symlink_to(elsewhere)
        else:
            shared.mkdir(mode=0o777 if trap == "open" else 0o700)
            shared.chmod(0o777 if trap == "open" else 0o700)
            os.chown(shared, *((HOMELESS, HOMELESS) if trap == "open" else (1, 1)))
        for words in (("up", "-f", str(meshdp.folder / "mesh.yaml"), "--detach"), ("ps",)):
            done = meshdp(*words)
            assert done.returncode == 1, done.stdout
            assert f"{shared} must be a folder that belongs to user {HOMELESS}" in done.stderr
            assert "MESHDP_STATE_DIR" in done.stderr
        assert list(elsewhere.iterdir()) == []
    finally:
        shared.unlink() if shared.is_symlink() else shared.rmdir()


def test_a_state_folder_too_deep_for_sockets_is_refused(meshdp: Meshdp) -> None:
    meshdp.env["MESHDP_STATE_DIR"] = str(meshdp.folder / ("deep" * 25))
    done = meshdp("up", "-f", str(meshdp.folder / "mesh.yaml"))
    assert done.returncode == 2
    assert "a socket's path holds 107 bytes" in done.stderr
    assert "MESHDP_STATE_DIR=/tmp/mesh" in done.stderr


def test_after_a_crash_an_ordinary_user_clears_what_is_left(meshdp: Meshdp) -> None:
    with folder_for(rights.OWNER) as folder:
        if shutil.which("newuidmap") is None:
            pytest.skip("newuidmap is not installed: apt-get install uidmap")
        lent = Meshdp(folder, rights.OWNER)  # files of sidecars, which have a user of their own, are among it
        lent.make(folder / "mesh.yaml", MESH)
        assert up(lent).returncode == 0
        state = lent.state_of("small")
        os.kill(state["supervisor"]["pid"], 9)
        row = state["instances"][0]
        wait_until(
            lambda: (
                not any(Path(f"/proc/{pid}").exists() for pid in (row["holder"]["pid"], row["sidecar_pid"], row["pid"]))
            )
        )
        down = lent("down")
        assert (down.returncode, down.stdout) == (0, "mesh small was down; nothing is left of it\n")
        assert not lent.state.exists()


@pytest.mark.parametrize("marked", [True, False])
def test_workers_that_mark_share_a_listener_that_nobody_joins(tmp_path: Path, marked: bool) -> None:
    """Three workers serve the port; another process of the same user joins it only where there is no mark (the control)."""
    flags = ["--concurrency", "3", "--workload", "a/b", "--feed", "/nowhere", *(["--mark", "0x539"] if marked else [])]
    with Sidecar(tmp_path, *flags) as sidecar:
        until(lambda: answers(sidecar.ports["inbound"]), "the port is open")
        assert all(answers(sidecar.ports["outbound"]) for _ in range(30))
        with socket.socket() as joined:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                joined.setsockopt(socket.SOL_SOCKET, option, 1)
            code = 0
            try:
                joined.bind(("127.0.0.1", sidecar.ports["inbound"]))
            except OSError as error:
                code = error.errno or -1
        assert code == (errno.EADDRINUSE if marked else 0)


def answers(port: int) -> bool:
    """Somebody takes the connection and ends it: it was not redirected, so it leads nowhere."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            return connection.recv(1) == b""
    except ConnectionRefusedError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    ("setting", "value", "code", "cure"),
    [
        ("kernel/unprivileged_userns_clone", "0", errno.EPERM, "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            errno.EACCES,
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("user/max_net_namespaces", "0", errno.ENOSPC, "sysctl -w user.max_net_namespaces=15000"),
        ("user/max_user_namespaces", "7", errno.ENOSPC, "raise user.max_user_namespaces"),
        ("user/max_user_namespaces", "7", errno.EPERM, "seccomp=unconfined"),
        ("kernel/other", "0", errno.EINVAL, "CONFIG_USER_NS"),
    ],
)
def test_settings_that_this_kernel_may_lack_are_named_with_their_cure(
    tmp_path: Path, setting: str, value: str, code: int, cure: str
) -> None:
    file = tmp_path / setting
    file.parent.mkdir()
    file.write_text(f"{value}\n")
    refused = rights.refusal(OSError(code, os.strerror(code)), tmp_path)
    assert cure in str(refused.hint)


def test_bytecode_of_the_checkout_is_not_needed(meshdp: Meshdp) -> None:
    """Another user may run a checkout that is not theirs: nothing is written into it."""
    done = subprocess.run(
        ["setpriv", "--reuid", str(HOMELESS), "--regid", str(HOMELESS), "--clear-groups", sys.executable, "-m", "meshdp", "ps", "-o", "json"],
        capture_output=True, text=True, check=False, env=meshdp.env | {"PYTHONPYCACHEPREFIX": "/proc/nowhere"},
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "no mesh is up" in done.stderr
    assert json.dumps(done.stdout) == '""'


def test_an_authority_spoiled_after_a_crash_is_named_with_its_cure(meshdp: Meshdp) -> None:
    assert up(meshdp).returncode == 0
    os.kill(meshdp.state_of("small")["supervisor"]["pid"], signal.SIGKILL)
    (meshdp.state / "small" / "authority" / "root-key.pem").write_text("spoiled")
    wait_until(lambda: "no mesh is up" in meshdp("ps").stderr)
    done = meshdp("up", "-f", str(meshdp.folder / "mesh.yaml"), "--detach")
    assert done.returncode == 1, done.stdout
    assert f"remove {meshdp.state / 'small' / 'authority'} to have a new root made" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_resolver_file_that_is_a_link_is_replaced_and_closed_too(meshdp: Meshdp) -> None:
    """As systemd-resolved has it: what is mounted is where the link leads."""
    etc, led_to = meshdp.folder / "etc", meshdp.folder / "stub"
    linked = f"cp -a /etc {etc}; touch {led_to}; chmod 666 {led_to}; ln -sf {led_to} {etc}/resolv.conf"
    assert up(meshdp, *private(f"{linked}; mount --bind {etc} /etc")).returncode == 0
    assert "nameserver 127.0.0.1" in meshdp("exec", "web", "--", "cat", "/etc/resolv.conf").stdout
    done = meshdp("exec", "web", "--", "sh", "-c", "echo changed > /etc/resolv.conf")
    assert "Read-only file system" in done.stderr
    assert led_to.read_text() == ""
