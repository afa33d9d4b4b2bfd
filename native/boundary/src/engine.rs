//! `meshdp._native.Engine`: one data plane behind a frozen class.
//!
//! In: bytes.  Out: bytes, digests.  Fails: `NativeError`, `SnapshotError`, `CredentialError`.
//! Every call that can wait lets go of the interpreter, so that signal handlers and other threads run.

use std::time::Duration;

use meshdp_engine::settings::Settings;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{CredentialError, NativeError, SnapshotError};

/// One data plane: worker threads, listeners, pools, credentials. Settings are JSON, see `settings.py`.
#[pyclass(frozen, module = "meshdp._native")]
pub(crate) struct Engine {
    inner: meshdp_engine::Engine,
}

#[pymethods]
impl Engine {
    #[new]
    fn new(settings: &[u8]) -> PyResult<Self> {
        let settings = Settings::decode(settings).map_err(refused)?;
        meshdp_engine::Engine::new(settings).map(|inner| Self { inner }).map_err(refused)
    }

    fn start(&self, python: Python<'_>) -> PyResult<()> {
        python.detach(|| self.inner.start()).map_err(refused)
    }

    fn swap(&self, python: Python<'_>, transaction: &[u8]) -> PyResult<String> {
        python.detach(|| self.inner.force().swap(transaction)).map_err(SnapshotError::new_err)
    }

    fn csr<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let request = self.inner.force().csr().map_err(|error| CredentialError::new_err(error.to_string()))?;
        Ok(PyBytes::new(python, &request))
    }

    #[pyo3(signature = (chain, bundle, key=None))]
    fn install(&self, python: Python<'_>, chain: &[u8], bundle: &[u8], key: Option<&[u8]>) -> PyResult<()> {
        let force = self.inner.force();
        python.detach(|| force.install(chain, bundle, key)).map(drop).map_err(|error| {
            force.not_certified(&error.to_string());
            CredentialError::new_err(error.to_string())
        })
    }

    fn drain(&self, python: Python<'_>, deadline_s: f64) -> PyResult<()> {
        let deadline = Duration::try_from_secs_f64(deadline_s).map_err(|_| {
            NativeError::new_err(format!("drain deadline: expected seconds from now, got {deadline_s}"))
        })?;
        python.detach(|| self.inner.drain(deadline));
        Ok(())
    }

    fn stop(&self, python: Python<'_>) {
        python.detach(|| self.inner.stop());
    }

    fn stats<'py>(&self, python: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(python, self.inner.force().stats_json().as_bytes())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature of map_err")]
fn refused(error: meshdp_engine::EngineError) -> PyErr {
    NativeError::new_err(error.to_string())
}
