//! What a sidecar reads of gRPC: which requests are calls, how long they may take, how they ended.
//!
//! In: fields of heads, lines of trailers.  Out: plain values.  Fails: never; what cannot be read is as if it were absent, but
//! for a deadline (attack-cases HD-14).
//! Source: gRPC over HTTP/2 ("Requests", "Responses").

use meshdp_proto::http1_fields::FieldTable;

/// How a call ended, by its response's head: calls that end with it say so there.
pub(crate) fn status_in_head(text: &[u8], fields: &FieldTable) -> Option<u8> {
    fields.values(text, STATUS).next().and_then(parse_status)
}

/// How a call ended, by its trailers.
pub(crate) fn status_in_trailers(lines: &[u8]) -> Option<u8> {
    let mut values = lines.split(|byte| *byte == b'\n').filter_map(|line| {
        let (name, value) = line.split_at_checked(STATUS.len())?;
        name.eq_ignore_ascii_case(STATUS.as_bytes()).then_some(value.strip_prefix(b":")?)
    });
    values.next().and_then(parse_status)
}

/// The status that an answer without one stands for, as Envoy counts it and gRPC's clients take it; none for no answer.
pub(crate) fn status_of_http(status: u16) -> Option<u8> {
    match status {
        0 => None,
        400 => Some(13),                   // INTERNAL
        401 => Some(16),                   // UNAUTHENTICATED
        403 => Some(7),                    // PERMISSION_DENIED
        404 => Some(12),                   // UNIMPLEMENTED
        429 | 502 | 503 | 504 => Some(14), // UNAVAILABLE
        _ => Some(2),                      // UNKNOWN
    }
}

/// How an answer over HTTP/1.1 to what may be a call says that it ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched {
    call: bool,
    pub(crate) status: Option<u8>,
}

impl Watched {
    /// Nothing is looked for in answers to what is no call.
    pub(crate) fn new(call: bool) -> Self {
        Self { call, status: None }
    }

    /// Looks at the head of the answer.
    pub(crate) fn read(&mut self, text: &[u8], fields: &FieldTable) {
        if self.call {
            self.status = status_in_head(text, fields);
        }
    }
}

fn parse_status(value: &[u8]) -> Option<u8> {
    std::str::from_utf8(value).ok()?.trim_matches([' ', '\t', '\r']).parse().ok().filter(|status| *status <= LARGEST)
}

/// The value of `grpc-timeout` in milliseconds, at most [`LONGEST_MS`].
///
/// # Errors
/// The value breaks the grammar: one to eight digits and a unit.
pub(crate) fn timeout_ms(value: &[u8]) -> Result<u64, BadTimeout> {
    let (unit, digits) = value.split_last().ok_or(BadTimeout)?;
    if digits.is_empty() || digits.len() > MOST_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return Err(BadTimeout);
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    let whole_ms = match unit {
        b'H' => number.saturating_mul(3_600_000),
        b'M' => number.saturating_mul(60_000),
        b'S' => number.saturating_mul(1_000),
        b'm' => number,
        b'u' => number.div_ceil(1_000),
        b'n' => number.div_ceil(1_000_000),
        _ => return Err(BadTimeout),
    };
    Ok(whole_ms.min(LONGEST_MS))
}

/// A deadline that says nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadTimeout;

/// The statuses as the metrics' label has them.
pub(crate) fn label(status: Option<u8>) -> &'static str {
    status.and_then(|status| LABELS.get(usize::from(status))).copied().unwrap_or_default()
}

const LABELS: [&str; 17] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
const STATUS: &str = "grpc-status";
const LARGEST: u8 = 16;
const MOST_DIGITS: usize = 8;
/// A call that may take longer than a month has no deadline that anybody waits for.
pub(crate) const LONGEST_MS: u64 = 31 * 24 * 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_found_in_trailers() {
        assert_eq!(status_in_trailers(b"x: 1\r\ngrpc-status: 14\r\ngrpc-message: a\r\n"), Some(14));
        assert_eq!(status_in_trailers(b"Grpc-Status:0\r\n"), Some(0));
        assert_eq!(status_in_trailers(b"grpc-status: 17\r\n"), None);
        assert_eq!(status_in_trailers(b"grpc-status-x: 1\r\n"), None);
        assert_eq!([0, 200, 403, 504].map(status_of_http), [None, Some(2), Some(7), Some(14)]);
        assert_eq!((label(Some(16)), label(Some(40)), label(None)), ("16", "", ""));
    }

    #[test]
    fn hd_14_a_deadline_is_clamped_or_refused_and_never_overflows() {
        assert_eq!(timeout_ms(b"99999999H"), Ok(LONGEST_MS));
        assert_eq!(timeout_ms(b"1S"), Ok(1_000));
        assert_eq!(timeout_ms(b"1n"), Ok(1));
        assert_eq!(timeout_ms(b"0m"), Ok(0));
        for bad in [&b""[..], b"-1S", b"1X", b"S", b"1", b"123456789S", b" 1S", b"1.5S"] {
            assert_eq!(timeout_ms(bad), Err(BadTimeout), "{}", String::from_utf8_lossy(bad));
        }
    }
}
