"""The one door to Rust: the data plane and its decisions, as the rest of the package sees them.

In:     snapshot transactions and requests as bytes.
Out:    `Engine`, the pure decisions `authorize`, `route`, `explain`, `digest`, and their errors.
Fails:  with `NativeUnavailable` where the extension was not built, saying how to build it.
"""

try:
    from meshdp._native import (
        CredentialError,
        Engine,
        NativeError,
        SnapshotError,
        authorize,
        digest,
        explain,
        route,
    )
except ModuleNotFoundError as missing:
    raise ImportError("the native extension is not built: run `make build`, or install a wheel of meshdp") from missing

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
