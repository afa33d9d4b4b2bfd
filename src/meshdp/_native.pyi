"""The language boundary: everything Rust offers Python. Only `meshdp.supervise.engine` imports it."""

from typing import final

__all__ = [
    "CredentialError",
    "Engine",
    "NativeError",
    "SnapshotError",
    "authorize",
    "digest",
    "explain",
    "route",
]

class NativeError(Exception):
    """The engine refused: the message says what was expected and what to do."""

class SnapshotError(NativeError):
    """A transaction was refused; what was in force stays in force."""

class CredentialError(NativeError):
    """A certificate chain or trust bundle was refused; the old one stays in use."""

@final
class Engine:
    """One data plane: worker threads, listeners, pools, credentials. Settings are JSON, see `settings.py`."""

    def __new__(cls, settings: bytes) -> Engine: ...
    def start(self) -> None: ...
    def swap(self, transaction: bytes) -> str: ...
    def csr(self) -> bytes: ...
    def install(self, chain: bytes, bundle: bytes, key: bytes | None = None) -> None: ...
    def drain(self, deadline_s: float) -> None: ...
    def stop(self) -> None: ...
    def stats(self) -> bytes: ...

def authorize(transaction: bytes, request: bytes) -> bytes: ...
def route(transaction: bytes, request: bytes) -> bytes: ...
def explain(transaction: bytes, request: bytes) -> bytes: ...
def digest(transaction: bytes) -> str: ...
