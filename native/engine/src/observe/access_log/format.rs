//! Formats one entry as text or JSON into a buffer, without allocating.
//!
//! In:      [`Entry`] with bytes that peers chose.
//! Out:     exactly one line: no byte of a peer ends it, leaves its quotes or reaches a terminal as a control byte.
//! Limits:  [`MAX_FIELD_BYTES`] of one field.
//! Source:  istio-semantics G.3 (columns and keys); attack H1-64.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Entry, HttpFields, MAX_FIELD_BYTES};
use crate::observe::outcome::Reason;

/// Appends Istio's default text line, with direction, identity and shadow as three more columns at its end.
pub(super) fn text(out: &mut Vec<u8>, clock: &mut Clock, entry: &Entry<'_>) {
    out.push(b'[');
    out.extend_from_slice(clock.stamp(entry.time));
    out.push(b']');
    text_request(out, entry);
    text_end(out, entry);
    text_peers(out, entry);
    out.push(b'\n');
}

fn text_request(out: &mut Vec<u8>, entry: &Entry<'_>) {
    let http = entry.http.unwrap_or_default();
    out.extend_from_slice(b" \"");
    escaped_or_dash(out, http.method);
    out.push(b' ');
    escaped_or_dash(out, http.path);
    out.push(b' ');
    escaped_or_dash(out, http.protocol.as_bytes());
    out.push(b'"');
    counted(out, u64::from(entry.outcome.status));
    bare(out, flags(entry));
}

fn text_end(out: &mut Vec<u8>, entry: &Entry<'_>) {
    let outcome = entry.outcome;
    bare(out, outcome.reason.code());
    bare(out, &outcome.detail);
    quoted(out, transport_failure(entry).as_bytes());
    counted(out, outcome.bytes_in);
    counted(out, outcome.bytes_out);
    counted(out, outcome.duration_us / MICROS_PER_MILLI);
    match entry.http.and_then(|http| http.upstream_service_us) {
        Some(micros) => counted(out, micros / MICROS_PER_MILLI),
        None => bare(out, ""),
    }
}

fn text_peers(out: &mut Vec<u8>, entry: &Entry<'_>) {
    let http = entry.http.unwrap_or_default();
    for field in [http.forwarded_for, http.user_agent, http.request_id, http.authority] {
        quoted(out, field);
    }
    out.extend_from_slice(b" \"");
    address(out, entry.upstream);
    out.push(b'"');
    bare(out, entry.cluster);
    for place in [entry.upstream_local, entry.destination, Some(entry.remote)] {
        out.push(b' ');
        address(out, place);
    }
    for text in [entry.sni, entry.route, entry.direction.word()] {
        bare(out, text);
    }
    quoted(out, entry.principal.as_bytes());
    bare(out, entry.shadow);
}

/// Appends one JSON object with Istio's keys and ours; missing values are `null`.
pub(super) fn json(out: &mut Vec<u8>, clock: &mut Clock, entry: &Entry<'_>) {
    let http = entry.http.unwrap_or_default();
    let outcome = entry.outcome;
    out.extend_from_slice(b"{\"start_time\":\"");
    out.extend_from_slice(clock.stamp(entry.time));
    out.push(b'"');
    json_text(out, "direction", entry.direction.word().as_bytes());
    json_http(out, &http);
    json_number(out, "response_code", u64::from(outcome.status));
    json_text(out, "response_flags", flags(entry).as_bytes());
    json_text(out, "response_code_details", outcome.reason.code().as_bytes());
    json_text(out, "connection_termination_details", outcome.detail.as_bytes());
    json_text(out, "upstream_transport_failure_reason", transport_failure(entry).as_bytes());
    json_number(out, "bytes_received", outcome.bytes_in);
    json_number(out, "bytes_sent", outcome.bytes_out);
    json_number(out, "duration", outcome.duration_us / MICROS_PER_MILLI);
    json_address(out, "upstream_host", entry.upstream);
    json_text(out, "upstream_cluster", entry.cluster.as_bytes());
    json_address(out, "upstream_local_address", entry.upstream_local);
    json_address(out, "downstream_local_address", entry.destination);
    json_address(out, "downstream_remote_address", Some(entry.remote));
    json_text(out, "requested_server_name", entry.sni.as_bytes());
    json_text(out, "route_name", entry.route.as_bytes());
    json_text(out, "source_principal", entry.principal.as_bytes());
    json_text(out, "shadow_policy", entry.shadow.as_bytes());
    out.extend_from_slice(b"}\n");
}

fn json_http(out: &mut Vec<u8>, http: &HttpFields<'_>) {
    json_text(out, "method", http.method);
    json_text(out, "path", http.path);
    json_text(out, "protocol", http.protocol.as_bytes());
    json_text(out, "authority", http.authority);
    json_text(out, "user_agent", http.user_agent);
    json_text(out, "request_id", http.request_id);
    json_text(out, "x_forwarded_for", http.forwarded_for);
    match http.upstream_service_us {
        Some(micros) => json_number(out, "upstream_service_time", micros / MICROS_PER_MILLI),
        None => json_text(out, "upstream_service_time", b""),
    }
}

fn flags(entry: &Entry<'_>) -> &'static str {
    if entry.http.is_some() { entry.outcome.reason.flags() } else { entry.outcome.reason.flags_tcp() }
}

fn transport_failure<'a>(entry: &Entry<'a>) -> &'a str {
    match entry.outcome.reason {
        Reason::UpstreamTlsFailed
        | Reason::UpstreamTlsUntrusted
        | Reason::UpstreamTlsIdentity
        | Reason::UpstreamTlsTimeout
        | Reason::UpstreamTlsUnusable => &entry.outcome.detail,
        _ => "",
    }
}

/// A column without quotes, after a blank: what is not printable, and the blank itself, becomes `_`.
fn bare(out: &mut Vec<u8>, text: &str) {
    out.push(b' ');
    if text.is_empty() {
        return out.push(b'-');
    }
    let (kept, cut) = clip(text.as_bytes());
    out.extend(kept.iter().map(|&byte| if byte.is_ascii_graphic() { byte } else { b'_' }));
    out.extend_from_slice(cut);
}

/// A number, after a blank.
fn counted(out: &mut Vec<u8>, value: u64) {
    out.push(b' ');
    number(out, value);
}

/// A column in quotes, after a blank.
fn quoted(out: &mut Vec<u8>, field: &[u8]) {
    out.extend_from_slice(b" \"");
    escaped_or_dash(out, field);
    out.push(b'"');
}

fn escaped_or_dash(out: &mut Vec<u8>, field: &[u8]) {
    if field.is_empty() {
        return out.push(b'-');
    }
    let (kept, cut) = clip(field);
    if kept.iter().all(|&byte| is_plain(byte)) {
        out.extend_from_slice(kept);
    } else {
        for &byte in kept {
            if is_plain(byte) {
                out.push(byte);
            } else {
                out.extend_from_slice(&[b'\\', b'x', hex(byte >> 4), hex(byte)]);
            }
        }
    }
    out.extend_from_slice(cut);
}

fn json_key(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn json_number(out: &mut Vec<u8>, key: &str, value: u64) {
    json_key(out, key);
    number(out, value);
}

fn json_address(out: &mut Vec<u8>, key: &str, place: Option<SocketAddr>) {
    json_key(out, key);
    match place {
        Some(_) => {
            out.push(b'"');
            address(out, place);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}

/// A JSON string; bytes that are not UTF-8 become the code point of the same number.
fn json_text(out: &mut Vec<u8>, key: &str, field: &[u8]) {
    json_key(out, key);
    if field.is_empty() {
        return out.extend_from_slice(b"null");
    }
    let (kept, cut) = clip(field);
    out.push(b'"');
    if kept.iter().all(|&byte| is_plain(byte)) {
        out.extend_from_slice(kept);
    } else {
        for chunk in kept.utf8_chunks() {
            chunk.valid().chars().for_each(|c| json_char(out, c));
            chunk.invalid().iter().for_each(|&byte| json_escape(out, u32::from(byte)));
        }
    }
    out.extend_from_slice(cut);
    out.push(b'"');
}

fn json_char(out: &mut Vec<u8>, c: char) {
    match c {
        '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
        '\u{2028}' | '\u{2029}' => json_escape(out, u32::from(c)),
        c if c.is_control() => json_escape(out, u32::from(c)),
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// `\uXXXX`, for code points below 0x10000.
fn json_escape(out: &mut Vec<u8>, code: u32) {
    out.extend_from_slice(b"\\u");
    out.extend([12, 8, 4, 0].map(|shift| hex((code >> shift) as u8)));
}

fn address(out: &mut Vec<u8>, place: Option<SocketAddr>) {
    match place {
        // A Vec takes all that is written to it.
        Some(place) => drop(write!(out, "{place}")),
        None => out.push(b'-'),
    }
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return out.extend_from_slice(&digits[start..]);
        }
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'
}

/// The part of a field that is kept, and the mark of a cut.
fn clip(field: &[u8]) -> (&[u8], &'static [u8]) {
    match field.get(..MAX_FIELD_BYTES) {
        Some(kept) if field.len() > MAX_FIELD_BYTES => (kept, b"..."),
        _ => (field, b""),
    }
}

/// The digit of the low four bits.
fn hex(nibble: u8) -> u8 {
    HEX[usize::from(nibble & 0xf)]
}

/// Writes times as `2026-01-31T23:59:59.999Z`; the part before the milliseconds is kept for its second.
#[derive(Debug)]
pub(super) struct Clock {
    second: Option<u64>,
    stamp: [u8; STAMP.len()],
}

impl Default for Clock {
    fn default() -> Self {
        Self { second: None, stamp: *STAMP }
    }
}

impl Clock {
    pub(super) fn stamp(&mut self, time: SystemTime) -> &[u8] {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            self.write_second(since.as_secs());
        }
        digits(&mut self.stamp[20..23], u64::from(since.subsec_millis()));
        &self.stamp
    }

    fn write_second(&mut self, second: u64) {
        let (year, month, day) = civil(second / SECONDS_PER_DAY);
        let of_day = second % SECONDS_PER_DAY;
        digits(&mut self.stamp[0..4], year.min(9999));
        digits(&mut self.stamp[5..7], month);
        digits(&mut self.stamp[8..10], day);
        digits(&mut self.stamp[11..13], of_day / 3600);
        digits(&mut self.stamp[14..16], of_day / 60 % 60);
        digits(&mut self.stamp[17..19], of_day % 60);
    }
}

fn digits(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of the proleptic Gregorian calendar, from days since 1970-01-01. Years are counted from March, so
/// that the leap day is a year's last; months of such a year follow the line (153 m + 2) / 5.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_TO_1970;
    let (era, of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

const STAMP: &[u8; 24] = b"0000-00-00T00:00:00.000Z";
const HEX: &[u8; 16] = b"0123456789abcdef";
const MICROS_PER_MILLI: u64 = 1_000;
const SECONDS_PER_DAY: u64 = 86_400;

/// Days of 400 years.
const DAYS_PER_ERA: u64 = 146_097;

/// Days from 0000-03-01 to 1970-01-01.
const DAYS_TO_1970: u64 = 719_468;
