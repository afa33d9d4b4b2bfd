//! What holds of every field that comes over HTTP/2, in requests, responses and trailers.
//!
//! In: one name and value. Out: the class of the name, or a fault; lines of text. Limits: [`Limits`].
//! Fails: [`MessageFault`]. Source: RFC 9113 8.2; values otherwise as the HTTP/1.1 parser reads them.

use super::fault::MessageFault;
use crate::http1_fields::{Known, is_alias};
use crate::http1_head::{Limits, parse_length};
use crate::http1_scan::{is_token_byte, is_value};

/// Checks a regular field; what it means for its message is for the caller to see.
pub(super) fn check_field(name: &[u8], value: &[u8], limits: &Limits) -> Result<Known, MessageFault> {
    if name.first() == Some(&b':') {
        return Err(MessageFault::LatePseudo);
    }
    check_name(name)?;
    check_value(value)?;
    if name.len() > limits.name_bytes || value.len() > limits.value_bytes {
        return Err(MessageFault::TooLarge);
    }
    let known = Known::classify(name);
    match known {
        Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::TransferEncoding | Known::Upgrade => {
            Err(MessageFault::ConnectionSpecific)
        }
        Known::Te if !value.eq_ignore_ascii_case(b"trailers") => Err(MessageFault::ConnectionSpecific),
        _ => Ok(known),
    }
}

/// A token in lower case that hides no protected name. RFC 9113 8.2.1.
fn check_name(name: &[u8]) -> Result<(), MessageFault> {
    // No branch in the loop: nearly all names are good to their end.
    match name.iter().fold(0, |seen, byte| seen | NAME_CLASS[*byte as usize]) {
        0 if !name.is_empty() => Ok(()),
        UNDERSCORE if is_alias(name) => Err(MessageFault::Alias),
        UNDERSCORE => Ok(()),
        _ => Err(MessageFault::Name),
    }
}

/// Bytes that the HTTP/1.1 parser takes, without white space around them: nothing is trimmed, nothing changes.
fn check_value(value: &[u8]) -> Result<(), MessageFault> {
    let edge = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if edge(value.first()) || edge(value.last()) || !is_value(value) {
        return Err(MessageFault::Value);
    }
    Ok(())
}

/// Takes the one content-length of a message. RFC 9110 8.6, as strict as for HTTP/1.1.
pub(super) fn take_length(value: &[u8], length: &mut Option<u64>) -> Result<(), MessageFault> {
    let parsed = parse_length(value).filter(|_| length.is_none());
    *length = Some(parsed.ok_or(MessageFault::ContentLength)?);
    Ok(())
}

/// Appends `name: value CRLF`.
pub(super) fn push_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

const UNDERSCORE: u8 = 1;
const NO_NAME: u8 = 2;

/// What a byte means in a name.
const NAME_CLASS: [u8; 256] = {
    let mut table = [NO_NAME; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        if is_token_byte(byte) && !byte.is_ascii_uppercase() {
            table[byte as usize] = if byte == b'_' { UNDERSCORE } else { 0 };
        }
        byte += 1;
    }
    table
};
