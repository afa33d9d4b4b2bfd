//! The data plane: sockets, threads and time around the pure cores of `meshdp-proto` and `meshdp-model`.
//!
//! Read `connection` first: one `async fn` names the stages of a connection in order. Then, in the order of the data:
//! `engine` and `control::force` (start, and what is in force) → `worker` (with `buffers`, `load`, `health`, `registry`) → `listener` →
//! `original_dst` → `connection` → `downstream` → `tls` → `tcp_session` with `relay` and `splice`, or `http` → `upstream` → `attempts` → `pool`, `h2` →
//! `stream` → `observe`; beside them `control` (admin and feed), `lasting` (tasks that outlive their panics), `settings`, `sys`, which holds every unsafe
//! call, and `fault` for tests.
#![deny(unsafe_code)]

mod attempts;
mod connection;
pub mod control;
mod downstream;
mod engine;
mod fault;
mod h2;
pub mod http;
mod keys;
mod lasting;
mod listener;
pub mod observe;
mod original_dst;
mod pool;
mod relay;
pub mod settings;
mod splice;
mod stream;
mod sys;
mod tcp_session;
pub mod tls;
mod upstream;
mod worker;

pub use control::force::Force;
pub use engine::{Engine, EngineError};
pub use worker::registry::ConnectionRow;
