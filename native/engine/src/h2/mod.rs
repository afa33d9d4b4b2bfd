//! The engine's half of HTTP/2, in the order of a stream: `shared` is one connection in either role, `slots` what has come
//! for its streams, `stream` the handle on one of them, `driver` the socket under all of them. Towards upstreams,
//! `client` makes the connections and `pool` shares them. `fixtures` are peers for tests.

pub(crate) mod client;
pub(crate) mod driver;
#[cfg(test)]
mod fixtures;
pub(crate) mod pool;
pub(crate) mod shared;
mod slots;
pub(crate) mod stream;
