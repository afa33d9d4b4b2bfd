//! Sans-IO protocol cores: bytes in, decisions and bytes out; no sockets, no clock, no threads, no unsafe.
//!
//! Reading order is the order of a connection: [`mod@sniff`] and [`client_hello`] look at the first bytes, [`http1_head`]
//! and [`http1_response`] turn message heads into spans over the caller's buffer ([`http1_fields`]), [`path`] makes the
//! one path that policy, routing and the upstream see, [`http1_body`] checks and re-frames bodies (`http1_trailers` keeps
//! what comes behind them), [`http1_forward`] writes edited heads ([`http1_reason`] has the phrases), [`http1_conn`] says
//! which connections go on; [`mod@h2`] is HTTP/2. [`refusal`] names every reason to say no.
#![forbid(unsafe_code)]

pub mod client_hello;
pub mod h2;
pub mod http1_body;
pub mod http1_conn;
pub mod http1_fields;
pub mod http1_forward;
pub mod http1_head;
pub mod http1_reason;
pub mod http1_response;
mod http1_scan;
mod http1_trailers;
pub mod path;
pub mod refusal;
pub mod sniff;

pub use client_hello::ClientHello;
pub use http1_body::BodyDecoder;
pub use http1_conn::{Answer, Exchange};
pub use http1_fields::{Field, FieldTable, Known, Span};
pub use http1_forward::{LocalReply, RequestEdits, ResponseEdits, encode_request, encode_response, local_reply};
pub use http1_head::{Framing, HttpVersion, Limits, RequestHead, parse_request};
pub use http1_response::{RequestKind, ResponseHead, parse_response};
pub use http1_scan::HeadScan;
pub use path::{PathMode, PathParts, normalise};
pub use refusal::{Refusal, RefusalReason};
pub use sniff::{Sniff, Wanted, sniff};
