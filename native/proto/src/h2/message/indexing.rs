//! Which fields the dynamic table may hold: what comes again on the next request, and nothing that is secret.
//!
//! In: a name in lower case and its class. Out: [`Indexing`]. Source: RFC 7541 7.1.3; decision 0083.

use crate::h2::hpack::Indexing;
use crate::http1_fields::Known;

/// Whether a field is never indexed, whoever sends it.
pub(super) fn is_secret(known: Known, name: &[u8]) -> bool {
    indexing_of(known, name) == Indexing::Never
}

/// How a field of the head may be represented.
pub(super) fn indexing_of(known: Known, name: &[u8]) -> Indexing {
    match known {
        Known::Authorization | Known::Cookie | Known::ProxyAuthorization => Indexing::Never,
        Known::ContentLength | Known::Date | Known::Traceparent | Known::XRequestId => Indexing::Without,
        Known::Other => match name {
            b"set-cookie" => Indexing::Never,
            b"etag" | b"last-modified" | b"grpc-timeout" | b"grpc-message" | b"tracestate" | b"b3" | b"age" => {
                Indexing::Without
            }
            _ if name.starts_with(b"x-b3-") => Indexing::Without,
            _ => Indexing::Add,
        },
        _ => Indexing::Add,
    }
}
