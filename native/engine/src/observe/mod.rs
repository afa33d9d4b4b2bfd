//! How things ended, counted and written: `outcome` with its table in `reasons`, `record` joins them to `telemetry` and
//! `access_log`; `notice` says what people should know.

pub mod access_log;
pub(crate) mod notice;
pub mod outcome;
pub(crate) mod reasons;
pub(crate) mod record;
pub mod telemetry;
