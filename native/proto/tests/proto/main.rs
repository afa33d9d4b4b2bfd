//! The protocol cores seen from outside: attack cases by id, vectors, splits and properties.
#![allow(missing_docs, clippy::unwrap_used)]

mod attacks_body;
mod attacks_head;
mod exchange;
mod feed;
mod first_bytes;
mod forwarding;
mod gadgets;
mod h2;
mod hpack;
mod message;
mod paths;
mod properties;
mod responses;
mod verdicts;
