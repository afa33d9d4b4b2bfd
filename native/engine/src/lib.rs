//! The data plane: sockets, threads and time around the pure cores of `meshdp-proto` and `meshdp-model`.
//!
//! Read `connection` first: one `async fn` names the stages of a connection in order. Then, in the order of the data:
//! `engine` · `force` (start, and what is in force) → `worker` → `listener` → `original_dst` → `connection` → `downstream` →
//! `tls` → `tcp_session` with `relay`, or `http_session` → `decide` → `http_upstream` → `http_forward` → `http_exchange` →
//! `upstream` → `pool` → `stream` → `outcome` → `record` → `telemetry`, `access_log`; beside them `registry`, `http_reply`,
//! `admin`, `control`, `feed`, `settings`, `buffers`, `load`; and `sys`, which holds every unsafe call.
#![deny(unsafe_code)]

pub mod access_log;
pub mod admin;
mod admin_routes;
mod buffers;
mod connection;
pub mod control;
pub mod credentials;
pub mod decide;
mod downstream;
mod engine;
pub mod feed;
mod force;
mod http_exchange;
mod http_forward;
mod http_reply;
mod http_session;
mod http_upstream;
mod listener;
mod load;
mod original_dst;
pub mod outcome;
mod pool;
mod reasons;
mod record;
mod registry;
mod relay;
pub mod settings;
mod stream;
mod sys;
mod tcp_session;
pub mod telemetry;
mod tls;
mod upstream;
mod worker;

pub use engine::{Engine, EngineError};
pub use force::Force;
pub use registry::ConnectionRow;
