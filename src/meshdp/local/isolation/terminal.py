"""Puts a terminal of its own between a command and the person who started it, as long as the command runs.

In:      whichever of this process's standard descriptors are a terminal.
Out:     descriptors for the command; what is typed and what is shown, carried both ways.
Limits:  PIECE_BYTES at once; what is typed waits in the person's terminal while the command does not read.
Fails:   OSError where the machine has no further terminal.
Source:  pty(7), ioctl_tty(2): whoever shares a terminal types into it (TIOCSTI) and reads from it, so that a program
         inside would run commands outside, as the person, in the shell that `meshdp exec` came from.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import termios
import tty
from collections.abc import Iterator

PIECE_BYTES = 4096
Streams = tuple[int, int, int]

OWN: Streams = (0, 1, 2)


class Terminal:
    """A terminal that stands in for the person's: `streams` for the command, which `carry` serves until its end."""

    def __init__(self, owner: int) -> None:
        self._near, self._far = os.openpty()
        if os.geteuid() == 0:
            os.fchown(self._far, owner, -1)  # programs open it again, by name
        self._shown = next(each for each in (1, 2, 0) if os.isatty(each))
        self._typed = os.isatty(0) and _is_in_front()
        stdin, stdout, stderr = (self._far if os.isatty(each) else each for each in OWN)
        self.streams = (stdin, stdout, stderr)
        self._waiting = b""
        os.set_blocking(self._near, False)
        self._resemble()

    def carry(self, pid: int) -> None:
        """Carries what is typed and shown until the process ends, and shows what it had said by then."""
        ended = os.pidfd_open(pid)
        before = signal.signal(signal.SIGWINCH, lambda number, frame: self._resize())
        try:
            with self._raw():
                while ended not in (ready := self._ready(ended)):
                    if self._near in ready:
                        self._show()
                    if 0 in ready:
                        self._type()
                for _ in range(_LAST_PIECES):  # what it has left running may say more for ever
                    self._show()
        finally:
            signal.signal(signal.SIGWINCH, before)
            for descriptor in (ended, self._near, self._far):
                os.close(descriptor)

    def _ready(self, ended: int) -> set[int]:
        poller = select.poll()
        poller.register(ended, select.POLLIN)
        poller.register(self._near, select.POLLIN | (select.POLLOUT if self._waiting else 0))
        if self._typed and not self._waiting:
            poller.register(0, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll()}
        if self._waiting:
            self._pass_on()
        return ready

    def _show(self) -> None:
        with contextlib.suppress(BlockingIOError):
            said = os.read(self._near, PIECE_BYTES)
            while said:
                said = said[os.write(self._shown, said) :]

    def _type(self) -> None:
        with contextlib.suppress(OSError):  # a terminal that is gone has no more to say
            self._waiting = os.read(0, PIECE_BYTES)
        self._typed = bool(self._waiting)
        self._pass_on()

    def _pass_on(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._waiting = self._waiting[os.write(self._near, self._waiting) :]

    def _resemble(self) -> None:
        """Keys and size are those of the person's terminal."""
        modes = termios.tcgetattr(self._shown)
        if not self._typed:
            modes[_OUTPUT_MODES] &= ~termios.OPOST  # the person's terminal goes on doing that
        termios.tcsetattr(self._far, termios.TCSANOW, modes)
        self._resize()

    def _resize(self) -> None:
        size = fcntl.ioctl(self._shown, termios.TIOCGWINSZ, bytes(_SIZE_BYTES))
        fcntl.ioctl(self._far, termios.TIOCSWINSZ, size)

    @contextlib.contextmanager
    def _raw(self) -> Iterator[None]:
        """Every key goes to the command's terminal, which gives it its meaning."""
        if not self._typed:
            yield
            return
        modes = termios.tcgetattr(0)
        tty.setraw(0, termios.TCSADRAIN)
        try:
            yield
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, modes)


def stand_in(owner: int) -> Terminal | None:
    """A terminal that belongs to the user `owner`; none where this process has none."""
    return Terminal(owner) if any(map(os.isatty, OWN)) else None


def take_control() -> None:
    """Begins a session, whose terminal is the one among the standard descriptors: called between fork and exec."""
    os.setsid()
    for descriptor in filter(os.isatty, OWN):
        fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
        return


def _is_in_front() -> bool:
    """A job in the background must not touch the terminal's modes, nor read from it."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return True  # it controls no jobs of ours


_LAST_PIECES = 32  # more than a terminal keeps
_OUTPUT_MODES = 1
_SIZE_BYTES = 8
