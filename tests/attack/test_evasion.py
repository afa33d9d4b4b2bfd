"""What an application tries in order to get past its own sidecar, with every kind of rights a mesh runs with.

In:     programs run inside a workload exactly as its application runs: same user, same namespaces, same lack of rights.
Fails:  anything that works. Each program says what it got; the kernel's refusal is what is expected.
Source: DESIGN section 2 (why a mark is enough), `src/meshdp/local/isolation/launch.py` (what an application is left with).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshdp.local.isolation import rights
from tests.support.captured import SIDECAR_SOURCE, Captured, captured
from tests.support.local_mesh import alive, wait_until
from tests.support.ordinary import ALL_RIGHTS, user_of

# Tries each program in a child of its own and prints what each came to: "it worked", an errno, or an exception's name.
DRIVER = """\
import ctypes, json, os, signal, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *words):
    if getattr(libc, name)(*words) < 0:
        raise OSError(ctypes.get_errno(), name)
def own_users():
    uid, gid = os.getuid(), os.getgid()
    call("unshare", 0x10000000)
    open("/proc/self/setgroups", "w").write("deny")
    open("/proc/self/uid_map", "w").write(f"0 {uid} 1")
    open("/proc/self/gid_map", "w").write(f"0 {gid} 1")
def change_rules():
    subprocess.run(["iptables", "-t", "nat", "-F"], check=True, env={"PATH": "/usr/sbin:/sbin:/usr/bin"}, stderr=-3)
def attempt(program):
    try:
        exec(program, globals())
    except OSError as error:
        return f"errno {error.errno}"
    except BaseException as error:
        return type(error).__name__
    return "it worked"
programs, state = json.loads(sys.argv[1]), sys.argv[2]
came = {}
for name, program in programs.items():
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, attempt(program).encode())
        os._exit(0)
    os.close(writer)
    came[name] = open(reader).read()
    os.wait()
print(json.dumps(came))
"""

EVASIONS = {
    "mark_the_packet": "socket.socket().setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x539)",
    "mark_the_packet_of_one_message": """
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", 0x539))], 0, ("10.244.0.1", 53))""",
    "mark_from_a_user_namespace_of_its_own": """
own_users()
socket.socket().setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x539)""",
    "raw_socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)",
    "raw_socket_from_a_user_namespace_of_its_own": """
own_users()
socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)""",
    "packet_socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "packet_socket_from_a_user_namespace_of_its_own": "own_users(); socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "become_the_sidecar's_user": "os.setuid(1337)",
    "become_the_sidecar's_group": "os.setgid(1337)",
    "change_the_rules": "change_rules()",
    "change_the_rules_from_a_user_namespace_of_its_own": "own_users(); change_rules()",
    "leave_for_the_network_of_process_1": """
call("setns", os.open("/proc/1/ns/net", os.O_RDONLY), 0)""",
    "enter_the_users_of_process_1": """
call("setns", os.open("/proc/1/ns/user", os.O_RDONLY), 0)""",
    "enter_its_own_users_again": """
call("setns", os.open("/proc/self/ns/user", os.O_RDONLY), 0)""",
    "trace_process_1": "call('ptrace', 16, 1, 0, 0)",
    "read_the_memory_of_process_1": "open('/proc/1/mem', 'rb')",
    "write_the_memory_of_process_1": """
buffer = ctypes.create_string_buffer(8)
class Span(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
local, remote = Span(ctypes.addressof(buffer), 8), Span(0x400000, 8)
call("process_vm_writev", 1, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)""",
    "open_the_files_of_process_1": "os.stat('/proc/1/fd/0'); open('/proc/1/fd/0')",
    "take_a_descriptor_of_process_1": """
call("syscall", 438, os.pidfd_open(1), 0, 0)  # pidfd_getfd""",
    "uncover_the_meshs_state": """
own_users()
call("unshare", 0x20000)
call("umount2", state.encode(), 2)""",
    "rewrite_the_meshs_hosts_file": "open('/etc/hosts', 'r+')",
    "rewrite_the_meshs_resolver_file": "open('/etc/resolv.conf', 'r+')",
    "open_the_meshs_hosts_file_to_everybody": "os.chmod('/etc/hosts', 0o666)",
    "make_the_mesh_wait_for_a_lease": """
import fcntl
fcntl.fcntl(os.open("/etc/hosts", os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)""",
    "turn_on_ipv6": "open('/proc/sys/net/ipv6/conf/all/disable_ipv6', 'w').write('0')",
}
# The control: what an application may do is seen as done.
ALLOWED = {"make_users_of_its_own": "own_users()", "make_a_socket": "socket.socket()"}
# EPERM, EACCES, EROFS; EINVAL for an id that the namespace does not know, one's own user namespace, a locked mount;
# EAGAIN for a lease on a file that is open for writing.
REFUSALS = ("errno 1", "errno 13", "errno 30", "errno 22", "errno 11", "CalledProcessError")

SIDECAR_PORTS = (15000, 15001, 15006, 15020, 15021, 15090)
SHARE = """
joined = socket.socket()
joined.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
joined.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
joined.bind(({address!r}, {port}))
joined.listen()"""
ADDRESS_IN_USE = "errno 98"


@pytest.fixture(scope="module", params=ALL_RIGHTS)
def mesh(request: pytest.FixtureRequest) -> Iterator[Captured]:
    with captured(request.param) as made:
        yield made


def attempted(mesh: Captured, programs: dict[str, str]) -> dict[str, str]:
    """What each program came to as an application of `client`."""
    done = mesh.run("client", DRIVER, json.dumps(programs), str(mesh.meshdp.state))
    assert done.returncode == 0, done.stderr
    came: dict[str, str] = json.loads(done.stdout)
    return came


@pytest.fixture(scope="module")
def came_to(mesh: Captured) -> dict[str, str]:
    return attempted(mesh, EVASIONS | ALLOWED)


@pytest.mark.parametrize("evasion", EVASIONS)
def test_an_application_cannot(came_to: dict[str, str], evasion: str) -> None:
    assert came_to[evasion] in REFUSALS
    assert {came_to[control] for control in ALLOWED} == {"it worked"}


def test_an_application_cannot_share_a_port_of_its_sidecar(mesh: Captured) -> None:
    """Listeners with SO_REUSEPORT are open to every process of their user, and the application may be one."""
    addresses = ("0.0.0.0", "127.0.0.1", mesh.address("client"))
    wanted = [(address, port) for address in addresses for port in SIDECAR_PORTS]
    # The admin port is bound on loopback alone: on its own address the port is the application's to use.
    wanted.remove((mesh.address("client"), 15000))
    programs = {f"{address}:{port}": SHARE.format(address=address, port=port) for address, port in wanted}
    control = {"free": SHARE.format(address="0.0.0.0", port=18000)}
    assert attempted(mesh, programs | control) == dict.fromkeys(programs, ADDRESS_IN_USE) | {"free": "it worked"}


def test_an_application_sees_and_signals_neither_its_sidecar_nor_the_mesh(mesh: Captured) -> None:
    script = """
import os, signal
seen = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
for pid in range(1, 5000):
    if pid != os.getpid():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        except PermissionError:
            pass
        assert pid in seen, pid
for name in map(str, seen):
    words = open(f"/proc/{name}/cmdline", "rb").read().split(b"\\0")
    assert b"sidecar" not in words, words
os.kill(1, signal.SIGKILL)  # what keeps the namespaces is process 1 inside, out of reach
os.kill(1, signal.SIGSTOP)
print(len(seen))"""
    before = mesh.instance("client")
    done = mesh.run("client", script)
    if mesh.mode == rights.ROOT and os.geteuid() != 0:
        assert "PermissionError" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
    after = mesh.instance("client")
    assert (after["sidecar_pid"], after["holder"], after["restarts"]) == (before["sidecar_pid"], before["holder"], 0)
    assert all(alive(pid) for pid in (after["holder"]["pid"], after["sidecar_pid"]))


def test_an_application_does_not_reach_the_feed(mesh: Captured) -> None:
    """Whoever speaks on a feed gets its workload's identity: a folder hides the socket, and no other name leads to it."""
    script = """
import os, socket, sys
assert os.listdir(sys.argv[1]) == [], os.listdir(sys.argv[1])
for name in (line.split()[7] for line in open("/proc/net/unix").read().splitlines()[1:] if len(line.split()) > 7):
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.connect(name.replace("@", "\\0", 1) if name.startswith("@") else name)
    except OSError as error:
        print(type(error).__name__)
        continue
    # The sidecar's exclusive name takes connections into its queue and answers none.
    peer.settimeout(0.2)
    peer.send(b"\\0\\0\\0\\3H{}")
    try:
        print("answered" if peer.recv(1) else "closed", name)
    except TimeoutError:
        print("silent", name)"""
    done = mesh.run("client", script, str(mesh.meshdp.state))
    assert done.returncode == 0, done.stderr
    assert "answered" not in done.stdout, done.stdout


TYPE_INTO_THE_TERMINAL = """
import fcntl, os, termios
for descriptor in (0, 1, 2, os.open("/dev/tty", os.O_RDWR)):
    for key in b"evil\\n":
        try:
            fcntl.ioctl(descriptor, termios.TIOCSTI, bytes([key]))
        except OSError:
            pass
print("tried", os.isatty(0), os.isatty(1), os.get_terminal_size().columns, flush=True)
"""


def test_a_command_of_exec_types_nothing_into_the_terminal_that_it_came_from(mesh: Captured) -> None:
    """What is typed there runs outside the mesh, as the person who called `meshdp exec`."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 123))
    shell = [
        "setsid",
        "--ctty",
        "sh",
        "-c",
        '"$@"; echo back; read -r line; echo "read $line."',
        "sh",
        *mesh.meshdp.prefix,
    ]
    words = [sys.executable, "-m", "meshdp", "exec", "client", "--", "python3", "-c", TYPE_INTO_THE_TERMINAL]
    with subprocess.Popen([*shell, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=mesh.meshdp.env) as person:
        os.close(theirs)
        said = b""
        while b"back" not in said:
            said += os.read(ours, 1024)
        os.write(ours, b"honest\n")
        while b"read " not in said or not said.endswith(b".\r\n"):
            said += os.read(ours, 1024)
        assert person.wait(60) == 0
    os.close(ours)
    assert b"tried True True 123" in said, "the control: it had a terminal"
    assert b"read honest." in said, said


def test_the_exclusive_name_taken_by_an_application_hurts_only_itself(mesh: Captured) -> None:
    """A sidecar that finds its name taken does not start: until it is free, nothing passes in or out."""
    script = """
import socket, time
taken = socket.socket(socket.AF_UNIX)
print("waiting", flush=True)
until = time.monotonic() + 30
while time.monotonic() < until:
    try:
        taken.bind("\\0meshdp/sidecar")
        break
    except OSError:
        time.sleep(0.001)
print("taken", flush=True)
time.sleep(60)"""
    row, supervisor = mesh.instance("client"), mesh.state()["supervisor"]["pid"]
    with mesh.meshdp.start("exec", "--mesh", "captured", "client", "--", "python3", "-c", script) as thief:
        try:
            assert thief.stdout is not None
            assert thief.stdout.readline() == "waiting\n"
            os.kill(supervisor, signal.SIGSTOP)  # nobody restarts anything until the name is taken
            try:
                os.kill(row["sidecar_pid"], signal.SIGKILL)
                assert thief.stdout.readline() == "taken\n"
            finally:
                os.kill(supervisor, signal.SIGCONT)
            wait_until(lambda: "another sidecar runs in this network namespace" in mesh.instance("client")["message"])
            assert "web" not in mesh.get("client", (mesh.address("web"), 80))
            assert SIDECAR_SOURCE in mesh.get("stranger", (mesh.address("web"), 80)), "the others go on"
        finally:
            thief.send_signal(signal.SIGTERM)
            thief.wait()
    wait_until(lambda: mesh.instance("client")["phase"] == "ready")
    assert SIDECAR_SOURCE in mesh.get("client", (mesh.address("web"), 80))


def test_a_sidecar_is_closed_to_other_processes_of_its_user(mesh: Captured) -> None:
    """What the kernel calls not dumpable: its files in /proc are root's, whoever it runs as."""
    row = mesh.instance("web")
    owners = {name: Path(f"/proc/{row[name]}/mem").stat().st_uid for name in ("pid", "sidecar_pid")}
    assert owners == {"pid": user_of(mesh.mode), "sidecar_pid": 0}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to look into a sidecar")
def test_a_sidecar_that_is_taken_over_finds_no_key_and_no_other_feed(mesh: Captured) -> None:
    """Whoever speaks on a feed gets its workload's identity, and all sidecars are the same user."""
    owned = {}
    for workload in ("client", "web"):
        state = Path(f"/proc/{mesh.instance(workload)['sidecar_pid']}/root") / mesh.meshdp.state.relative_to("/")
        owned[workload] = [str(path.relative_to(state)) for path in state.rglob("*") if not path.is_dir()]
    assert [len(files) for files in owned.values()] == [1, 1], owned
    assert owned["client"] != owned["web"]
    for files in owned.values():
        assert files[0].startswith("captured/feed/") and files[0].endswith("/feed.sock")
    assert (mesh.meshdp.state / "captured" / "authority" / "root-key.pem").exists(), (
        "the control: there is more outside"
    )
