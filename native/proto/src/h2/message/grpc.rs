//! What a refusal of ours is for a gRPC client: HTTP 200 with the status in fields.
//!
//! In: an HTTP status, a message. Out: a gRPC status, a `grpc-message`. Fails: never.
//! Source: the gRPC mapping of HTTP statuses and "gRPC over HTTP/2"; attack case RT-09.

/// Whether a content type is gRPC's own (`application/grpc`, `application/grpc+proto`); gRPC-Web carries its status otherwise.
pub fn is_grpc(content_type: &[u8]) -> bool {
    let Some((kind, rest)) = content_type.split_at_checked(GRPC_TYPE.len()) else { return false };
    kind.eq_ignore_ascii_case(GRPC_TYPE) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// The gRPC status that stands for an HTTP status of ours.
pub fn grpc_status(status: u16) -> u8 {
    match status {
        400 | 431 => 13,       // INTERNAL
        401 => 16,             // UNAUTHENTICATED
        403 => 7,              // PERMISSION_DENIED
        404 | 501 => 12,       // UNIMPLEMENTED
        429 | 502 | 503 => 14, // UNAVAILABLE
        408 | 504 => 4,        // DEADLINE_EXCEEDED
        _ => 2,                // UNKNOWN
    }
}

/// Appends `message` as `grpc-message` wants it: printable ASCII, the rest percent-encoded.
pub fn write_grpc_message(message: &[u8], out: &mut Vec<u8>) {
    for byte in message {
        if matches!(byte, b' '..=b'~') && *byte != b'%' {
            out.push(*byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// The type of a gRPC message in any encoding.
pub(crate) const GRPC_TYPE: &[u8] = b"application/grpc";

const HEX: &[u8; 16] = b"0123456789ABCDEF";
