//! The control thread: `force` holds what is in force (`history`: since when, what was refused), `client` follows the
//! feed (`feed` is its framing, `turnover` says when to renew), `admin` with
//! `admin_routes` answers people and probes; `memory` says when new work must be refused.

pub mod admin;
mod admin_routes;
pub mod client;
pub mod feed;
pub(crate) mod force;
mod history;
pub(crate) mod memory;
pub mod turnover;
