//! The extension module `meshdp._native`: everything Rust offers Python, and nothing else.
//!
//! `engine` wraps one data plane; `decisions` shows the data plane's own decisions as pure functions. No Python object
//! crosses into the engine: settings, transactions and certificates are bytes.

use pyo3::prelude::*;

mod decisions;
mod engine;
mod errors;

/// The language boundary; `src/meshdp/_native.pyi` is its contract.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::decisions::{authorize, authorize_all, digest, explain, route};
    #[pymodule_export]
    use super::engine::Engine;
    #[pymodule_export]
    use super::errors::{CredentialError, NativeError, SnapshotError};
}
