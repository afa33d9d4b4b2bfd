"""Goes into the namespaces of a running mesh: as root straight on, as anyone else through its user namespace.

In:      the process number of anything that a mesh holds.
Out:     this process inside for good, or a socket that was made inside.
Limits:  who made a user namespace has every capability in it, and nobody else of the machine's users has any.
Fails:   OSError where the process is gone or belongs to another user.
Source:  user_namespaces(7), setns(2); unix(7) for passing a socket on.
"""

from __future__ import annotations

import os
import socket

from meshdp.local.isolation import kernel


def take_powers(pid: int) -> None:
    """Gives this process, which has one thread, the capabilities of its user over a mesh. There is no way back."""
    if not _at_home(pid):
        kernel.enter_one_of(pid, "user", kernel.NEW_USERS)


def enter_network(pid: int) -> None:
    """Moves this process into the network of `pid`, for good."""
    take_powers(pid)
    kernel.enter_one_of(pid, "net", kernel.NEW_NETWORK)


def socket_in(pid: int, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that lives in the network of `pid`; this process stays where it is."""
    if _at_home(pid):
        with kernel.network_of(pid):
            return socket.socket(family, kind, protocol)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = os.fork()
        if child == 0:
            _fetch(theirs, pid, (family, kind, protocol))
        os.waitpid(child, 0)
        said, descriptors, _, _ = socket.recv_fds(ours, _ANSWER_BYTES, 1)
    if not descriptors:
        code = int(said)
        raise OSError(code, f"no socket inside process {pid}: {os.strerror(code)}")
    return socket.socket(fileno=descriptors[0])


def _fetch(answer: socket.socket, pid: int, shape: tuple[int, int, int]) -> None:
    """The child that goes in, makes the socket, hands it back and ends: only it changes its namespaces."""
    try:
        enter_network(pid)
        with socket.socket(*shape) as made:
            socket.send_fds(answer, [b"0"], [made.fileno()])
    except OSError as error:
        answer.send(str(error.errno).encode())
    finally:
        os._exit(0)


def _at_home(pid: int) -> bool:
    return os.path.samestat(os.stat(f"/proc/{pid}/ns/user"), os.stat("/proc/self/ns/user"))


_ANSWER_BYTES = 16
