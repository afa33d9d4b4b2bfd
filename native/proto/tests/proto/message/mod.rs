//! HTTP/2 messages and the text they become: `requests` (table 2.3 by id), `responses` with trailers, `encoding` (the way
//! back), `origin` (spelling across two sidecars), `properties`, `timing`.

mod encoding;
mod origin;
mod properties;
mod requests;
mod responses;
mod timing;

use meshdp_proto::Limits;
use meshdp_proto::h2::hpack::{DecodeLimits, Decoder, FieldList};
use meshdp_proto::h2::message::{MessageFault, RequestShape, write_request};

const DECODE_LIMITS: DecodeLimits = DecodeLimits { size_bytes: 1 << 20, fields: 1000 };

/// A list of fields; values may hold any bytes.
fn list<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> FieldList {
    let mut list = FieldList::new();
    for (name, value) in fields {
        list.push(name.as_ref(), value.as_ref(), false);
    }
    list
}

/// Limits for heads that came over HTTP/2.
fn limits() -> Limits {
    Limits { any_method: true, ..Limits::default() }
}

/// The text of a request, each byte as one character.
fn text_of(fields: &FieldList) -> Result<(String, RequestShape), MessageFault> {
    let mut out = b"left over".to_vec();
    let shape = write_request(fields, &limits(), &mut out)?;
    Ok((latin(&out), shape))
}

fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// `GET / ` to `a` over https, with these fields behind the pseudo-headers.
fn get_with(fields: &[(&str, &[u8])]) -> FieldList {
    let pseudo: [(&str, &[u8]); 4] =
        [(":method", b"GET"), (":scheme", b"https"), (":authority", b"a"), (":path", b"/")];
    list(&[&pseudo[..], fields].concat())
}

/// Decodes a block with a fresh decoder.
fn decoded(block: &[u8]) -> FieldList {
    let mut fields = FieldList::new();
    Decoder::new(4096).decode(block, &DECODE_LIMITS, &mut fields).unwrap();
    fields
}

/// Fields as `name: value` lines, to compare at a glance.
fn shown(fields: &FieldList) -> Vec<String> {
    fields.iter().map(|(name, value)| format!("{}: {}", latin(name), latin(value))).collect()
}
