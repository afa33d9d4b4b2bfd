//! The HTTP/2 connection seen from outside: attack cases by id, ledgers, mutations, and the `h2` crate as opponent.
//!
//! `wire.rs` makes frames and feeds them in every way; `floods.rs` (H2-01 to H2-11), `frames.rs` (H2-12 to H2-22, H2-28,
//! H2-33), `messages.rs` (H2-24 to H2-34, DG), `windows.rs` (flow control), `turns.rs` (sending), `mutations.rs`,
//! `differential.rs` (our half against the `h2` crate's), `cost.rs` (figures).
#![allow(clippy::cast_possible_wrap, clippy::large_stack_arrays, reason = "test data is small enough for both")]

mod cost;
mod differential;
mod floods;
mod frames;
mod messages;
mod mutations;
mod turns;
mod windows;
mod wire;
