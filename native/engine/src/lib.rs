//! Placeholder while the crate is being laid out.
#![deny(unsafe_code)]

pub mod access_log;
pub mod admin;
mod admin_routes;
pub mod control;
pub mod feed;
pub mod outcome;
mod reasons;
pub mod telemetry;
