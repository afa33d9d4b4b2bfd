"""Runs the real meshdp-init in fresh network namespaces and judges it by connections and by `iptables-save`.

In:      two namespaces a test, `pod` and `peer`, joined by a veth pair; small listeners that answer with the port they
         listen on and with the original destination of the connection.
Fails:   a connection that goes where it should not, a rule that differs, a message without its cure.
Limits:  needs root for namespaces; skipped with a reason otherwise. Nothing outside these namespaces is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFORMANCE = Path(os.environ.get("MESHDP_CONFORMANCE", ROOT.parent / "shared" / "conformance"))
SCENARIOS = CONFORMANCE / "interception" / "idempotence_scenarios.json"
LISTED = ROOT / "tests" / "conformance" / "unsupported" / "interception.json"
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "iptables-nft", "iptables-nft-save", "iptables-legacy", "ip6tables")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

POD, PEER = "10.77.0.1", "10.77.0.2"
APPLICATION, PROXY = 1000, 1337
EVERYTHING = ("-b", "*", "-i", "*", "-d", "15020")

LISTENER = """
import selectors, socket, struct, sys
selector = selectors.DefaultSelector()
for port in sys.argv[1:]:
    selector.register(socket.create_server(("0.0.0.0", int(port)), backlog=16), selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in selector.select():
        accepted, peer = key.fileobj.accept()
        local = accepted.getsockname()
        try:
            raw = accepted.getsockopt(socket.SOL_IP, 80, 16)
            original = (socket.inet_ntoa(raw[4:8]), struct.unpack("!H", raw[2:4])[0])
        except OSError:
            original = local
        said = "direct" if original == local else f"{original[0]}:{original[1]}"
        accepted.sendall(f"{local[1]} {said}".encode())
        accepted.close()
"""

DIALLER = """
import os, socket, sys
address, port, uid, gid, source = sys.argv[1:]
os.setgroups([]); os.setgid(int(gid)); os.setuid(int(uid))
connection = socket.socket()  # made after the change of user: the owner match looks at who made the socket
connection.settimeout(5)
try:
    if source:
        connection.bind((source, 0))
    connection.connect((address, int(port)))
    print(connection.recv(100).decode())
except OSError as error:
    print(type(error).__name__)
"""


class Namespace:
    """A network namespace that lives as long as the process that holds it."""

    def __init__(self) -> None:
        """Waits until the holder has left our own namespace."""
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        self.listeners: list[subprocess.Popen[str]] = []
        ours = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + 20
        while os.readlink(f"/proc/{self.holder.pid}/ns/net") == ours:
            assert time.monotonic() < deadline, "the namespace did not come up"
            time.sleep(0.005)
        self.must("ip", "link", "set", "lo", "up")

    def run(self, *command: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a command inside."""
        words = ["nsenter", "--net", "--target", str(self.holder.pid), *map(str, command)]
        environment = os.environ | (env or {})
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def must(self, *command: str) -> str:
        """Runs a command inside that has to work, and returns what it printed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def listen(self, *ports: int) -> None:
        """Starts the listener and waits until its ports are open."""
        words = ["nsenter", "--net", "--target", str(self.holder.pid), sys.executable, "-c", LISTENER, *map(str, ports)]
        listener = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.listeners.append(listener)
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"

    def dial(self, address: str, port: int, uid: int = APPLICATION, source: str = "") -> str:
        """Connects as this user and returns the answer: who was reached, and the original destination."""
        return self.must(sys.executable, "-c", DIALLER, address, str(port), str(uid), str(uid), source).strip()

    def rules(self, program: str = "iptables-nft") -> list[str]:
        """The rules in force."""
        return [line for line in self.must(f"{program}-save").splitlines() if line.startswith("-A")]

    def chains(self, program: str = "iptables-nft") -> list[str]:
        """The chains that are ours."""
        lines = self.must(f"{program}-save").splitlines()
        return [line.split()[0][1:] for line in lines if line.startswith(":ISTIO_")]

    def end(self) -> None:
        """Ends what this namespace started; the kernel removes the rest."""
        processes: list[subprocess.Popen[Any]] = [*self.listeners, self.holder]
        for process in processes:
            process.terminate()
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture(scope="session")
def init() -> Path:
    """The program under test: named by MESHDP_INIT, as installed, or the newest build."""
    named = os.environ.get("MESHDP_INIT")
    installed = ROOT / "src" / "meshdp" / "bin" / "meshdp-init"
    if named or installed.exists():
        return Path(named) if named else installed
    built = [*ROOT.glob("target/*/meshdp-init"), *ROOT.glob("target/*/*/meshdp-init")]
    if not built:
        pytest.fail("meshdp-init is not built: `cargo build -p meshdp-init`, or name it in MESHDP_INIT")
    return max(built, key=lambda path: path.stat().st_mtime)


@pytest.fixture
def pod() -> Iterator[Namespace]:
    """A namespace with loopback only."""
    namespace = Namespace()
    yield namespace
    namespace.end()


@pytest.fixture
def pair(pod: Namespace) -> Iterator[tuple[Namespace, Namespace]]:
    """The pod with proxy and application listeners, and a peer that it reaches, which is also its way out."""
    peer = Namespace()
    holder = str(peer.holder.pid)
    pod.must("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", holder)
    for namespace, address, other in ((pod, POD, PEER), (peer, PEER, POD)):
        namespace.must("ip", "address", "add", f"{address}/24", "dev", "eth0")
        namespace.must("ip", "link", "set", "eth0", "up")
        namespace.must("ip", "route", "add", "default", "via", other)
    pod.listen(15001, 15006, 15008, 15020, 8080, 8081)
    peer.listen(8080, 9999)
    yield pod, peer
    peer.end()


def test_nothing_is_redirected_without_rules(pair: tuple[Namespace, Namespace]) -> None:
    """A test of the test: the listeners tell a redirected connection from a direct one."""
    pod, peer = pair
    assert pod.dial(PEER, 8080) == "8080 direct"
    assert peer.dial(POD, 8080) == "8080 direct"


def test_everything_is_redirected_to_the_proxy(pair: tuple[Namespace, Namespace], init: Path) -> None:
    """Outbound goes to 15001, inbound to 15006, both with their original destination."""
    pod, peer = pair
    done = pod.run(init, *EVERYTHING, "-o", "9999")
    assert (done.returncode, done.stdout) == (0, "18 rules are in force (iptables-nft)\n"), done.stderr
    assert pod.dial(PEER, 8080) == f"15001 {PEER}:8080"
    assert pod.dial("192.0.2.7", 80) == "15001 192.0.2.7:80"
    assert peer.dial(POD, 8080) == f"15006 {POD}:8080"
    assert peer.dial(POD, 15020) == "15020 direct", "-d"
    assert peer.dial(POD, 15008) == "15008 direct", "the tunnel port"
    assert pod.dial(PEER, 9999) == "9999 direct", "-o"


def test_loops_are_avoided(pair: tuple[Namespace, Namespace], init: Path) -> None:
    """The application talks to itself directly; the proxy reaches out directly, and its own workload as inbound."""
    pod, _ = pair
    assert pod.run(init, *EVERYTHING).returncode == 0
    assert pod.dial("127.0.0.1", 8080) == "8080 direct", "application to loopback"
    assert pod.dial(POD, 8080) == "8080 direct", "application to its own address"
    assert pod.dial(PEER, 8080, uid=PROXY) == "8080 direct", "proxy to another workload"
    assert pod.dial(POD, 8080, uid=PROXY) == f"15006 {POD}:8080", "proxy to its own workload by its address"
    assert pod.dial(POD, 8080, uid=PROXY, source="127.0.0.6") == "8080 direct", "proxy to its application"
    assert pod.dial("127.0.0.1", 8080, uid=PROXY) == "8080 direct", "proxy to loopback"


def test_only_what_is_listed_is_redirected(pair: tuple[Namespace, Namespace], init: Path) -> None:
    """Lists of ports and ranges, with a hole, other proxy ports and another user."""
    pod, peer = pair
    flags = ("-b", "8081", "-i", "192.0.2.0/24", "-x", "192.0.2.128/25", "-q", "9999", "-u", "42")
    assert pod.run(init, *flags).returncode == 0
    peer.must("ip", "address", "add", "192.0.2.200/32", "dev", "lo")
    assert peer.dial(POD, 8081) == f"15006 {POD}:8081"
    assert peer.dial(POD, 8080) == "8080 direct"
    assert pod.dial("192.0.2.7", 80) == "15001 192.0.2.7:80"
    assert pod.dial("192.0.2.7", 80, uid=PROXY) == "15001 192.0.2.7:80", "1337 is nobody special here"
    assert pod.dial("192.0.2.200", 8080) == "8080 direct", "-x"
    assert pod.dial(PEER, 9999) == f"15001 {PEER}:9999"
    assert pod.dial(PEER, 9999, uid=42) == "9999 direct"
    assert pod.dial(PEER, 8080) == "8080 direct"


def test_cap12_a_dead_proxy_refuses(pair: tuple[Namespace, Namespace], init: Path) -> None:
    """While the rules stay and nobody listens, nothing passes by."""
    pod, peer = pair
    assert pod.run(init, *EVERYTHING, "-p", "16001", "-z", "16006").returncode == 0
    assert pod.dial(PEER, 8080) == "ConnectionRefusedError"
    assert peer.dial(POD, 8080) == "ConnectionRefusedError"


def test_excluded_and_rerouted_interfaces(pair: tuple[Namespace, Namespace], init: Path) -> None:
    """-c leaves eth0 alone; -k treats what comes in through it as outbound."""
    pod, peer = pair
    assert pod.run(init, *EVERYTHING, "-c", "eth0").returncode == 0
    assert (pod.dial(PEER, 8080), peer.dial(POD, 8080)) == ("8080 direct", "8080 direct")
    assert pod.run(init, "--cleanup-only", "-c", "eth0").returncode == 0
    assert pod.rules() == []
    assert pod.run(init, *EVERYTHING, "-k", "eth0").returncode == 0
    assert peer.dial(POD, 8080) == f"15001 {POD}:8080"


def test_the_rules_in_force_are_istios(pod: Namespace, init: Path) -> None:
    """Every rule as iptables-save writes it, in order."""
    assert pod.run(init, *EVERYTHING, "-x", "10.9.0.0/16").returncode == 0
    expected = """
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -d 10.9.0.0/16 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
"""
    assert pod.rules() == expected.strip().splitlines()


def test_in01_a_killed_run_leaves_all_or_nothing(pod: Namespace, init: Path) -> None:
    """Killed together with what it called, at many moments: the next run always completes or finds it complete."""
    for delay_ms in range(0, 40, 4):
        words = ["nsenter", "--net", "--target", str(pod.holder.pid), str(init), *EVERYTHING]
        run = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(delay_ms / 1000)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait(20)
        assert len(pod.chains()) in {0, 4}, f"after {delay_ms} ms"
        done = pod.run(init, *EVERYTHING)
        assert done.returncode == 0, f"after {delay_ms} ms: {done.stderr}"
        assert pod.run(init, "--cleanup-only").returncode == 0


@pytest.mark.parametrize("binary", ["nft", "legacy"])
def test_in02_a_second_run_changes_nothing(pod: Namespace, init: Path, binary: str) -> None:
    """The same flags again are a no-op, found without naming the back end; other flags are refused with the cure."""
    program = f"iptables-{binary}"
    assert pod.run(init, *EVERYTHING, "--force-iptables-binary", binary).returncode == 0
    before = pod.rules(program)
    again = pod.run(init, *EVERYTHING)
    assert (again.returncode, again.stdout) == (0, f"16 rules were already in force ({program})\n"), again.stderr
    other = pod.run(init, "-b", "*", "-i", "*")
    assert other.returncode == 1
    assert "nat ISTIO_INBOUND has 3 rules, the plan has 2" in other.stderr
    assert "--cleanup-only" in other.stderr
    assert pod.rules(program) == before


def test_in08_cleanup_removes_ours_and_nothing_else(pod: Namespace, init: Path) -> None:
    """Rules of others stay, before, during and after."""
    foreign = "-A OUTPUT -p tcp -m tcp --dport 123 -j ACCEPT"
    pod.must("iptables-nft", "-t", "nat", *foreign.split())
    assert pod.run(init, *EVERYTHING).returncode == 0
    assert foreign in pod.rules()
    done = pod.run(init, "--cleanup-only")
    assert (done.returncode, done.stdout) == (0, "the rules are removed (iptables-nft)\n"), done.stderr
    assert (pod.rules(), pod.chains()) == ([foreign], [])
    assert pod.run(init, "--cleanup-only").stdout == "there was nothing to remove\n"


def test_in03_half_installed_rules_are_refused_and_cleaned(pod: Namespace, init: Path) -> None:
    """A chain of ours without its rules, a lost rule, a stray chain: each is named, and removed on request."""
    pod.must("iptables-nft", "-t", "nat", "-N", "ISTIO_REDIRECT")
    assert "nat ISTIO_INBOUND is missing" in pod.run(init, *EVERYTHING).stderr
    assert pod.run(init, "--cleanup-only").returncode == 0
    assert pod.run(init, *EVERYTHING).returncode == 0
    pod.must("iptables-nft", "-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT")
    assert "nat OUTPUT lacks `-j ISTIO_OUTPUT`" in pod.run(init, *EVERYTHING).stderr
    pod.must("iptables-nft", "-t", "mangle", "-N", "ISTIO_STRAY")
    stray = pod.run(init, *EVERYTHING)
    assert (stray.returncode, "mangle ISTIO_STRAY is not in the plan" in stray.stderr) == (1, True)
    assert pod.run(init, "--cleanup-only").returncode == 0
    assert (pod.rules(), pod.chains()) == ([], [])


def test_in06_two_back_ends_with_our_chains_are_refused(pod: Namespace, init: Path) -> None:
    """Packets would meet both; the message names both, and one cleanup removes both."""
    for program in ("iptables-nft", "iptables-legacy"):
        pod.must(program, "-t", "nat", "-N", "ISTIO_OUTPUT")
    done = pod.run(init, *EVERYTHING)
    assert done.returncode == 1
    assert "both iptables-legacy and iptables-nft hold ISTIO_ chains" in done.stderr
    assert pod.run(init, "--cleanup-only").returncode == 0
    assert pod.chains("iptables-nft") + pod.chains("iptables-legacy") == []


def test_in06_legacy_is_used_where_it_holds_rules(pod: Namespace, init: Path) -> None:
    """Someone else's legacy rules make legacy the live back end; its lock file is the one that was named."""
    lock = Path(f"/tmp/meshdp-init-test-{os.getpid()}.lock")
    pod.must("iptables-legacy", "-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
    try:
        done = pod.run(init, *EVERYTHING, env={"XTABLES_LOCKFILE": str(lock)})
        assert done.stdout == "16 rules are in force (iptables-legacy)\n", done.stderr
        assert lock.exists()
    finally:
        lock.unlink(missing_ok=True)
    assert pod.chains("iptables-nft") == []


def test_in04_without_net_admin_the_cure_is_named(pod: Namespace, init: Path) -> None:
    """Nothing is changed and one sentence says why."""
    done = pod.run("setpriv", "--bounding-set", "-net_admin", init, *EVERYTHING)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "NET_ADMIN" in done.stderr
    assert pod.rules() == []


def test_without_iptables_the_cure_is_named(pod: Namespace, init: Path, tmp_path: Path) -> None:
    """The sbin folders are hidden in a mount namespace of this one command."""
    hide = f'for d in /usr/sbin /usr/local/sbin /sbin; do mount --bind {tmp_path} $(readlink -f $d); done; exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", hide, "sh", "env", f"PATH={tmp_path}", str(init), *EVERYTHING]
    done = pod.run(*words)
    assert done.returncode == 1
    assert "apt-get install iptables" in done.stderr, done.stderr


def test_uncaptured_ipv6_is_warned_about(pair: tuple[Namespace, Namespace], init: Path) -> None:
    """Link-local addresses are no reason to warn, a routable one is."""
    pod, _ = pair
    assert pod.run(init, *EVERYTHING).stderr == ""
    pod.must("ip", "-6", "address", "add", "fd00::7/64", "dev", "eth0", "nodad")
    warning = pod.run(init, *EVERYTHING).stderr
    assert "eth0 has the IPv6 address fd00::7" in warning
    assert "unfiltered" in warning


def test_the_installed_program_is_static(init: Path) -> None:
    """It runs in images without a C library: no program header asks for an interpreter."""
    if "debug" in init.parts:
        pytest.skip("this is a development build")
    image = init.read_bytes()
    first, size, count = struct.unpack_from("<Q", image, 0x20)[0], *struct.unpack_from("<HH", image, 0x36)
    kinds = [struct.unpack_from("<I", image, first + size * at)[0] for at in range(count)]
    assert 1 in kinds, "PT_LOAD"
    assert 3 not in kinds, "PT_INTERP: build it with RUSTFLAGS='-C target-feature=+crt-static'"


def test_a_dry_run_changes_nothing(pod: Namespace, init: Path) -> None:
    """The document is printed, and iptables-restore accepts it as it is."""
    done = pod.run(init, *EVERYTHING, "--dry-run")
    assert done.returncode == 0
    assert (pod.rules(), pod.chains()) == ([], [])
    restore = ["nsenter", "--net", "--target", str(pod.holder.pid), "iptables-nft-restore", "--noflush"]
    subprocess.run(restore, input=done.stdout, text=True, check=True, timeout=60)
    assert pod.run(init, *EVERYTHING).stdout.startswith("16 rules were already in force")


def scenarios() -> list[Any]:
    """Istio's own scenarios of repeated runs."""
    cases = json.loads(SCENARIOS.read_text())["cases"] if SCENARIOS.exists() else []
    return [pytest.param(case, id=f"interception/idempotence/{case['name']}") for case in cases]


@pytest.mark.parametrize("case", scenarios())
def test_idempotence(init: Path, case: dict[str, Any]) -> None:
    """Replays a scenario for two configurations, each in a namespace of its own."""
    asked = {key for step in case["steps"] for key, value in step.get("run", {}).items() if value is True}
    lacking = {"milestone": "M5", "reason": ", ".join(sorted(asked & {"enable_ipv6", "force_apply", "reconcile"}))}
    entry = json.loads(LISTED.read_text()).get(f"interception/idempotence/{case['name']}", lacking)
    if entry["reason"]:
        pytest.skip(f"unsupported: {entry['milestone']}: {entry['reason']}")
    for flags in (EVERYTHING, ("-b", "80", "-i", "10.0.0.0/8", "-k", "lo")):
        namespace = Namespace()
        try:
            replay_all(case, namespace, [str(init), *flags])
        finally:
            namespace.end()


def replay_all(case: dict[str, Any], pod: Namespace, program: list[str]) -> None:
    """Runs the steps; `residue` is any rule or chain, `delta` whether the plan is not in force."""
    for step in case["steps"]:
        replay(step, lambda *more: pod.run(*program, *more), pod)
    state = case.get("state", {})
    held = [*pod.rules(), *pod.chains(), *pod.rules("ip6tables"), *pod.chains("ip6tables")]
    assert bool(held) == state.get("residue", bool(held))
    for tables, key in (("iptables-nft", "v4_istio_chains"), ("ip6tables", "v6_istio_chains")):
        assert bool(pod.chains(tables)) == case.get(key, bool(pod.chains(tables)))
    if "delta" in state:
        assert ("already in force" not in pod.run(*program).stdout) == state["delta"]


def replay(step: dict[str, Any], run: Callable[..., subprocess.CompletedProcess[str]], pod: Namespace) -> None:
    """One step: a run of the program, or a command of someone else. Without IPv6, ip6tables is never called."""
    if "exec" in step:
        for command in step["exec"].split("; "):
            pod.must(*command.split())
        return
    wanted = dict(step["run"])
    more = ["--cleanup-only"] if wanted.pop("cleanup_only", False) else []
    assert wanted in ({}, {"enable_ipv6": False}, {"enable_ipv6": False, "ip6tables": "missing"}), wanted
    done = run(*more)
    assert done.returncode == step["exit"], done.stderr
