//! HTTP/1.1 on a connection whose peer is known, in the order of a request: `session` reads heads, `caller` judges them (`decide`),
//! `upstream` serves one permitted request, `forward` edits its head, `exchange` pumps both directions, `reply` answers
//! what is not forwarded.

pub(crate) mod caller;
pub mod decide;
pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod grpc;
pub(crate) mod h1_sides;
pub(crate) mod h2_sides;
pub(crate) mod outgoing;
pub(crate) mod reply;
pub(crate) mod session;
pub(crate) mod tasks;
pub(crate) mod transfer;
pub(crate) mod upstream;
