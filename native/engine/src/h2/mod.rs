//! The engine's half of HTTP/2, in the order of a stream: `shared` is one connection in either role, `slots` what has come
//! for its streams, `stream` the handle on one of them, `driver` the socket under all of them. Towards upstreams, `choice`
//! says which requests are carried so, `client` makes the connections, `pool` shares them.

pub(crate) mod driver;
pub(crate) mod shared;
mod slots;
pub(crate) mod stream;
