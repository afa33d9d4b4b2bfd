//! How things ended, counted and written: `outcome` with its table in `reasons`, `record` joins them to `telemetry` and
//! `access_log`.

pub mod access_log;
pub mod outcome;
pub(crate) mod reasons;
pub(crate) mod record;
pub mod telemetry;
