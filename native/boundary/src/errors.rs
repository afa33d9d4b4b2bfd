//! Rust's refusals as Python exceptions; the message is the Rust error's own sentence.

use pyo3::create_exception;
use pyo3::exceptions::PyException;

create_exception!(
    _native,
    NativeError,
    PyException,
    "The engine refused: the message says what was expected and what to do."
);
create_exception!(_native, SnapshotError, NativeError, "A transaction was refused; what was in force stays in force.");
create_exception!(
    _native,
    CredentialError,
    NativeError,
    "A certificate chain or trust bundle was refused; the old one stays in use."
);
