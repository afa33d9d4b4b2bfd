//! Trailers of HTTP/2 become field lines, and which trailers of either version go on is decided.
//!
//! In: a decoded [`FieldList`]. Out: `name: value CRLF` lines. Names that frame, route, authenticate or are trusted are left
//! out: nobody may learn them from behind a body. Limits: [`Limits`]. Fails: [`MessageFault`].
//! Source: RFC 9110 6.5.1, RFC 9113 8.1; attack cases H1-33, H2-27.

use super::fault::MessageFault;
use super::rules::{check_field, push_line};
use crate::h2::hpack::FieldList;
use crate::http1_fields::Known;
use crate::http1_head::Limits;

/// Writes the lines to `out`, which it clears first. After a fault `out` is worthless.
pub fn write_trailers(fields: &FieldList, limits: &Limits, out: &mut Vec<u8>) -> Result<(), MessageFault> {
    out.clear();
    if fields.too_large() || fields.len() > limits.fields {
        return Err(MessageFault::TooLarge);
    }
    for (name, value) in fields.iter() {
        let known = check_field(name, value, limits)?;
        if forwards_trailer(known, name) {
            push_line(out, name, value);
        }
    }
    if out.len() > limits.head_bytes { Err(MessageFault::TooLarge) } else { Ok(()) }
}

/// Whether a trailer of this name, in lower case, goes on to the next hop.
pub(crate) fn forwards_trailer(known: Known, name: &[u8]) -> bool {
    let refused = known.is_protected()
        || known.is_hop_by_hop()
        || matches!(known, Known::Authorization | Known::ContentType | Known::Cookie | Known::Expect);
    !refused && !NEVER_TRAILERS.contains(&name)
}

/// What RFC 9110 6.5.1 forbids beyond the names that [`Known`] tells apart: request modifiers, authentication, response
/// control data, and what says how to read the content.
const NEVER_TRAILERS: [&[u8]; 14] = [
    b"age",
    b"cache-control",
    b"content-encoding",
    b"content-range",
    b"expires",
    b"location",
    b"max-forwards",
    b"pragma",
    b"proxy-authenticate",
    b"range",
    b"retry-after",
    b"set-cookie",
    b"vary",
    b"www-authenticate",
];
