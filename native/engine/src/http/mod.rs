//! HTTP/1.1 on a connection whose peer is known, in the order of a request: `session` reads heads, `caller` judges them (`decide`),
//! `upstream` serves one permitted request, `forward` edits its head, `exchange` pumps both directions, `reply` answers
//! what is not forwarded.

pub(crate) mod caller;
pub mod decide;
pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod reply;
pub(crate) mod session;
pub(crate) mod upstream;
