"""Gives a program that is about to be started exactly the capabilities it needs, and no way to more.

In:      masks: bit N is capability N of capabilities(7).
Out:     the sets of this process, as the next exec turns them into those of the program.
Fails:   OSError with the kernel's errno and the call's name.
Source:  capabilities(7), prctl(2), capset(2).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

NONE = 0
NET_ADMIN = 1 << 12


def confine(kept: int) -> None:
    """Lets the next program have `kept` and nothing else, whatever its user, its file or what it starts.

    Bounding, inheritable and ambient set become `kept`; root is no special user any more; no program raises them again.
    What this process itself may do stays until exec. Needs SETPCAP, so it comes before a change of user from root.
    """
    _inherit(kept)
    for capability in range(last() + 1):
        if not kept & 1 << capability:
            _prctl(_PR_CAPBSET_DROP, capability)
    _prctl(_PR_SET_SECUREBITS, _SECUREBITS)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def pass_on() -> None:
    """Lets the next program have all that this process has, although its user is not root."""
    _inherit(_held()[_PERMITTED])


def last() -> int:
    """The highest capability that the kernel knows."""
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def _inherit(kept: int) -> None:
    """Makes `kept` the inheritable and the ambient set."""
    held = _held()
    held[_INHERITABLE] = kept
    data = (ctypes.c_uint32 * 6)(*(part >> shift & _WORD for shift in (0, 32) for part in held))
    _checked("capset", _libc.capset(_header(), data))
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(last() + 1):
        if kept & 1 << capability:
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _held() -> list[int]:
    """Effective, permitted and inheritable set of this process."""
    data = (ctypes.c_uint32 * 6)()
    _checked("capget", _libc.capget(_header(), data))
    return [data[at] | data[at + 3] << 32 for at in (_EFFECTIVE, _PERMITTED, _INHERITABLE)]


def _header() -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * 2)(_VERSION_3, 0)


def _prctl(option: int, first: int, second: int = 0) -> None:
    _checked("prctl", _libc.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), 0, 0))


def _checked(call: str, status: int) -> None:
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


_VERSION_3 = 0x2008_0522
_EFFECTIVE, _PERMITTED, _INHERITABLE = 0, 1, 2
_WORD = 0xFFFF_FFFF
_PR_CAPBSET_DROP = 24
_PR_SET_SECUREBITS = 28
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
# NOROOT: uid 0 gains nothing by exec. NO_CAP_AMBIENT_RAISE: nobody adds to what is passed on. Each with its lock.
_SECUREBITS = 0x01 | 0x02 | 0x40 | 0x80

_libc = ctypes.CDLL(None, use_errno=True)
