//! HTTP on a connection whose peer is known, in the order of a request: `session` reads heads of HTTP/1.1, `h2_session` those
//! of HTTP/2, whose streams are futures (`tasks`) that `h2_stream` runs; `caller` judges them (`decide`). With HTTP/1.1 on
//! both sides, `upstream` serves one permitted request and `exchange` pumps it; with HTTP/2 on either, `carry` does with
//! `transfer`, whose sides are `h1_sides` (with `outgoing`) and `h2_sides`. `forward` edits heads, `grpc` reads what calls
//! say of themselves, `reply` answers what is not forwarded.

pub(crate) mod caller;
pub(crate) mod carry;
pub mod decide;
pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod grpc;
pub(crate) mod h1_sides;
pub(crate) mod h2_session;
pub(crate) mod h2_sides;
pub(crate) mod h2_stream;
pub(crate) mod outgoing;
pub(crate) mod reply;
pub(crate) mod session;
pub(crate) mod tasks;
pub(crate) mod transfer;
pub(crate) mod upstream;

use std::rc::Rc;

use crate::connection::{Failure, Secured};
use crate::stream::Stream;
use crate::worker::{Pinned, Worker};

/// Runs an HTTP connection to its end. What TLS has agreed on is spoken (attack case TL-15); plain bytes say it themselves.
///
/// # Errors
/// What ended the connection, when it was not the end of a request.
pub(crate) async fn run(secured: Secured, pinned: &Pinned, worker: &Rc<Worker>) -> Result<(), Failure> {
    let http2 = match &secured.stream {
        Stream::Tls(_) => secured.stream.speaks_http2(),
        Stream::Plain(_) => secured.link.sniffed.application.iter().any(|name| &**name == b"h2c"),
    };
    if http2 {
        // Boxed, so that connections which carry one request at a time do not keep room for it.
        Box::pin(h2_session::run(secured, pinned, worker)).await
    } else {
        session::run(secured, pinned, worker).await
    }
}
