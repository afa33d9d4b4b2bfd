"""SHA-256 without OpenSSL, where nobody has loaded it: `hashlib` would bring 4 MB into a sidecar for one function.

Out:    `sha256`. With OpenSSL in the process (the control plane speaks TLS) its own is taken, five times as fast.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Hash(Protocol):
    """What both make."""

    def update(self, data: bytes, /) -> None:
        """Takes more bytes."""

    def hexdigest(self) -> str:
        """What was found, in lower case."""


def sha256(data: bytes = b"") -> Hash:
    """The hash of some bytes, to which more may be added."""
    openssl = sys.modules.get("_hashlib")
    made: Hash = openssl.openssl_sha256(data) if openssl else _own()(data)
    return made


def _own() -> Callable[[bytes], Hash]:
    # The interpreter's, which hashlib falls back on as well: one name up to 3.11, another from then on.
    name = "_sha2" if sys.version_info >= (3, 12) else "_sha256"
    own: Callable[[bytes], Hash] = importlib.import_module(name).sha256
    return own
