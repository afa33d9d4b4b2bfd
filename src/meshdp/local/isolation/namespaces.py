"""Makes the namespaces of a mesh: one link with a bridge, one set per instance, joined by veth pairs.

In:      addresses and files to bind, from `mesh`; the rights that `rights` has taken.
Out:     `Holder`s: a holder is process 1 of its own process, mount and network namespaces and does nothing but keep
         them; its keeper is process 1 of the process namespace around it, in which the sidecar lives, out of the
         application's sight and signals. Nothing has a name in the host's file system or network: when one of the two
         dies, so does the other, the kernel ends every process inside and takes namespace, veth and mounts away; both
         die with the process that made them.
Fails:   MeshdpError naming what is missing (iproute2, an open /proc).
Source:  pid_namespaces(7), network_namespaces(7), mount_namespaces(7).
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshdp.errors import MeshdpError
from meshdp.local.addresses import GATEWAY, POD_PREFIX
from meshdp.local.isolation import capabilities, doors, kernel


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that keeps namespaces alive; `started` tells it from a later process with its number.

    keeper: process 1 of the namespace that its sidecar lives in; known to whoever made it.
    """

    pid: int
    started: int
    keeper: int = 0

    @property
    def alive(self) -> bool:
        return kernel.started_at(self.pid) == self.started

    def kill(self) -> None:
        """Ends the holder and, through its process namespace, everything inside."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Files:
    """What an instance sees in place of the machine's own: hosts, resolver, and nothing of the mesh's state."""

    hosts: Path
    resolver: Path
    hidden: tuple[Path, ...]


def make_link() -> Holder:
    """The namespace with the bridge that carries the mesh's traffic; nothing else is reachable from it."""
    link = hold("link", _open_forwarding)
    commands = [
        f"link add {BRIDGE} type bridge mcast_snooping 0",
        f"addr add {GATEWAY}/{POD_PREFIX} dev {BRIDGE}",
        f"link set {BRIDGE} up",
        "link set lo up",
        # What is neither pod nor captured is refused at once instead of timing out.
        "route add unreachable default",
    ]
    try:
        run_ip(link, commands)
    except MeshdpError:
        link.kill()  # nobody knows of it yet
        raise
    return link


def make_instance(name: str, files: Files) -> Holder:
    """The namespaces of one instance, not yet joined to the link."""
    return hold(name, lambda: _furnish(files))


def join(link: Holder, instance: Holder, index: int, address: str) -> None:
    """Gives an instance its address and the way to the link; its end there is named by `port_name`."""
    port = port_name(index)
    create = f"link add {port} type veth peer name {DEVICE} netns /proc/{instance.pid}/ns/net"
    run_ip(link, [create, f"link set {port} master {BRIDGE} up"])
    inside = [
        "link set lo up",
        f"addr add {address}/{POD_PREFIX} dev {DEVICE}",
        f"link set {DEVICE} up",
        f"route add default via {GATEWAY}",
    ]
    run_ip(instance, inside)


def port_name(index: int) -> str:
    """The link's end of an instance's veth pair."""
    return f"port{index}"


def run_ip(holder: Holder, commands: Sequence[str]) -> None:
    """Runs a batch of `ip` commands in a holder's network."""
    run_inside(holder, ["ip", "-batch", "-"], "\n".join(commands) + "\n")


def run_inside(holder: Holder, command: list[str], text: str = "") -> str:
    """Runs one of the machine's tools in a holder's network and gives what it printed.

    Raises:
        MeshdpError: the tool is missing or refused; with what it said.
    """

    def enter() -> None:
        doors.enter_network(holder.pid)
        capabilities.pass_on()

    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env=_TOOLS_ENV,
            preexec_fn=enter,
        )
    except FileNotFoundError as error:
        raise MeshdpError(f"{command[0]} is missing", f"install {PACKAGES.get(command[0], command[0])}") from error
    except (subprocess.SubprocessError, PermissionError) as error:
        raise MeshdpError(f"{command[0]} cannot be run in the network of process {holder.pid}: {error}") from error
    if done.returncode != 0:
        raise MeshdpError(f"{command[0]} failed: {done.stderr.strip() or done.returncode}")
    return done.stdout


def hold(name: str, prepare: Callable[[], None]) -> Holder:
    """Forks a keeper and its holder, which runs `prepare` inside its namespaces before this returns.

    Raises:
        MeshdpError: the kernel refused.
    """
    gc.freeze()  # both share this process's pages; their collectors must not write to them
    reader, writer = os.pipe()
    keeper = kernel.clone(kernel.NEW_PIDS)
    if keeper == 0:
        _be_keeper(name, prepare, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        said = answer.read().decode(errors="replace")
    ready, _, pid = said.partition(" ")
    started = kernel.started_at(int(pid)) if ready == _READY else None
    if started is None:
        os.waitpid(keeper, 0)
        hint = _PROC_HINT if f"mount on /proc: {os.strerror(errno.EPERM)}" in said else None
        raise MeshdpError(f"cannot make the namespaces of {name}: {said}", hint)
    return Holder(int(pid), started, keeper)


def _be_keeper(name: str, prepare: Callable[[], None], writer: int) -> None:
    """The keeper's life: have a holder, collect orphans until it dies, and end all inside by dying. Never returns."""
    try:
        kernel.die_with_parent()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGCHLD})
        os.setsid()
        _close_all_but(writer)
        Path("/proc/self/comm").write_text(f"mdp:{name}"[:15])
        kernel.unshare(kernel.NEW_PIDS)
        holder = os.fork()
        if holder == 0:
            _be_holder(prepare, writer)
        os.close(writer)
        _collect_orphans(holder)
    except OSError as error:
        os.write(writer, str(error).encode())
    finally:
        os._exit(1)


def _be_holder(prepare: Callable[[], None], writer: int) -> None:
    """The holder's life: make namespaces, say so, then collect orphans until killed. Never returns."""
    try:
        own = os.readlink("/proc/self")  # its number as the machine counts, while this is the machine's /proc
        kernel.unshare(kernel.NEW_MOUNTS | kernel.NEW_NETWORK)
        kernel.mount("none", "/", flags=kernel.MOUNT_RECURSIVE | kernel.MOUNT_PRIVATE)
        # The machine's own may be read-only, as in a container; and it shows everybody's processes.
        kernel.mount("proc", "/proc", "proc", kernel.MOUNT_NO_SUID | kernel.MOUNT_NO_DEV)
        prepare()
        os.write(writer, f"{_READY} {own}".encode())
        os.close(writer)
        _collect_orphans(None)
    except OSError as error:
        os.write(writer, str(error).encode())
    finally:
        os._exit(1)


def _collect_orphans(until: int | None) -> None:
    """Collects whatever ends inside; returns when the process `until` has."""
    while True:
        signal.sigwait({signal.SIGCHLD})
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                if ended == until:
                    return


def _close_all_but(kept: int) -> None:
    """The maker's sockets, locks and terminal must not outlive it here."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _furnish(files: Files) -> None:
    _tune_network()
    for path in READ_ONLY_PATHS:
        if Path(path).exists():
            kernel.bind(path, path, read_only=True)
    for path, text in (("/etc/hosts", files.hosts), ("/etc/resolv.conf", files.resolver)):
        if Path(path).exists():
            # Where applications are the mesh's user, these files are theirs, and `up` writes them again and again.
            kernel.bind(str(text), path, read_only=True)
    for folder in filter(Path.is_dir, files.hidden):
        kernel.mount("tmpfs", str(folder), "tmpfs", kernel.MOUNT_READ_ONLY, "size=4k,mode=0555")


def _tune_network() -> None:
    _disable_ipv6()
    # Applications hold no capability, and may still bind the low ports that their images use.
    Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")


def _open_forwarding() -> None:
    _disable_ipv6()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _disable_ipv6() -> None:
    """Interception is IPv4's: IPv6 on the link would be a way past the sidecar. Loopback keeps it."""
    setting = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
    if setting.exists():  # not on a kernel without IPv6
        setting.write_text("1")


BRIDGE = "mesh0"
DEVICE = "eth0"
PACKAGES = {"ip": "iproute2", "iptables-restore": "iptables", "iptables-save": "iptables"}

# What a process with uid 0 could write without any capability, to get at the machine or at its own interception.
READ_ONLY_PATHS = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/sys")

_READY = "ready"
_PROC_HINT = (
    "parts of this machine's /proc are covered, as in containers, and then ordinary users may not mount another; start"
    " the container with its /proc open (docker run --security-opt systempaths=unconfined), or run meshdp outside it"
)
_TOOLS_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
