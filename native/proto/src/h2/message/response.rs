//! The fields of an HTTP/2 response become the text of an HTTP/1.1 response head, without its final empty line.
//!
//! In: a decoded [`FieldList`]. Out: text and [`ResponseShape`]. No framing field is added: how the body goes on is for the
//! next hop to say. Limits: [`Limits`]. Fails: [`MessageFault`]; 101 has no meaning in HTTP/2 (RFC 9113 8.6).
//! Source: RFC 9113 8.2, 8.3.2.

use super::fault::MessageFault;
use super::indexing::is_secret;
use super::rules::{check_field, push_line, take_length};
use crate::h2::hpack::FieldList;
use crate::http1_fields::Known;
use crate::http1_forward::push_status_line;
use crate::http1_head::{Framing, Limits};
use crate::http1_response::RequestKind;

/// What a response head means for what follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseShape {
    /// The status code.
    pub status: u16,
    /// The declared length of the body; of the body left out in answers to HEAD and in 304.
    pub content_length: Option<u64>,
    /// Another head follows (1xx).
    pub interim: bool,
    /// Some field came as "never indexed" (RFC 7541 6.2.3) that we would not know to be a secret.
    pub sensitive: bool,
}

impl ResponseShape {
    /// Whether DATA may follow (an empty frame that ends the stream apart).
    pub fn has_body(&self, to_head: bool) -> bool {
        !(to_head || self.interim || matches!(self.status, 204 | 304))
    }

    /// Whether ending the stream now breaks the declared length (attack case H2-31).
    pub fn ends_short(&self, to_head: bool) -> bool {
        self.has_body(to_head) && self.content_length.is_some_and(|length| length > 0)
    }

    /// How the body is framed for an HTTP/1.1 client, given whether the head ended the stream.
    pub fn framing(&self, request: RequestKind, ended: bool) -> Framing {
        let tunnel = request == RequestKind::Connect && (200..300).contains(&self.status);
        match self.content_length {
            _ if tunnel || !self.has_body(request == RequestKind::Head) => Framing::None,
            Some(length) => Framing::Length(length),
            None if ended => Framing::Length(0),
            None => Framing::Chunked,
        }
    }
}

/// Writes status line and field lines to `out`, which it clears first. After a fault `out` is worthless.
pub fn write_response(fields: &FieldList, limits: &Limits, out: &mut Vec<u8>) -> Result<ResponseShape, MessageFault> {
    out.clear();
    if fields.too_large() {
        return Err(MessageFault::TooLarge);
    }
    let status = read_status(fields)?;
    let mut shape = ResponseShape { status, interim: status < 200, ..ResponseShape::default() };
    push_status_line(out, status, None);
    for (position, (name, value)) in fields.iter().enumerate().skip(1) {
        let known = check_field(name, value, limits)?;
        shape.sensitive |= fields.is_sensitive(position) && !is_secret(known, name);
        if known == Known::ContentLength {
            take_length(value, &mut shape.content_length)?;
            if shape.interim || status == 204 {
                continue; // says nothing there (RFC 9110 8.6)
            }
        }
        push_line(out, name, value);
    }
    if shape.interim || status == 204 {
        shape.content_length = None;
    }
    if fields.len() - 1 > limits.fields || out.len() + 2 > limits.head_bytes {
        return Err(MessageFault::TooLarge);
    }
    Ok(shape)
}

/// The status is the only pseudo-header, and the first field.
fn read_status(fields: &FieldList) -> Result<u16, MessageFault> {
    let status = match fields.get(0) {
        Some((b":status", status)) => status,
        Some(([b':', ..], _)) => return Err(MessageFault::UnknownPseudo),
        _ => return Err(MessageFault::Pseudo),
    };
    match fields.get(1) {
        Some((b":status", _)) => return Err(MessageFault::RepeatedPseudo),
        Some(([b':', ..], _)) => return Err(MessageFault::UnknownPseudo),
        _ => {}
    }
    match status {
        b"101" => Err(MessageFault::Status),
        [b'1'..=b'9', rest @ ..] if rest.len() == 2 && rest.iter().all(u8::is_ascii_digit) => {
            Ok(status.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0')))
        }
        _ => Err(MessageFault::Status),
    }
}
