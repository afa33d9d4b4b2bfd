"""The one door to Rust: the data plane and its decisions, as the rest of the package sees them.

In:     settings, transactions and requests as bytes.
Out:    `Engine`, the pure decisions `authorize`, `authorize_all`, `route`, `explain`, `digest`, and their errors.
Fails:  with ImportError where the extension was not built, saying how to build it.
"""

try:
    from meshdp._native import (
        CredentialError,
        Engine,
        NativeError,
        SnapshotError,
        authorize,
        authorize_all,
        digest,
        explain,
        route,
    )
except ImportError as missing:
    message = f"the native extension is not usable ({missing}): run `make build`, or install a wheel of meshdp"
    raise ImportError(message) from missing

__all__ = [
    "CredentialError",
    "Engine",
    "NativeError",
    "SnapshotError",
    "authorize",
    "authorize_all",
    "digest",
    "explain",
    "route",
]
