//! HTTP on a connection whose peer is known, in the order of a request: `session` reads heads of HTTP/1.1, `h2_session` those
//! of HTTP/2, whose streams are futures (`tasks`) that `h2_stream` runs; `caller` judges them (`tokens`, `decide`). With HTTP/1.1 on
//! both sides, `upstream` serves one permitted request and `exchange` pumps it; with HTTP/2 on either, `carry` does with
//! `transfer` and its sides. `forward` edits heads, `grpc` reads what calls
//! say of themselves, `reply` answers what is not forwarded; `tunnel` is what follows an extended CONNECT.

pub(crate) mod caller;
pub(crate) mod carry;
pub mod decide;
pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod grpc;
pub(crate) mod h2_session;
pub(crate) mod h2_stream;
pub(crate) mod reply;
pub(crate) mod session;
pub(crate) mod tasks;
pub mod tokens;
pub(crate) mod transfer;
pub(crate) mod tunnel;
pub(crate) mod upstream;

use crate::connection::Secured;
use crate::stream::Stream;

/// Whether a connection speaks HTTP/2 from its first byte. What TLS has agreed on is spoken (attack case TL-15); plain bytes
/// say it themselves, to the sniffer or to the session.
pub(crate) fn begins_as_http2(secured: &Secured) -> bool {
    match &secured.stream {
        Stream::Tls(_) => secured.stream.speaks_http2(),
        Stream::Plain(_) => secured.link.sniffed.application.iter().any(|name| name == b"h2c"),
    }
}
